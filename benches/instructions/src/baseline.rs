//! The baseline: the committed counts, and the verdict on a new count.

use crate::callgrind::Count;
use instructions::Row;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The change in per cent that another compiler may cause in an exact row.
const OTHER_COMPILER_PERCENT: u64 = 5;

/// The counts, and what they depend on besides the source.
#[derive(Debug, PartialEq, Eq)]
pub struct Baseline {
    /// The compiler that built the programs, by its own version text.
    pub compiler: String,
    /// The target that it built them for.
    pub target: String,
    /// The count of each row.
    pub counts: BTreeMap<String, Count>,
}

/// The verdict on a count, compared with the baseline's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the tolerance.
    Same,
    /// Too many instructions.
    More,
    /// Too few: an improvement. The baseline must be renewed, or it would hide the next loss.
    Fewer,
    /// The program did other work than the baseline's.
    OtherWork,
    /// The baseline does not have the row.
    New,
}

impl Baseline {
    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# Instructions of each row, the loop around it included. Renew: see benches/README.md.\n\
             # row operations instructions, and instructions per operation for human readers\n",
        );
        writeln!(text, "compiler {}\ntarget {}", self.compiler, self.target).expect("a string grows");
        for (name, count) in &self.counts {
            let each = count.instructions as f64 / count.operations as f64;
            writeln!(text, "row {name} {} {} {each:.2}", count.operations, count.instructions).expect("a string grows");
        }
        text
    }

    /// Reads the text of the file; the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut compiler, mut target, mut counts) = (None, None, BTreeMap::new());
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (key, rest.split_whitespace().collect::<Vec<_>>().as_slice()) {
                ("compiler", _) => compiler = Some(rest.to_owned()),
                ("target", _) => target = Some(rest.to_owned()),
                ("row", [name, operations, instructions, _]) => {
                    let number = |word: &str| word.parse().ok().filter(|&number: &u64| number != 0);
                    let count = number(operations).zip(number(instructions));
                    let (operations, instructions) = count.ok_or_else(|| format!("not a count: {line:?}"))?;
                    counts.insert((*name).to_owned(), Count { instructions, operations });
                }
                _ => return Err(format!("not a line of a baseline: {line:?}")),
            }
        }
        let (Some(compiler), Some(target)) = (compiler, target) else {
            return Err("it names no compiler or no target".to_owned());
        };
        Ok(Self { compiler, target, counts })
    }

    /// Judges the count of a program that `compiler` built.
    pub fn judge(&self, row: &Row, count: Count, compiler: &str) -> Verdict {
        let Some(expected) = self.counts.get(row.name) else { return Verdict::New };
        if count.operations != expected.operations {
            return Verdict::OtherWork;
        }
        let percent = if compiler == self.compiler {
            row.tolerance_percent
        } else {
            row.tolerance_percent.max(OTHER_COMPILER_PERCENT)
        };
        let allowed = expected.instructions * percent / 100;
        if count.instructions > expected.instructions + allowed {
            Verdict::More
        } else if count.instructions < expected.instructions - allowed {
            Verdict::Fewer
        } else {
            Verdict::Same
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Baseline, Verdict};
    use crate::callgrind::Count;
    use instructions::Row;

    fn count(instructions: u64) -> Count {
        Count { instructions, operations: 10 }
    }

    fn baseline() -> Baseline {
        let counts = [("exact".to_owned(), count(1_000)), ("loose".to_owned(), count(1_000))].into();
        Baseline { compiler: "rustc 1.0.0 (x)".to_owned(), target: "here".to_owned(), counts }
    }

    fn row(name: &'static str, tolerance_percent: u64) -> Row {
        Row { name, tolerance_percent, about: "" }
    }

    #[test]
    fn an_exact_row_fails_by_one_instruction_either_way() {
        let judge = |instructions| baseline().judge(&row("exact", 0), count(instructions), "rustc 1.0.0 (x)");
        assert_eq!([999, 1_000, 1_001].map(judge), [Verdict::Fewer, Verdict::Same, Verdict::More]);
    }

    #[test]
    fn a_loose_row_fails_beyond_its_tolerance() {
        let judge = |instructions| baseline().judge(&row("loose", 3), count(instructions), "rustc 1.0.0 (x)");
        assert_eq!([969, 970, 1_030].map(judge), [Verdict::Fewer, Verdict::Same, Verdict::Same]);
        assert_eq!(judge(1_031), Verdict::More);
    }

    #[test]
    fn another_compiler_makes_an_exact_row_a_loose_one_but_not_a_free_one() {
        let judge = |instructions| baseline().judge(&row("exact", 0), count(instructions), "rustc 1.0.1 (y)");
        assert_eq!([949, 950, 1_050].map(judge), [Verdict::Fewer, Verdict::Same, Verdict::Same]);
        assert_eq!(judge(1_051), Verdict::More);
    }

    #[test]
    fn other_work_and_unknown_rows_are_told_apart() {
        let other = Count { instructions: 1_000, operations: 11 };
        assert_eq!(baseline().judge(&row("exact", 0), other, "x"), Verdict::OtherWork);
        assert_eq!(baseline().judge(&row("unheard", 0), count(1), "x"), Verdict::New);
    }

    #[test]
    fn a_baseline_reads_back_as_it_was_written_and_nonsense_is_refused() {
        assert_eq!(Baseline::parse(&baseline().to_text()), Ok(baseline()));
        for text in
            ["", "compiler c\n", "compiler c\ntarget t\nrow a 1\n", "compiler c\ntarget t\nrow a 0 1 0\n", "x\n"]
        {
            assert!(Baseline::parse(text).is_err(), "{text:?}");
        }
    }
}
