//! The guard of an object in use.

use core::borrow::{Borrow, BorrowMut};
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};

use super::objects::{Node, give_back};
use super::stock::Loss;

/// A guard of an object in use, from an [`ObjectPool`](super::ObjectPool). The object goes back to the pool when the
/// guard is dropped.
///
/// The guard is `Send` or `Sync` if `T` is. It has the size of a pointer. It may outlive the pool; the object is
/// dropped then.
pub struct Pooled<T: Send + 'static> {
    item: ManuallyDrop<Box<Node<T>>>,
}

impl<T: Send + 'static> Pooled<T> {
    #[inline(always)]
    pub(super) fn new(item: Box<Node<T>>) -> Self {
        Self { item: ManuallyDrop::new(item) }
    }

    /// Takes the object out of the pool for good. A bounded pool may create another one in its place.
    ///
    /// This is an associated function, so that it hides no method of `T`.
    ///
    /// ```
    /// # use pymalloc_object_pool::{ObjectPool, Pooled};
    /// let pool = ObjectPool::new(|| vec![1, 2, 3]);
    /// let list: Vec<i32> = Pooled::detach(pool.acquire());
    /// assert_eq!(pool.stats().in_use, 0);
    /// pool.release(list).expect("there is room");
    /// ```
    pub fn detach(this: Self) -> T {
        let mut this = ManuallyDrop::new(this);
        // SAFETY: the guard is neither used again nor dropped.
        let item = unsafe { ManuallyDrop::take(&mut this.item) };
        let Node { core, value } = *item;
        core.stock.lose(Loss::Detached);
        value
    }
}

impl<T: Send + 'static> Drop for Pooled<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the last use of the guard.
        give_back(unsafe { ManuallyDrop::take(&mut self.item) });
    }
}

impl<T: Send + 'static> Deref for Pooled<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.item.value
    }
}

impl<T: Send + 'static> DerefMut for Pooled<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item.value
    }
}

impl<T: Send + 'static> AsRef<T> for Pooled<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: Send + 'static> AsMut<T> for Pooled<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: Send + 'static> Borrow<T> for Pooled<T> {
    fn borrow(&self) -> &T {
        self
    }
}

impl<T: Send + 'static> BorrowMut<T> for Pooled<T> {
    fn borrow_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: Send + fmt::Debug + 'static> fmt::Debug for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Send + fmt::Display + 'static> fmt::Display for Pooled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// The guard has no state of its own beside the object's.
impl<T: Send + UnwindSafe + 'static> UnwindSafe for Pooled<T> {}
impl<T: Send + RefUnwindSafe + 'static> RefUnwindSafe for Pooled<T> {}
