//! The picture as a page: the SVG, the counts of each pool, and a script that shows the counts of the pool under the
//! pointer.

use core::fmt::{self, Write};

use super::layout::{Grid, POOLS_PER_ROW};
use super::svg::{Escaped, draw, title_of};
use super::{HeapMap, PoolUse};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Makes the page. Writing to a `String` can't fail.
pub(super) fn page(map: &HeapMap) -> String {
    let mut text = String::new();
    let _ = write_page(map, &mut text);
    text
}

fn write_page(map: &HeapMap, out: &mut String) -> fmt::Result {
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
         <main>\n{}</main>\n<div id=\"tip\" hidden></div>\n\
         <details><summary>The same as text</summary><pre>{}</pre></details>\n\
         <script>\n\"use strict\";\nconst grid = ",
        Escaped(title_of(map)),
        draw(map),
        map.stats,
    )?;
    write_grid(map, out)?;
    out.write_str(";\nconst arenas = [\n")?;
    for (number, arena) in map.arenas.iter().take(Grid::of(map.arenas.len()).arenas).enumerate() {
        out.write_str(if number == 0 { "" } else { ",\n" })?;
        write_arena(arena, out)?;
    }
    write!(out, "\n];\n{SCRIPT}</script>\n</html>\n")
}

/// Writes the positions of the pools in the picture, for the script.
fn write_grid(map: &HeapMap, out: &mut String) -> fmt::Result {
    let grid = Grid::of(map.arenas.len());
    let (x, y) = grid.arena_at(0);
    write!(
        out,
        "{{x: {x}, y: {y}, columns: {}, across: {}, down: {}, pitch: {}, perRow: {POOLS_PER_ROW}}}",
        grid.columns, grid.across, grid.down, grid.pitch
    )
}

/// Writes an arena's address, and eight numbers per pool: first its [`PoolUse`] as a number, then the other fields of
/// `PoolMap` in order.
fn write_arena(arena: &super::ArenaMap, out: &mut String) -> fmt::Result {
    write!(out, "[\"{:#x}\"", arena.address)?;
    for pool in &arena.pools {
        let used_for = match pool.used_for {
            PoolUse::Unused => 0,
            PoolUse::Empty => 1,
            PoolUse::Blocks => 2,
            PoolUse::Run => 3,
            PoolUse::Behind => 4,
        };
        write!(
            out,
            ",[{used_for},{},{},{},{},{},{},{}]",
            pool.block_bytes,
            pool.blocks,
            pool.blocks_live,
            pool.blocks_cached,
            pool.blocks_remote,
            pool.blocks_uncarved,
            pool.bytes_untouched,
        )?;
    }
    out.write_str("]")
}
