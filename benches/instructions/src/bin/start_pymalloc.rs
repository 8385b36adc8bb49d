//! A program that only starts, asks for one small block and ends: with `Pymalloc`.

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

fn main() {
    drop(std::hint::black_box(Box::new(1_u64)));
}
