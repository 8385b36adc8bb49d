//! A program that only starts, asks for one small block and ends: with `System`.

fn main() {
    drop(std::hint::black_box(Box::new(1_u64)));
}
