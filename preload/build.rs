//! Links the library so that `dlclose` never unloads it: its memory, its functions and its thread-end handler outlive
//! all.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
