//! A picture of what refers to a block, as `objgraph` draws it: as text for Graphviz's `dot`, and as SVG (`svg`).

use core::fmt::Write;
use std::collections::HashMap;

use crate::graph::build::HeapGraph;
use crate::graph::read::answers::{Reach, Site};
use crate::graph::read::paths::NotABlock;
use crate::trace::access::{Busy, Bytes};

/// The most boxes of a picture.
const BOXES_MAX: usize = 120;

/// A box of the picture.
pub(super) struct Shown {
    pub(super) lines: [String; 2],
    /// Steps from the block that was asked for.
    pub(super) step: usize,
    /// How the block is reached; `None` if the box is a root.
    pub(super) reach: Option<Reach>,
}

/// Boxes, and arrows with names from one box to another.
pub(super) struct Picture {
    pub(super) boxes: Vec<Shown>,
    pub(super) arrows: Vec<(usize, usize, String)>,
    /// Whether some boxes had no room.
    pub(super) is_cut: bool,
}

impl HeapGraph {
    /// What refers to the block that an address is in, as text for Graphviz's `dot`.
    ///
    /// The picture goes back up to `steps` references.
    ///
    /// # Errors
    /// If the address is in no block of the graph.
    #[doc(alias = "objgraph.show_backrefs")]
    pub fn to_dot<T: ?Sized>(&self, address: *const T, steps: usize) -> Result<String, NotABlock> {
        let _busy = Busy::enter();
        let number = self.number_of(address.cast::<u8>().addr()).ok_or(NotABlock)?;
        let picture = self.picture(number, steps);
        let mut text = String::from("digraph heap {\n  node [shape=box, style=filled, fontname=\"sans-serif\"];\n");
        for (place, shown) in picture.boxes.iter().enumerate() {
            let colour = colour(shown.reach);
            let [first, second] = shown.lines.each_ref().map(|line| escaped(line));
            // Writing to a string does not fail.
            let _ = writeln!(text, "  n{place} [label=\"{first}\\n{second}\", fillcolor=\"{colour}\"];");
        }
        for (from, to, name) in &picture.arrows {
            let _ = writeln!(text, "  n{from} -> n{to} [label=\"{}\"];", escaped(name));
        }
        text.push_str("}\n");
        Ok(text)
    }

    /// The block and what refers to it, nearest first.
    pub(super) fn picture(&self, number: usize, steps: usize) -> Picture {
        let mut picture = Picture { boxes: Vec::new(), arrows: Vec::new(), is_cut: false };
        let mut places: HashMap<usize, usize> = HashMap::new();
        picture.boxes.push(self.shown(number, 0));
        places.insert(number, 0);
        let mut queue = std::collections::VecDeque::from([number]);
        while let Some(node) = queue.pop_front() {
            let place = places[&node];
            let step = picture.boxes[place].step;
            if step == steps {
                continue;
            }
            for (from, word) in self.referrers_of(node) {
                let place_of_from = match places.get(&from) {
                    Some(&known) => known,
                    None if picture.boxes.len() >= BOXES_MAX => {
                        picture.is_cut = true;
                        continue;
                    }
                    None => {
                        picture.boxes.push(self.shown(from, step + 1));
                        places.insert(from, picture.boxes.len() - 1);
                        queue.push_back(from);
                        picture.boxes.len() - 1
                    }
                };
                picture.arrows.push((place_of_from, place, format!("+{}", word as usize * size_of::<usize>())));
            }
            for root in self.roots.iter().filter(|root| root.target as usize == node) {
                if picture.boxes.len() >= BOXES_MAX {
                    picture.is_cut = true;
                    break;
                }
                let lines = [self.place_of(root).to_string(), String::new()];
                picture.boxes.push(Shown { lines, step: step + 1, reach: None });
                picture.arrows.push((picture.boxes.len() - 1, place, String::new()));
            }
        }
        picture
    }

    fn shown(&self, number: usize, step: usize) -> Shown {
        let block = self.block(number);
        let size = format!("{}, retains {}", Bytes(block.bytes as f64), Bytes(block.retained_bytes as f64));
        Shown { lines: [Site(&block.traceback).to_string(), size], step, reach: Some(block.reach) }
    }
}

pub(super) const fn colour(reach: Option<Reach>) -> &'static str {
    match reach {
        None => "#cde7d8",
        Some(Reach::Rooted) => "#d6e4f5",
        Some(Reach::Foreign) => "#efe3c4",
        Some(Reach::Unreachable) => "#f5d0cd",
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}
