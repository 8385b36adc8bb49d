//! 40 circles of two `Rc`, one of each with a name of 30 bytes: 40 * (32 + 56 + 30) bytes in 120 blocks. 10 circles are
//! kept, 10 are opened and freed.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

struct Parent {
    child: RefCell<Option<Rc<Child>>>,
}

struct Child {
    _name: String,
    parent: RefCell<Option<Rc<Parent>>>,
}

#[inline(never)]
fn circle(number: usize) -> Rc<Parent> {
    let parent = Rc::new(Parent { child: RefCell::new(None) });
    let child = Rc::new(Child { _name: format!("{number:30}"), parent: RefCell::new(Some(Rc::clone(&parent))) });
    *parent.child.borrow_mut() = Some(child);
    parent
}

#[inline(never)]
fn run() -> Vec<Rc<Parent>> {
    for number in 0..40 {
        drop(circle(number));
    }
    for number in 0..10 {
        let parent = circle(number);
        let child = parent.child.borrow_mut().take().expect("it was put there");
        *child.parent.borrow_mut() = None;
    }
    (0..10).map(circle).collect()
}

#[inline(never)]
fn clear_stack() {
    black_box([0_usize; 2048]);
}

fn main() {
    let kept = run();
    clear_stack();
    black_box(&kept);
    // Held when the program exits.
    std::process::exit(0);
}
