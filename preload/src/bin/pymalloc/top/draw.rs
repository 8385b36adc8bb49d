//! The screen: the table of functions, and the picture of the heap.

use pymalloc_core::trace::{By, Look};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::Paragraph;

use super::{Page, Row, Shown, Sort};

/// Pools in a row of an arena's square.
const ACROSS: usize = 8;
/// Pools in an arena.
const POOLS: usize = 64;
/// Lines of text in a square: each line shows two rows.
const LINES: usize = POOLS / ACROSS / 2;

pub(super) const HEADINGS: &str = "       own        total      blocks  function";

/// Bytes in a unit that leaves at most four digits.
fn bytes(bytes: usize) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 9999.5 {
            return if size < 99.5 && unit != "B" { format!("{size:.1} {unit}") } else { format!("{size:.0} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} TiB")
}

pub(super) fn row(row: &Row) -> String {
    let (own, total) = (bytes(row.own_bytes), bytes(row.total_bytes));
    format!("{own:>10} {total:>12} {:>11}  {}", row.own_blocks, row.name)
}

pub(super) fn totals(look: &Look) -> String {
    let mut text = format!(
        "live {}, at most {}; resident {}, arenas {}",
        bytes(look.bytes_live),
        bytes(look.bytes_peak),
        bytes(look.bytes_resident),
        bytes(look.bytes_arenas)
    );
    if let Some(every) = look.sampled_every {
        text.push_str(&format!("; estimates: one block sampled every {}", bytes(every)));
    }
    if !look.is_tracing {
        text.push_str("; the program is not traced");
    }
    text
}

pub(super) fn draw(frame: &mut Frame<'_>, shown: &mut Shown) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let state = if shown.is_paused { " (paused)" } else { "" };
    let title = Line::from(vec![shown.program.clone().bold(), state.into()]);
    frame.render_widget(Text::from(vec![title, Line::from(totals(&shown.look))]), head);
    let keys = match shown.page {
        Page::Table => {
            let other = if matches!(shown.by, By::Function) { "lines" } else { "functions" };
            format!("q quit  o/t/b/n sort by own, total, blocks, name  l {other}  ↑↓ scroll  p pause  2 heap")
        }
        Page::Heap => "q quit  ↑↓ scroll  p pause  1 functions".to_owned(),
    };
    frame.render_widget(Line::from(keys).style(Style::new().add_modifier(Modifier::REVERSED)), foot);
    match shown.page {
        Page::Table => draw_table(frame, body, shown),
        Page::Heap => draw_heap(frame, body, shown),
    }
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, shown: &mut Shown) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let heading = |text: &'static str, sort: Sort| {
        let style = if shown.sort == sort { Style::new().bold().underlined() } else { Style::new().dim() };
        Span::styled(text, style)
    };
    let name = if matches!(shown.by, By::Function) { "function" } else { "line" };
    let headings = vec![
        Span::raw("       "),
        heading("own", Sort::Own),
        Span::raw("        "),
        heading("total", Sort::Total),
        Span::raw("      "),
        heading("blocks", Sort::Blocks),
        Span::raw("  "),
        heading(name, Sort::Name),
    ];
    frame.render_widget(Line::from(headings), head);
    shown.scrolled = shown.scrolled.min(shown.rows.len().saturating_sub(1));
    let rows = shown.rows.iter().skip(shown.scrolled).take(usize::from(body.height));
    frame.render_widget(Text::from_iter(rows.map(|line| Line::from(row(line)))), body);
}

fn draw_heap(frame: &mut Frame<'_>, area: Rect, shown: &mut Shown) {
    let (text, pools) = &shown.heap;
    let arenas = pools.len() / POOLS;
    // An empty column, and an empty line, between two arenas.
    let columns = (usize::from(area.width) / (ACROSS + 1)).max(1);
    let wanted = arenas.div_ceil(columns) * (LINES + 1);
    let height = wanted.min(usize::from(area.height) / 2) as u16;
    let [picture, table] = Layout::vertical([Constraint::Length(height), Constraint::Fill(1)]).areas(area);
    for (number, arena) in pools.chunks(POOLS).enumerate() {
        let (left, top) = (number % columns * (ACROSS + 1), number / columns * (LINES + 1));
        if top + LINES > usize::from(picture.height) {
            break;
        }
        let place = Rect::new(
            picture.x + left as u16,
            picture.y + top as u16,
            (ACROSS as u16).min(picture.width.saturating_sub(left as u16)),
            LINES as u16,
        );
        frame.render_widget(Text::from_iter((0..LINES).map(|line| line_of(arena, line))), place);
    }
    let lines = text.lines().count();
    shown.scrolled = shown.scrolled.min(lines.saturating_sub(1));
    let shown_from = Paragraph::new(text.as_str()).scroll((shown.scrolled as u16, 0));
    frame.render_widget(shown_from, table);
}

/// Two rows of pools as a line of characters: a character's upper half has the colour of one pool, its lower half the
/// colour of the pool below.
fn line_of(arena: &[[u8; 2]], line: usize) -> Line<'static> {
    let pool = |row: usize, column: usize| colour(arena.get(row * ACROSS + column).copied().unwrap_or_default());
    let half =
        |column: usize| Span::styled("▀", Style::new().fg(pool(2 * line, column)).bg(pool(2 * line + 1, column)));
    Line::from_iter((0..ACROSS).map(half))
}

/// A colour for each class; the more of the pool's blocks are live, the stronger it is.
fn colour([class, live]: [u8; 2]) -> Color {
    match class {
        0 => Color::Rgb(40, 40, 44),
        u8::MAX => Color::Rgb(70, 70, 76),
        _ => {
            // Multiples of the golden ratio: neighbouring classes get different hues.
            let hue = f64::from(class) * 0.618_033_988 % 1.0 * 6.0;
            let strength = 0.25 + 0.75 * f64::from(live) / 255.0;
            let part = |shift: f64| {
                let distance = ((hue + shift) % 6.0 - 3.0).abs() - 1.0;
                ((0.25 + 0.75 * distance.clamp(0.0, 1.0)) * strength * 235.0) as u8
            };
            Color::Rgb(part(0.0), part(4.0), part(2.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit_that_leaves_four_digits() {
        for (number, text) in
            [(0, "0 B"), (9999, "9999 B"), (10_240, "10.0 KiB"), (5 << 20, "5120 KiB"), (50 << 20, "50.0 MiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn pools_of_different_classes_or_fullness_look_different() {
        let colours = [[0, 0], [255, 0], [1, 255], [2, 255], [1, 30]].map(colour);
        for (index, one) in colours.iter().enumerate() {
            assert!(colours[index + 1..].iter().all(|other| one != other));
        }
    }
}
