//! Who holds it, and what nobody holds any more: a circle of `Rc`, found and named.
//!
//! `cargo run --features graph --example leaks -- [FOLDER]` lets customers and their orders refer to each other by `Rc`,
//! forgets a part of them, and prints what is leaked and by which circle, what holds the rest, and what each function's
//! blocks retain. It writes `heap.heapsnapshot` (for Chrome's DevTools) and `referrers.svg` to the folder, by default the
//! current one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::rc::Rc;

use pymalloc::graph::{self, By, Config};
use pymalloc::trace::{self, Session};

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

thread_local! {
    static SHOP: RefCell<Shop> = RefCell::default();
}

#[derive(Default)]
struct Shop {
    customers: HashMap<u32, Rc<Customer>>,
}

struct Customer {
    name: String,
    orders: RefCell<Vec<Rc<Order>>>,
}

struct Order {
    /// Should be a `Weak`: customer and order keep each other alive.
    customer: Rc<Customer>,
    /// A picture of the goods.
    picture: Vec<u8>,
}

#[inline(never)]
fn new_customer(number: u32) -> Rc<Customer> {
    Rc::new(Customer { name: format!("customer of number {number}"), orders: RefCell::default() })
}

#[inline(never)]
fn order(customer: &Rc<Customer>) {
    let order = Rc::new(Order { customer: Rc::clone(customer), picture: vec![7; 12_000] });
    customer.orders.borrow_mut().push(order);
}

#[inline(never)]
fn serve(shop: &mut Shop) {
    for number in 0..1100 {
        let customer = new_customer(number);
        order(&customer);
        shop.customers.insert(number, customer);
    }
    // These never come back; their memory does not, either.
    for number in 0..1000 {
        shop.customers.remove(&number);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let _session = Session::start(trace::Config::new())?;
    SHOP.with_borrow_mut(serve);

    let graph = graph::take(Config::new())?;
    println!("[ What nothing refers to any more ]\n{}", graph.leaks().top(1));
    println!("[ What the blocks of each function retain ]\n{}", graph.retained(By::Function).top(4));
    let picture = SHOP.with_borrow(|shop| shop.customers[&1050].orders.borrow()[0].picture.as_ptr());
    println!("[ What holds the picture of order 1050 ]\n{}", graph.path_to(picture)?);
    println!("the program stood still for {:?}", graph.pause());

    graph.save_heapsnapshot(folder.join("heap.heapsnapshot"))?;
    std::fs::write(folder.join("referrers.svg"), graph.to_svg(picture, 5)?)?;
    let customer = SHOP.with_borrow(|shop| shop.customers[&1050].orders.borrow()[0].customer.name.clone());
    println!(
        "wrote heap.heapsnapshot and referrers.svg (who refers to an order of {customer}) to {}",
        folder.display()
    );
    Ok(())
}
