//! The smallest program with this allocator.

use std::collections::{BTreeMap, HashMap};

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

fn main() {
    let names: Vec<String> = (0..1000).map(|number| format!("name {number}")).collect();
    let lengths: HashMap<&str, usize> = names.iter().map(|name| (name.as_str(), name.len())).collect();
    let by_length: BTreeMap<usize, Vec<&str>> = names.iter().fold(BTreeMap::new(), |mut found, name| {
        found.entry(lengths[name.as_str()]).or_insert_with(Vec::new).push(name);
        found
    });
    for (length, names) in &by_length {
        println!("{} names have {length} bytes", names.len());
    }
    println!("{}", pymalloc::stats());
}
