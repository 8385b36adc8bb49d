//! What refers to a block, as an SVG picture: the block on the right, roots and referrers to the left of it.

use core::fmt::Write;

use super::dot::{Picture, colour};
use crate::graph::build::HeapGraph;
use crate::graph::read::paths::NotABlock;
use crate::trace::access::Busy;

const BOX_WIDTH: usize = 330;
const BOX_HEIGHT: usize = 40;
const GAP_X: usize = 90;
const GAP_Y: usize = 16;
const MARGIN: usize = 16;
/// The distance below the boxes at which an arrow runs, if it does not lead to the right.
const BELOW: usize = 28;
/// How many characters of a line fit into a box.
const LINE_MAX: usize = 52;

impl HeapGraph {
    /// What refers to the block that an address is in, as an SVG picture.
    ///
    /// The picture goes back up to `steps` references.
    ///
    /// # Errors
    /// If the address is in no block of the graph.
    pub fn to_svg<T: ?Sized>(&self, address: *const T, steps: usize) -> Result<String, NotABlock> {
        let _busy = Busy::enter();
        let number = self.number_of(address.cast::<u8>().addr()).ok_or(NotABlock)?;
        Ok(draw(&self.picture(number, steps)))
    }
}

/// The upper left corner of each box, and the picture's width and height. Each step is a column, the first on the
/// right.
fn corners(picture: &Picture) -> (Vec<(usize, usize)>, usize, usize) {
    let columns = picture.boxes.iter().map(|shown| shown.step + 1).max().unwrap_or(1);
    let mut heights = vec![0; columns];
    let mut rows = Vec::new();
    for shown in &picture.boxes {
        rows.push(heights[shown.step]);
        heights[shown.step] += 1;
    }
    let most = heights.iter().copied().max().unwrap_or(1);
    let height = most * (BOX_HEIGHT + GAP_Y);
    let corner = |(shown, row): (&super::dot::Shown, &usize)| {
        // Each column is centred vertically.
        let above = (height - heights[shown.step] * (BOX_HEIGHT + GAP_Y)) / 2;
        let x = MARGIN + (columns - 1 - shown.step) * (BOX_WIDTH + GAP_X);
        (x, MARGIN + above + row * (BOX_HEIGHT + GAP_Y))
    };
    let corners = picture.boxes.iter().zip(&rows).map(corner).collect();
    (corners, columns * (BOX_WIDTH + GAP_X) - GAP_X + 2 * MARGIN, height + 2 * MARGIN + BELOW)
}

fn draw(picture: &Picture) -> String {
    let (corners, width, height) = corners(picture);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" \
         refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0 8 4 0 8z\" \
         fill=\"#555\"/></marker></defs>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (from, to, name) in &picture.arrows {
        arrow(&mut text, corners[*from], corners[*to], name);
    }
    for (shown, &(x, y)) in picture.boxes.iter().zip(&corners) {
        let fill = colour(shown.reach);
        // Writing to a string does not fail (all).
        let _ = writeln!(
            text,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"4\" \
             fill=\"{fill}\" stroke=\"#555\"/>",
            escaped(&shown.lines.join("\n"))
        );
        for (line, content) in shown.lines.iter().enumerate() {
            let _ = writeln!(
                text,
                "<text x=\"{}\" y=\"{}\">{}</text>",
                x + 8,
                y + 16 + 15 * line,
                escaped(&short(content))
            );
        }
        text.push_str("</g>\n");
    }
    if picture.is_cut {
        let _ = writeln!(text, "<text x=\"{MARGIN}\" y=\"{}\">more references are not shown</text>", height - 4);
    }
    text.push_str("</svg>\n");
    text
}

/// Draws an arrow from one box to another. If the other box lies to the right, it goes from the right side of the one
/// to the left side of the other; otherwise it runs below both.
fn arrow(text: &mut String, from: (usize, usize), to: (usize, usize), name: &str) {
    let half = BOX_HEIGHT / 2;
    let (y1, y2) = (from.1 + half, to.1 + half);
    let (path, middle) = if from.0 < to.0 {
        let (x1, x2) = (from.0 + BOX_WIDTH, to.0);
        let bend = (x2 - x1) / 2;
        (format!("M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}", x1 + bend, x2 - bend), (x1 + bend, y1.midpoint(y2)))
    } else {
        // Back, or within a column: below the boxes.
        let (x1, x2) = (from.0 + BOX_WIDTH * 2 / 3, to.0 + BOX_WIDTH / 3);
        let below = from.1.max(to.1) + BOX_HEIGHT + BELOW;
        let path = format!("M{x1} {}C{x1} {below} {x2} {below} {x2} {}", from.1 + BOX_HEIGHT, to.1 + BOX_HEIGHT);
        (path, (x1.midpoint(x2), below - BELOW / 4))
    };
    let _ = writeln!(text, "<path d=\"{path}\" fill=\"none\" stroke=\"#555\" marker-end=\"url(#tip)\"/>");
    if !name.is_empty() {
        let (x, y) = middle;
        let _ = writeln!(text, "<text x=\"{x}\" y=\"{}\" fill=\"#555\" text-anchor=\"middle\">{name}</text>", y - 3);
    }
}

/// A line that fits. Of a line that is too long the end is kept, because a place's file and line are there.
fn short(text: &str) -> String {
    let length = text.chars().count();
    if length <= LINE_MAX {
        text.to_owned()
    } else {
        format!("…{}", text.chars().skip(length - LINE_MAX + 1).collect::<String>())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
