//! [`Filter`]: which traces of a snapshot to look at.

use glob::Pattern;

use crate::trace::names::traceback::{Frame, Traceback};

/// Keeps, or drops, the traces of a snapshot that match a pattern.
///
/// Patterns are shell globs: `*` matches any text (also `/` and `::`), `?` one character, `[ab]` one character of a set
/// and `[!ab]` one outside of it. As a rule a pattern is matched with the frame that statistics charge
/// ([`Traceback::cause`]); with [`all_frames`](Self::all_frames), with every frame.
///
/// ```
/// use pymalloc::trace::Filter;
///
/// let own = Filter::include().file("src/*")?;
/// let no_tests = Filter::exclude().function("*::tests::*")?.all_frames();
/// # let _ = (own, no_tests);
/// # Ok::<(), pymalloc::trace::PatternError>(())
/// ```
#[doc(alias = "tracemalloc.Filter")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Filter {
    includes: bool,
    file: Option<Pattern>,
    line: Option<u32>,
    function: Option<Pattern>,
    crate_name: Option<Pattern>,
    all_frames: bool,
}

impl Filter {
    /// A filter that keeps the traces that match.
    pub const fn include() -> Self {
        Self::matching_all(true)
    }

    /// A filter that drops the traces that match.
    pub const fn exclude() -> Self {
        Self::matching_all(false)
    }

    const fn matching_all(includes: bool) -> Self {
        Self { includes, file: None, line: None, function: None, crate_name: None, all_frames: false }
    }

    /// Matches frames in these source files.
    ///
    /// # Errors
    /// If the pattern is malformed.
    pub fn file(mut self, pattern: &str) -> Result<Self, PatternError> {
        self.file = Some(Pattern::new(pattern).map_err(PatternError)?);
        Ok(self)
    }

    /// Matches frames on this line of their file.
    pub const fn line(mut self, line: u32) -> Self {
        self.line = Some(line);
        self
    }

    /// Matches frames of these functions, by their path.
    ///
    /// # Errors
    /// If the pattern is malformed.
    pub fn function(mut self, pattern: &str) -> Result<Self, PatternError> {
        self.function = Some(Pattern::new(pattern).map_err(PatternError)?);
        Ok(self)
    }

    /// Matches frames of these crates ([`Frame::crate_name`]).
    ///
    /// # Errors
    /// If the pattern is malformed.
    pub fn crate_name(mut self, pattern: &str) -> Result<Self, PatternError> {
        self.crate_name = Some(Pattern::new(pattern).map_err(PatternError)?);
        Ok(self)
    }

    /// Matches a trace if any of its frames matches.
    pub const fn all_frames(mut self) -> Self {
        self.all_frames = true;
        self
    }

    fn matches(&self, traceback: &Traceback) -> bool {
        if self.all_frames {
            traceback.frames().iter().any(|frame| self.matches_frame(frame))
        } else {
            self.matches_frame(traceback.cause())
        }
    }

    fn matches_frame(&self, frame: &Frame) -> bool {
        let matches = |pattern: &Option<Pattern>, text| pattern.as_ref().is_none_or(|pattern| pattern.matches(text));
        matches(&self.file, frame.file())
            && matches(&self.function, frame.function())
            && matches(&self.crate_name, frame.crate_name())
            && self.line.is_none_or(|line| line == frame.line())
    }
}

/// Whether a trace passes all filters.
pub(in crate::trace) fn passes(filters: &[Filter], traceback: &Traceback) -> bool {
    let mut including = filters.iter().filter(|filter| filter.includes).peekable();
    let is_included = including.peek().is_none() || including.any(|filter| filter.matches(traceback));
    is_included && !filters.iter().any(|filter| !filter.includes && filter.matches(traceback))
}

/// A pattern is malformed: the message says how, and where.
#[derive(Debug)]
pub struct PatternError(glob::PatternError);

impl core::fmt::Display for PatternError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl core::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(frames: &[(&str, u32, &str)]) -> Traceback {
        let frame =
            |&(file, line, function): &(&str, u32, &str)| Frame { file: file.into(), line, function: function.into() };
        Traceback::new(frames.iter().map(frame).collect())
    }

    // The cases of `TestFilters` in CPython's test_tracemalloc.py.
    #[test]
    fn a_filter_matches_file_line_function_and_crate() {
        let traceback = trace(&[("src/a.rs", 2, "one::f"), ("src/b.rs", 4, "two::g")]);
        let both = |filter: Filter| (filter.matches(&traceback), filter.all_frames().matches(&traceback));
        let include = Filter::include;
        assert_eq!(both(include().file("src/a.rs").expect("good")), (true, true));
        assert_eq!(both(include().file("src/b.rs").expect("good")), (false, true));
        assert_eq!(both(include().file("*.rs").expect("good")), (true, true));
        assert_eq!(both(include().file("src/[!a].rs").expect("good")), (false, true));
        assert_eq!(both(include().file("?.rs").expect("good")), (false, false));
        assert_eq!(both(include().file("src/a.rs").expect("good").line(2)), (true, true));
        assert_eq!(both(include().file("src/a.rs").expect("good").line(4)), (false, false));
        assert_eq!(both(include().function("*::g").expect("good")), (false, true));
        assert_eq!(both(include().crate_name("one").expect("good")), (true, true));
        assert_eq!(both(include().crate_name("on").expect("good")), (false, false));
    }

    #[test]
    fn one_including_filter_must_match_and_no_excluding_one_may() {
        let traceback = trace(&[("src/a.rs", 2, "one::f"), ("src/b.rs", 4, "two::g")]);
        let include = |file| Filter::include().file(file).expect("good");
        let exclude = |file| Filter::exclude().file(file).expect("good");
        assert!(passes(&[], &traceback));
        assert!(passes(&[include("src/a.rs"), include("src/c.rs")], &traceback));
        assert!(!passes(&[include("src/c.rs")], &traceback));
        assert!(!passes(&[include("src/a.rs"), exclude("src/a.*")], &traceback));
        assert!(passes(&[exclude("src/b.rs")], &traceback));
        assert!(!passes(&[exclude("src/b.rs").all_frames()], &traceback));
        // An unknown trace is matched by its name.
        assert!(!passes(&[exclude("<unknown>")], &trace(&[])));
    }

    #[test]
    fn a_pattern_that_is_none_is_refused_with_its_place() {
        let error = Filter::include().file("src/[a").expect_err("no closing bracket");
        assert!(error.to_string().contains("position 4"), "{error}");
        assert!(Filter::include().function("***").is_err());
    }
}
