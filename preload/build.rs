//! Links the library so that `dlclose` never unloads it: its blocks, functions and thread-end handler stay in use.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
