//! The feature `object-pool`, which exports object pools under the allocator's name. Their own tests are in
//! `object-pool/`.

use pymalloc::Pymalloc;
use pymalloc::object_pool::{LocalPool, ObjectPool, PoolConfigError, Pooled};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

#[test]
fn pools_are_there_by_the_allocators_name() -> Result<(), PoolConfigError> {
    let pool = ObjectPool::builder(String::new).reset(String::clear).max_total(1).build()?;
    let mut text: Pooled<String> = pool.acquire();
    text.push_str("some text");
    drop(text);
    assert_eq!(*pool.acquire(), "");
    assert_eq!(*LocalPool::new(|| 7).acquire(), 7);
    Ok(())
}
