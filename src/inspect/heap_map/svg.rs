//! The picture as SVG: plain shapes, no script, no fonts of its own.

use core::fmt::{self, Write};

use super::colours::{Colour, STEPS, step_of};
use super::layout::{CLASSES_WIDTH, GAP, Grid, HEAD, LEGEND_HEIGHT, MARGIN, TOP};
use super::{HeapMap, PoolUse};
use crate::base::config::{CLASS_COUNT, MEDIUM_CLASS_COUNT, POOL_BYTES};
use crate::base::size_class::{AnyClass, SizeClass};
use crate::inspect::stats::{ClassStats, Stats};

const INK: &str = "#1f2328";
const FAINT: &str = "#6a737d";
/// Pools that hold no blocks.
const EMPTY: &str = "#c9ced4";
const EMPTY_EDGE: &str = "#7d8590";
const UNTOUCHED_EDGE: &str = "#dfe3e8";
/// The colour of runs, each of which is one block of several pools.
const RUN: &str = "#55606e";
/// Colours of a class's bar: cached blocks, free blocks.
const CACHED: &str = "#9aa3ad";
const FREE: &str = "#d0d5da";

/// A number of bytes, rounded and with a unit, for people to read.
pub(super) struct ReadableBytes(pub(super) usize);

impl fmt::Display for ReadableBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut number = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // A number that would be rounded to 1000 or more gets the next unit.
        while number >= 999.5 && unit + 1 < UNITS.len() {
            number /= 1024.0;
            unit += 1;
        }
        let places = usize::from(number < 99.95);
        write!(f, "{number:.places$} {}", UNITS[unit])
    }
}

/// Text for a document: markup characters are escaped, and characters that XML does not allow are left out.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\t' | '\n' | '\r' => f.write_char(' ')?,
                '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {}
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// A share in per cent. It is shown as 0 or 100 only if it is exactly that.
struct Percent(usize, usize);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(part, whole) = *self;
        let share = part as f64 * 100.0 / whole.max(1) as f64;
        match share {
            _ if part == 0 || part == whole => write!(f, "{share:.0} %"),
            0.0..0.5 => f.write_str("&lt; 1 %"),
            99.5..100.0 => f.write_str("&gt; 99 %"),
            _ => write!(f, "{share:.0} %"),
        }
    }
}

/// The title of a map's pictures.
pub(super) fn title_of(map: &HeapMap) -> &str {
    if map.title.is_empty() { "The heap" } else { &map.title }
}

/// Makes the drawing. Writing to a `String` can't fail.
pub(super) fn draw(map: &HeapMap) -> String {
    let mut text = String::new();
    let _ = Drawing { map, grid: Grid::of(map.arenas.len()), out: &mut text }.all();
    text
}

struct Drawing<'a> {
    map: &'a HeapMap,
    grid: Grid,
    out: &'a mut String,
}

impl Drawing<'_> {
    fn all(&mut self) -> fmt::Result {
        let rows = Rows::of(in_use(&self.map.stats).count());
        let body = (HEAD + self.grid.height()).max(rows.top(rows.count) - TOP);
        let (width, height) =
            (self.grid.width() + GAP + CLASSES_WIDTH + 2 * MARGIN, TOP + body + LEGEND_HEIGHT + MARGIN);
        writeln!(
            self.out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" font-family=\"'DejaVu Sans', 'Segoe UI', 'Helvetica Neue', sans-serif\" \
             font-size=\"11\" fill=\"{INK}\">\n<title>{}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>",
            Escaped(title_of(self.map))
        )?;
        self.title()?;
        self.arenas()?;
        self.classes(rows)?;
        self.legend(TOP + body + 18)?;
        self.out.write_str("</svg>\n")
    }

    fn title(&mut self) -> fmt::Result {
        let stats = &self.map.stats;
        let title = title_of(self.map);
        writeln!(
            self.out,
            "<text x=\"{MARGIN}\" y=\"40\" font-size=\"20\" font-weight=\"bold\">{}</text>\n\
             <text x=\"{MARGIN}\" y=\"62\" font-size=\"12.5\" fill=\"{FAINT}\">{} arenas, {} mapped, of which {} in \
             live blocks ({}) and {} without memory</text>",
            Escaped(title),
            stats.arenas_mapped,
            ReadableBytes(stats.bytes.arenas),
            ReadableBytes(stats.bytes.live),
            Percent(stats.bytes.live, stats.bytes.arenas),
            ReadableBytes(stats.bytes.untouched),
        )
    }

    fn head(&mut self, x: usize, text: &str) -> fmt::Result {
        let y = TOP + 8;
        writeln!(self.out, "<text x=\"{x}\" y=\"{y}\" font-size=\"12.5\" font-weight=\"bold\">{text}</text>")
    }

    /// Draws all pools; those that look the same share one path.
    fn arenas(&mut self) -> fmt::Result {
        self.head(MARGIN, "Arenas of 2 MiB and their 64 pools, lowest address first")?;
        let mut in_use: Vec<String> = vec![String::new(); (CLASS_COUNT + MEDIUM_CLASS_COUNT) * (STEPS + 1)];
        let [mut runs, mut empty, mut touched, mut untouched, mut marks] = [const { String::new() }; 5];
        let grid = self.grid;
        for (number, arena) in self.map.arenas.iter().take(grid.arenas).enumerate() {
            // Where several pools make one: the path of the first, which the pools behind it share; none for a run.
            let mut several = None;
            for (index, pool) in arena.pools.iter().enumerate() {
                let (x, y) = grid.pool_at(number, index);
                match (pool.used_for, pool.class()) {
                    (PoolUse::Blocks, Some(class)) => {
                        let path = class.index() * (STEPS + 1) + step_of(pool.fullness());
                        several = Some(path);
                        write!(in_use[path], "M{x},{y}h{}", grid.pool)?;
                        if pool.gave_memory_back() && grid.pool >= 7 {
                            let side = grid.pool / 2;
                            write!(marks, "M{},{y}h{side}v{side}z", x + grid.pool - side)?;
                        }
                    }
                    (PoolUse::Run | PoolUse::Behind, _) => {
                        several = several.filter(|_| pool.used_for == PoolUse::Behind);
                        let path = several.map_or(&mut runs, |path| &mut in_use[path]);
                        write!(path, "M{x},{y}h{}", grid.pool)?;
                    }
                    (PoolUse::Empty, _) => outline(&mut empty, x, y, grid.pool)?,
                    _ if usize::from(pool.bytes_untouched) == POOL_BYTES => outline(&mut untouched, x, y, grid.pool)?,
                    _ => write!(touched, "M{x},{y}h{}", grid.pool)?,
                }
            }
        }
        // Filled pools are strokes along their middles: these take a third of the text that squares would.
        let (stroke, middle) = (grid.pool, grid.pool as f64 / 2.0);
        writeln!(self.out, "<g fill=\"none\" stroke-width=\"{stroke}\" transform=\"translate(0,{middle})\">")?;
        for (number, path) in in_use.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let class = number / (STEPS + 1);
            let colour = Colour::of_class(AnyClass::from_index(class).block_bytes()).at_step(number % (STEPS + 1));
            writeln!(self.out, "<path class=\"pools c{class}\" stroke=\"{colour}\" d=\"{path}\"/>")?;
        }
        for (path, colour) in [(&runs, RUN), (&touched, EMPTY)].into_iter().filter(|(path, _)| !path.is_empty()) {
            writeln!(self.out, "<path class=\"pools\" stroke=\"{colour}\" d=\"{path}\"/>")?;
        }
        self.out.write_str("</g>\n")?;
        for (path, fill, edge) in
            [(&empty, EMPTY, EMPTY_EDGE), (&untouched, "none", UNTOUCHED_EDGE), (&marks, "#ffffff", "none")]
        {
            if !path.is_empty() {
                writeln!(self.out, "<path class=\"pools\" fill=\"{fill}\" stroke=\"{edge}\" d=\"{path}\"/>")?;
            }
        }
        self.arena_labels()
    }

    fn arena_labels(&mut self) -> fmt::Result {
        let grid = self.grid;
        let all = self.map.arenas.len();
        if grid.arenas < all {
            let y = TOP + HEAD + grid.height() + 12;
            let rest = all - grid.arenas;
            return writeln!(self.out, "<text x=\"{MARGIN}\" y=\"{y}\">and {rest} arenas more</text>");
        }
        if !grid.labels {
            return Ok(());
        }
        for (number, arena) in self.map.arenas.iter().enumerate() {
            let live = |pool: &super::PoolMap| usize::from(pool.blocks_live) * usize::from(pool.block_bytes);
            let live = arena.pools.iter().map(live).sum();
            let (x, y) = grid.arena_at(number);
            writeln!(
                self.out,
                "<text x=\"{x}\" y=\"{}\" font-size=\"9\" fill=\"{FAINT}\">{} live</text>",
                y + grid.pitch * 8 + 9,
                Percent(live, arena.pools.len() * POOL_BYTES),
            )?;
        }
        Ok(())
    }

    /// Draws one bar per class. Its length is the number of the class's pools; its parts show what their bytes are used
    /// for.
    fn classes(&mut self, rows: Rows) -> fmt::Result {
        let x = MARGIN + self.grid.width() + GAP;
        self.head(x, "Fragmentation by size class")?;
        let stats = &self.map.stats;
        let longest = in_use(stats).map(|(number, class)| pools_bytes(number, class)).max().unwrap_or(POOL_BYTES);
        let per_byte = BAR_WIDTH / longest as f64;
        let Rows { bar, letters, .. } = rows;
        writeln!(self.out, "<g font-size=\"{letters}\">")?;
        for (row, (number, class)) in in_use(stats).enumerate() {
            let (y, left) = (rows.top(row), x + 46);
            let line = y + bar - 1;
            writeln!(
                self.out,
                "<g class=\"row\" data-class=\"{number}\"><text x=\"{}\" y=\"{line}\" text-anchor=\"end\">{} B</text>",
                left - 8,
                class.block_bytes,
            )?;
            let mut end = left as f64;
            for (bytes, fill) in parts(class) {
                let width = bytes as f64 * per_byte;
                writeln!(
                    self.out,
                    "<rect x=\"{end:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{bar}\" fill=\"{fill}\"/>"
                )?;
                end += width;
            }
            let all = pools_bytes(number, class);
            let width = all as f64 * per_byte;
            writeln!(
                self.out,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{width:.1}\" height=\"{bar}\" fill=\"none\" stroke=\"{FAINT}\" \
                 stroke-width=\"0.5\"/><text x=\"{:.1}\" y=\"{line}\" fill=\"{FAINT}\">{}, {} live</text></g>",
                left as f64 + width + 6.0,
                ReadableBytes(all),
                Percent(class.blocks_live * class.block_bytes, all),
            )?;
        }
        self.out.write_str("</g>\n")
    }

    fn legend(&mut self, top: usize) -> fmt::Result {
        let bottom = top + LEGEND_HEIGHT - 24;
        writeln!(
            self.out,
            "<path d=\"M{MARGIN},{top}h{}\" stroke=\"{UNTOUCHED_EDGE}\"/>",
            self.grid.width() + GAP + CLASSES_WIDTH
        )?;
        self.legend_of_classes(top + 22)?;
        self.legend_of_fullness(top + 22)?;
        self.legend_of_bars(top + 22)?;
        self.legend_of_pools(bottom - 20)
    }

    /// Draws the colours of all classes, from small to large.
    fn legend_of_classes(&mut self, y: usize) -> fmt::Result {
        self.text(MARGIN, y, "Pools in use, by the size of their blocks (bytes):")?;
        for class in SizeClass::all() {
            let (x, colour) = (MARGIN + class.number() * 5, Colour::of_class(class.block_bytes()));
            writeln!(self.out, "<rect x=\"{x}\" y=\"{}\" width=\"5\" height=\"12\" fill=\"{colour}\"/>", y + 8)?;
        }
        for bytes in [8, 64, 128, 256, 384, 512] {
            let x = MARGIN + (bytes / 8 - 1) * 5;
            self.text(x, y + 32, &bytes.to_string())?;
        }
        Ok(())
    }

    fn legend_of_fullness(&mut self, y: usize) -> fmt::Result {
        let x = MARGIN + 372;
        self.text(x, y, "by the share of blocks that are live:")?;
        for step in 0..=STEPS {
            let (x, colour) = (x + step * 15, Colour::of_class(64).at_step(step));
            writeln!(self.out, "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>", y + 8)?;
        }
        self.text(x, y + 32, "none")?;
        self.text(x + STEPS * 15, y + 32, "all")
    }

    fn legend_of_bars(&mut self, y: usize) -> fmt::Result {
        let left = MARGIN + self.grid.width() + GAP;
        self.text(left, y, "Bars: bytes of a class's pools")?;
        let live = Colour::of_class(64).to_string();
        let mut x = left;
        for (fill, text, width) in [
            (live.as_str(), "live", 48),
            (CACHED, "in thread caches", 122),
            (FREE, "free, used before", 126),
            ("#ffffff", "never used", 0),
        ] {
            self.swatch(x, y + 8, fill, FAINT)?;
            self.text(x + 17, y + 18, text)?;
            x += width;
        }
        Ok(())
    }

    /// Draws examples of pools that are not simply in use.
    fn legend_of_pools(&mut self, y: usize) -> fmt::Result {
        let mut x = MARGIN;
        for (fill, edge, text, width) in [
            (EMPTY, EMPTY_EDGE, "empty, kept by a thread", 168),
            (EMPTY, "none", "unused, its memory kept", 170),
            ("none", "#c3c9d0", "unused, without memory", 166),
        ] {
            self.swatch(x, y, fill, edge)?;
            self.text(x + 17, y + 10, text)?;
            x += width;
        }
        self.swatch(x, y, &Colour::of_class(64).at_step(2).to_string(), "none")?;
        writeln!(self.out, "<path d=\"M{},{y}h6v6z\" fill=\"#ffffff\"/>", x + 6)?;
        self.text(x + 17, y + 10, "in use, free parts given back to the OS")?;
        if self.map.stats.runs_live == 0 {
            return Ok(());
        }
        self.swatch(x + 250, y, RUN, "none")?;
        self.text(x + 267, y + 10, "runs, one block each")
    }

    fn swatch(&mut self, x: usize, y: usize, fill: &str, edge: &str) -> fmt::Result {
        writeln!(
            self.out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{fill}\" stroke=\"{edge}\" \
             stroke-width=\"0.8\"/>"
        )
    }

    fn text(&mut self, x: usize, y: usize, text: &str) -> fmt::Result {
        writeln!(self.out, "<text x=\"{x}\" y=\"{y}\">{text}</text>")
    }
}

/// The classes that have pools, with their indices.
fn in_use(stats: &Stats) -> impl Iterator<Item = (usize, &ClassStats)> {
    stats.classes.iter().chain(&stats.medium).enumerate().filter(|(_, class)| class.pools > 0)
}

/// Bytes of the pools of a class.
fn pools_bytes(number: usize, class: &ClassStats) -> usize {
    class.pools * AnyClass::from_index(number).pool_bytes()
}

/// Length of the longest bar.
const BAR_WIDTH: f64 = 230.0;

/// The parts of a bar, in bytes, each with its colour; the rest of the class's bytes was never used.
fn parts(class: &ClassStats) -> impl Iterator<Item = (usize, String)> {
    let block_bytes = class.block_bytes;
    let parts = [
        (class.blocks_live, Colour::of_class(block_bytes).to_string()),
        (class.blocks_cached, CACHED.to_string()),
        (class.blocks_free + class.blocks_remote, FREE.to_string()),
    ];
    parts.into_iter().filter(|(blocks, _)| *blocks > 0).map(move |(blocks, fill)| (blocks * block_bytes, fill))
}

/// The rows of the table of classes: the more rows, the lower each is.
#[derive(Clone, Copy)]
struct Rows {
    count: usize,
    pitch: usize,
    bar: usize,
    letters: usize,
}

impl Rows {
    fn of(count: usize) -> Self {
        let (pitch, bar, letters) = if count <= 40 { (15, 10, 11) } else { (11, 8, 9) };
        Self { count, pitch, bar, letters }
    }

    fn top(self, row: usize) -> usize {
        TOP + HEAD + row * self.pitch
    }
}

/// A square whose edge, one pixel wide, lies inside.
fn outline(path: &mut String, x: usize, y: usize, side: usize) -> fmt::Result {
    let inner = side.saturating_sub(1);
    write!(path, "M{x}.5,{y}.5h{inner}v{inner}h-{inner}z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_units_that_people_read() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (102_400, "100 KiB"),
            (1_048_500, "1.0 MiB"),
            (25 << 20, "25.0 MiB"),
            (3 << 40, "3.0 TiB"),
            (usize::MAX, "16777216 TiB"),
        ] {
            assert_eq!(ReadableBytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn titles_are_no_markup() {
        assert_eq!(Escaped("<b & \"c\">'\0\n\u{1b}ä").to_string(), "&lt;b &amp; &quot;c&quot;&gt;&#39; ä");
    }

    #[test]
    fn shares_are_0_or_100_only_if_they_are() {
        for ((part, whole), text) in [
            ((0, 0), "0 %"),
            ((0, 9), "0 %"),
            ((9, 9), "100 %"),
            ((1, 2), "50 %"),
            ((1, 1000), "&lt; 1 %"),
            ((999, 1000), "&gt; 99 %"),
        ] {
            assert_eq!(Percent(part, whole).to_string(), text);
        }
    }
}
