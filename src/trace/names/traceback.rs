//! Frames and tracebacks: where an allocation was made, by name.

use core::fmt;
use std::sync::Arc;

/// Stands for a name that is not known.
const UNKNOWN: &str = "<unknown>";

/// Crates that allocate on behalf of their callers.
const LIBRARIES: [&str; 5] = ["alloc", "std", "core", "hashbrown", "pymalloc"];

/// A function call in a traceback: one that the machine made, or one that the compiler inlined.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[doc(alias = "tracemalloc.Frame")]
pub struct Frame {
    pub(in crate::trace) file: Arc<str>,
    pub(in crate::trace) line: u32,
    pub(in crate::trace) function: Arc<str>,
}

impl Frame {
    pub(in crate::trace) fn unknown() -> Self {
        Self { file: UNKNOWN.into(), line: 0, function: UNKNOWN.into() }
    }

    /// The source file; `<unknown>` without debug information.
    ///
    /// The path is relative to the working directory if the file is below it. Paths of the standard library begin with
    /// `library/`.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, from 1; 0 if it is not known.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The function's path, demangled, without its hash; `<unknown>` without symbols.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The crate that the function's path begins with; empty if there is none, as in C.
    ///
    /// ```text
    /// my_crate::cache::insert                      my_crate
    /// <alloc::vec::Vec<T> as my_crate::Grow>::grow  alloc
    /// ```
    pub fn crate_name(&self) -> &str {
        crate_of(&self.function)
    }

    /// Whether it belongs to a crate that allocates on behalf of its callers.
    pub(crate) fn is_library(&self) -> bool {
        LIBRARIES.contains(&self.crate_name()) || self.function.starts_with("__rust")
    }

    /// Whether it belongs to this allocator, or to the compiler's functions that call it.
    pub(in crate::trace) fn is_allocator(&self) -> bool {
        self.crate_name() == "pymalloc" || self.function.starts_with("__rust")
    }
}

/// The crate of a demangled path: the first name before a `::`. In `<Type as Trait>` that is the type's crate; a type
/// of the language itself (`[T]`) has no crate, and then it is the trait's.
fn crate_of(function: &str) -> &str {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    let before = function.match_indices("::").map(|(end, _)| &function[..end]);
    let names = before.map(|before| &before[before.trim_end_matches(is_name).len()..]);
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}

/// As tracemalloc shows a frame: `src/main.rs:12`.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The calls that led to an allocation, innermost first.
///
/// Its `Display` writes one line per frame, as tracemalloc does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "Vec<Frame>", into = "Vec<Frame>"))]
#[doc(alias = "tracemalloc.Traceback")]
pub struct Traceback {
    pub(in crate::trace) frames: Arc<[Frame]>,
}

impl Traceback {
    /// A traceback of these frames; if there are none, of one unknown frame.
    pub(in crate::trace) fn new(mut frames: Vec<Frame>) -> Self {
        if frames.is_empty() {
            frames.push(Frame::unknown());
        }
        Self { frames: frames.into() }
    }

    /// The frames, innermost first; at least one.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The frame that statistics charge: the innermost one outside of the standard library, `hashbrown` and this crate.
    ///
    /// These crates allocate on behalf of their callers. If all frames are theirs, it is the innermost of all.
    pub fn cause(&self) -> &Frame {
        self.frames.iter().find(|frame| !frame.is_library()).unwrap_or(&self.frames[0])
    }
}

#[cfg(feature = "serde")]
impl From<Vec<Frame>> for Traceback {
    /// Without frames, the traceback has an unknown one.
    fn from(frames: Vec<Frame>) -> Self {
        Self::new(frames)
    }
}

#[cfg(feature = "serde")]
impl From<Traceback> for Vec<Frame> {
    fn from(traceback: Traceback) -> Self {
        traceback.frames.to_vec()
    }
}

impl fmt::Display for Traceback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for frame in self.frames.iter() {
            writeln!(f, "  File \"{}\", line {}, in {}", frame.file, frame.line, frame.function)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_of_a_path_is_its_first_name() {
        for (function, name) in [
            ("my_crate::cache::insert", "my_crate"),
            ("<alloc::vec::Vec<T> as my_crate::Grow>::grow", "alloc"),
            ("<T as my_crate::Grow>::grow", "my_crate"),
            ("<[u8] as my_crate::Grow>::grow", "my_crate"),
            ("<&mut my_crate::It as core::iter::Iterator>::next", "my_crate"),
            ("my_crate::main::{{closure}}", "my_crate"),
            ("__libc_start_main", ""),
            ("main", ""),
            ("", ""),
            ("é::x", "é"),
        ] {
            assert_eq!(crate_of(function), name, "{function}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_brings_frames_back_and_never_a_traceback_without_any() {
        let frame = Frame { file: "src/a.rs".into(), line: 7, function: "mine::f".into() };
        let traceback = Traceback::new(vec![frame, Frame::unknown()]);
        let text = serde_json::to_string(&traceback).expect("plain data");
        assert_eq!(serde_json::from_str::<Traceback>(&text).expect("the same data"), traceback);
        assert_eq!(serde_json::from_str::<Traceback>("[]").expect("a list of frames"), Traceback::new(Vec::new()));
    }

    #[test]
    fn the_cause_is_the_innermost_frame_outside_of_the_libraries() {
        let frame = |function: &str| Frame { file: "f".into(), line: 1, function: function.into() };
        let trace = |functions: &[&str]| Traceback::new(functions.iter().map(|function| frame(function)).collect());
        let mixed = trace(&["alloc::raw_vec::grow", "<alloc::vec::Vec<T>>::push", "mine::f", "std::rt::lang_start"]);
        assert_eq!(mixed.cause().function(), "mine::f");
        assert_eq!(trace(&["std::a", "std::b"]).cause().function(), "std::a");
        assert_eq!(trace(&[]).cause().to_string(), "<unknown>:0");
    }
}
