//! The allocator of this build: exactly one `alloc-*` feature.

macro_rules! global_allocators {
    ($($feature:literal => $kind:ty = $value:expr;)*) => {
        $(
            #[cfg(feature = $feature)]
            #[global_allocator]
            static GLOBAL: $kind = $value;
        )*

        // Without a feature the program would silently measure the default allocator; with two,
        // the second `static` above does not compile.
        #[cfg(not(any($(feature = $feature),*)))]
        compile_error!("choose an allocator: exactly one alloc-* feature");
    };
}

global_allocators! {
    "alloc-system" => std::alloc::System = std::alloc::System;
    "alloc-counting" => crate::counting::Counting = crate::counting::Counting;
    "alloc-pymalloc" => pymalloc::Pymalloc = pymalloc::Pymalloc::new();
    "alloc-pymalloc-medium" => pymalloc::Pymalloc<pymalloc::Medium> =
        pymalloc::Pymalloc::with_large(pymalloc::Medium::new());
    "alloc-pymalloc-hardened" => pymalloc::Pymalloc = pymalloc::Pymalloc::new();
    "alloc-pymalloc-mimalloc" => pymalloc::Pymalloc<mimalloc::MiMalloc> =
        pymalloc::Pymalloc::with_large(mimalloc::MiMalloc);
    "alloc-mimalloc3" => mimalloc::MiMalloc = mimalloc::MiMalloc;
    "alloc-mimalloc2" => mimalloc::MiMalloc = mimalloc::MiMalloc;
    "alloc-jemalloc" => tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
    "alloc-snmalloc" => snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;
    "alloc-rpmalloc" => rpmalloc::RpMalloc = rpmalloc::RpMalloc;
    "alloc-tcmalloc" => tcmalloc_better::TCMalloc = tcmalloc_better::TCMalloc;
    "alloc-rusty-alloc" => rusty_alloc_api::RustyAlloc = rusty_alloc_api::RustyAlloc;
    "alloc-stoolap" => stoolap_jemalloc::Jemalloc = stoolap_jemalloc::Jemalloc::new();
    "alloc-mnemosyne" => mnemosyne::Mnemosyne = mnemosyne::Mnemosyne;
}
