//! A recording as an HTML page that needs no other file. It holds the data, a script, and the plotting library uPlot
//! (under the MIT licence, whose text is in `page/uPlot.LICENSE` and in each page).

use core::fmt::{self, Write};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::recording::Recording;
use crate::trace::names::traceback::Frame;
use crate::trace::record::state::Busy;
use crate::trace::write::collapsed::from_start;

const STYLE: &str = include_str!("page/page.css");
const DATA: &str = include_str!("page/data.js");
const FLAMES: &str = include_str!("page/flames.js");
const SCRIPT: &str = include_str!("page/page.js");
const BODY: &str = include_str!("page/body.html");
const PLOT_STYLE: &str = include_str!("page/uPlot.min.css");
const PLOT: &str = include_str!("page/uPlot.min.js");
const PLOT_LICENCE: &str = include_str!("page/uPlot.LICENSE");

/// The most samples in a page: more than a screen has columns.
const SAMPLES_MAX: usize = 1500;

/// A sum of changes, by stack and birth.
type Merged = HashMap<(usize, i64), (i64, i64)>;

impl Recording {
    /// The recording as an HTML page for a browser, which needs no other file.
    ///
    /// The page shows areas over time, by function, line or crate, and lines for the bytes that are live, resident and
    /// in arenas. A click shows a flame graph of that moment; a range shows what was allocated in it and not freed by
    /// its end. A recording of more than 1500 samples is thinned out; its peak stays.
    pub fn to_page(&self) -> String {
        let _busy = Busy::enter();
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = self.write_page(&mut page);
        page
    }

    /// Writes [`to_page`](Self::to_page) to a file.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save_page(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let _busy = Busy::enter();
        std::fs::write(path, self.to_page())
    }

    fn write_page(&self, out: &mut String) -> fmt::Result {
        let program = Path::new(self.program()).file_name().unwrap_or_default().to_string_lossy();
        let title = Escaped(&program);
        writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">")?;
        writeln!(out, "<meta name=\"viewport\" content=\"width=device-width\">")?;
        writeln!(out, "<title>Memory over time: {title}</title>")?;
        writeln!(out, "<style>\n{PLOT_STYLE}\n{STYLE}</style>\n{BODY}")?;
        writeln!(out, "<script>\n/*\n{PLOT_LICENCE}\n*/\n{PLOT}</script>")?;
        out.write_str("<script>\n\"use strict\";\nconst recorded = ")?;
        self.write_data(out)?;
        writeln!(out, ";\n{DATA}{FLAMES}{SCRIPT}</script>\n</html>")
    }

    fn write_data(&self, out: &mut String) -> fmt::Result {
        let started = self.started_at().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let every = self.sampled_every().unwrap_or(0);
        write!(
            out,
            "{{\"process\":{},\"started\":{started},\"sampledEvery\":{every},\"isCut\":{},\"lost\":{},\"program\":",
            self.process(),
            self.is_cut(),
            self.lost_blocks()
        )?;
        Json(self.program()).write(out)?;
        let mut names = Names::default();
        out.write_str(",\n\"stacks\":[")?;
        for number in 0..self.stacks.len() {
            out.write_str(if number == 0 { "" } else { ",\n" })?;
            self.write_stack(number, &mut names, out)?;
        }
        out.write_str("],\n\"frames\":[")?;
        for (number, [function, place, package]) in names.frames.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(out, "{comma}[{function},{place},{package}]")?;
        }
        out.write_str("],\n\"names\":[")?;
        for (number, name) in names.texts.iter().enumerate() {
            out.write_str(if number == 0 { "" } else { ",\n" })?;
            Json(name).write(out)?;
        }
        out.write_str("],\n\"samples\":[")?;
        self.write_samples(out)?;
        out.write_str("]}")
    }

    /// Writes the frame that a stack is charged to, then its frames, outermost first.
    fn write_stack(&self, number: usize, names: &mut Names, out: &mut String) -> fmt::Result {
        let traceback = self.traceback(number);
        write!(out, "[{}", names.frame(traceback.cause()))?;
        for frame in from_start(traceback.frames()) {
            write!(out, ",{}", names.frame(frame))?;
        }
        out.write_str("]")
    }

    /// The samples that go into the page: all of them, or some; always the peak and the last.
    fn kept(&self) -> Vec<usize> {
        let (count, peak) = (self.moments.len(), self.peak_index());
        let step = count.div_ceil(SAMPLES_MAX).max(1);
        (0..count).filter(|&index| index % step == 0 || index == peak || index + 1 == count).collect()
    }

    /// Writes for each sample: milliseconds, live, most, resident, arenas, whether at a peak; then for each change: its
    /// stack, birth (-1: before the first), bytes and blocks.
    fn write_samples(&self, out: &mut String) -> fmt::Result {
        let kept = self.kept();
        let mut first = 0;
        for (number, &last) in kept.iter().enumerate() {
            let mut merged = Merged::new();
            for change in self.changes[first..=last].iter().flatten() {
                let birth = change.birth.map_or(-1, |birth| kept.partition_point(|&index| index < birth) as i64);
                let sum = merged.entry((change.stack, birth)).or_default();
                *sum = (sum.0.wrapping_add(change.bytes), sum.1.wrapping_add(change.blocks));
            }
            let moment = &self.moments[last];
            let most = self.moments[first..=last].iter().map(|moment| moment.bytes_peak).max().unwrap_or(0);
            let (live, resident, arenas) = (moment.bytes_live, moment.bytes_resident, moment.bytes_arenas);
            out.write_str(if number == 0 { "" } else { ",\n" })?;
            let at_peak = u8::from(moment.at_peak);
            write!(out, "[{:.1},{live},{most},{resident},{arenas},{at_peak}", moment.time.as_secs_f64() * 1e3)?;
            let mut changes: Vec<_> = merged.into_iter().filter(|(_, sum)| *sum != (0, 0)).collect();
            changes.sort_unstable();
            for ((stack, birth), (bytes, blocks)) in changes {
                write!(out, ",{stack},{birth},{bytes},{blocks}")?;
            }
            out.write_str("]")?;
            first = last + 1;
        }
        Ok(())
    }
}

/// Texts and frames, each numbered once.
#[derive(Default)]
struct Names {
    texts: Vec<String>,
    text_numbers: HashMap<String, usize>,
    /// Function, file with line, crate.
    frames: Vec<[usize; 3]>,
    frame_numbers: HashMap<Frame, usize>,
}

impl Names {
    fn text(&mut self, text: &str) -> usize {
        if let Some(&number) = self.text_numbers.get(text) {
            return number;
        }
        self.texts.push(text.to_owned());
        self.text_numbers.insert(text.to_owned(), self.texts.len() - 1);
        self.texts.len() - 1
    }

    fn frame(&mut self, frame: &Frame) -> usize {
        if let Some(&number) = self.frame_numbers.get(frame) {
            return number;
        }
        let package = if frame.crate_name().is_empty() { "<no crate>" } else { frame.crate_name() };
        let words = [self.text(frame.function()), self.text(&frame.to_string()), self.text(package)];
        self.frames.push(words);
        self.frame_numbers.insert(frame.clone(), self.frames.len() - 1);
        self.frames.len() - 1
    }
}

/// A text in a page.
struct Escaped<'text>(&'text str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            _ => f.write_char(character),
        })
    }
}

/// A text in a script's data: nothing in it ends the script.
struct Json<'text>(&'text str);

impl Json<'_> {
    fn write(&self, out: &mut String) -> fmt::Result {
        out.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(out, "\\{character}")?,
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' | '\u{7f}' => {
                    write!(out, "\\u{:04x}", character as u32)?;
                }
                _ => out.write_char(character)?,
            }
        }
        out.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_the_script_or_the_text() {
        let mut out = String::new();
        Json("</script><!-- \"\\\n\u{2028}é").write(&mut out).expect("a string");
        assert_eq!(out, r#""\u003c/script\u003e\u003c!-- \"\\\u000a\u2028é""#);
        assert_eq!(Escaped("<b>&").to_string(), "&lt;b&gt;&amp;");
    }
}
