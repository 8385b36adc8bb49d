//! A traced program loads and unloads libraries: their frames get the right names.
#![cfg(all(feature = "trace", target_os = "linux", target_env = "gnu"))]

mod common;

use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use pymalloc::Pymalloc;
use pymalloc::trace::{self, Config};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// A loaded library with one function that calls another.
struct Library(*mut c_void);

impl Library {
    fn open(name: &CStr) -> Self {
        // SAFETY: a C string; the library has no constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "{name:?}");
        Self(handle)
    }

    fn function(&self) -> extern "C" fn(extern "C" fn()) {
        // SAFETY: the function is of this type.
        unsafe {
            let function = libc::dlsym(self.0, c"through".as_ptr());
            assert!(!function.is_null());
            std::mem::transmute(function)
        }
    }

    fn close(self) {
        // SAFETY: opened once.
        assert_eq!(unsafe { libc::dlclose(self.0) }, 0);
    }
}

thread_local! {
    // Boxes: each is an allocation of its own.
    #[expect(clippy::vec_box, reason = "the allocations are what is tested")]
    static KEPT: std::cell::RefCell<Vec<Box<[u8; 72]>>> = const { std::cell::RefCell::new(Vec::new()) };
}

extern "C" fn allocate() {
    KEPT.with_borrow_mut(|kept| kept.push(black_box(Box::new([1; 72]))));
}

fn functions_of_last() -> Vec<String> {
    KEPT.with_borrow(|kept| {
        let block: &[u8; 72] = kept.last().expect("a block");
        let traceback = trace::traceback_of(std::ptr::from_ref(block)).expect("traced");
        traceback.frames().iter().map(|frame| frame.function().to_owned()).collect()
    })
}

/// These libraries differ only in the name of the function inside.
fn compile(folder: &Path, name: &str) -> Option<CString> {
    let source = folder.join(format!("{name}.c"));
    let text = format!(
        "__attribute__((noinline)) static void {name}(void (*f)(void)) {{ f(); __asm__ volatile(\"\"); }}\n\
         void through(void (*f)(void)) {{ {name}(f); __asm__ volatile(\"\"); }}\n"
    );
    fs::write(&source, text).expect("ours");
    let library = folder.join(format!("{name}.so"));
    let compiled = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    match compiled {
        Ok(status) => assert!(status.success()),
        Err(_) => {
            eprintln!("SKIPPED: there is no compiler `cc` on this machine");
            return None;
        }
    }
    Some(CString::new(library.to_str().expect("UTF-8")).expect("no null byte"))
}

#[test]
fn names_are_those_of_the_library_that_was_there_when_the_block_was_allocated() {
    let folder = std::env::temp_dir().join(format!("pymalloc-libraries-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let Some(first) = compile(&folder, "inside_one") else { return };
    let second = compile(&folder, "inside_two").expect("compiled the first");
    trace::start(Config::new()).expect("starts");
    // Names are looked up before either library is loaded.
    allocate();
    assert!(functions_of_last().iter().any(|name| name.ends_with("::allocate")));

    let expect = |name: &str, other: &str| {
        let functions = functions_of_last();
        assert!(functions.iter().any(|function| function == name), "{functions:?}");
        assert!(functions.iter().all(|function| function != other), "{functions:?}");
        // The walk up the stack went through the library and on to its caller.
        assert!(functions.iter().any(|function| function.contains("names_are_those_of")), "{functions:?}");
    };
    let library = Library::open(&first);
    let place = library.function() as usize;
    library.function()(allocate);
    // These names are looked up only after the library is gone.
    library.close();
    let library = Library::open(&second);
    if library.function() as usize != place {
        eprintln!("SKIPPED: the second library did not come to lie where the first was");
    }
    expect("inside_one", "inside_two");
    library.function()(allocate);
    expect("inside_two", "inside_one");
    library.close();
    expect("inside_two", "inside_one");
    let snapshot = trace::take_snapshot().expect("tracing");
    let text = snapshot.to_collapsed();
    assert!(text.contains("inside_one") && text.contains("inside_two"), "{text}");
    assert_eq!(trace::Snapshot::from_pprof(&snapshot.to_pprof()).expect("as it was saved"), snapshot);
    trace::stop();
    fs::remove_dir_all(&folder).expect("ours");
}
