//! Where things are in the picture, in pixels.

use crate::base::config::POOLS_PER_ARENA;

/// Pools in a row of an arena.
pub(super) const POOLS_PER_ROW: usize = 8;
/// Rows of an arena.
const ROWS: usize = POOLS_PER_ARENA / POOLS_PER_ROW;

/// Space around the whole.
pub(super) const MARGIN: usize = 24;
/// First pixel below the title.
pub(super) const TOP: usize = 84;
/// Least width of the drawing of the arenas: the legend fits under it.
const ARENAS_WIDTH_MIN: usize = 680;
/// Width of the table of classes.
pub(super) const CLASSES_WIDTH: usize = 420;
/// Space between the two.
pub(super) const GAP: usize = 36;
/// Height of the heading above the arenas and above the classes.
pub(super) const HEAD: usize = 24;
/// Height of the legend.
pub(super) const LEGEND_HEIGHT: usize = 118;
/// Most arenas drawn.
pub(super) const ARENAS_MAX: usize = 1600;

/// The grid of arenas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Arenas drawn.
    pub(super) arenas: usize,
    /// Arenas in a row.
    pub(super) columns: usize,
    /// Side of a pool, without the gap to the next.
    pub(super) pool: usize,
    /// From one pool to the next.
    pub(super) pitch: usize,
    /// From one arena to the next.
    pub(super) across: usize,
    pub(super) down: usize,
    /// Whether there is room for a line of text under each arena.
    pub(super) labels: bool,
}

impl Grid {
    /// The grid with the largest pools that draws `arenas` arenas without being too high.
    pub(super) fn of(arenas: usize) -> Self {
        // For each size: the pools' pitch, and the arenas in a row.
        const SIZES: [(usize, usize); 7] = [(20, 4), (16, 5), (12, 6), (8, 9), (5, 15), (3, 24), (2, 34)];
        let rows_of = |columns: usize| arenas.min(ARENAS_MAX).div_ceil(columns);
        let fits = |&&(pitch, columns): &&(usize, usize)| rows_of(columns) * (pitch * ROWS + 16) <= 700;
        let &(pitch, columns) = SIZES.iter().find(fits).unwrap_or(&SIZES[SIZES.len() - 1]);
        let labels = pitch >= 8;
        let space = if labels { 10 } else { 4 };
        Self {
            arenas: arenas.min(ARENAS_MAX),
            columns,
            // The pitch less the gap between two pools.
            pool: pitch - pitch.div_ceil(12).min(pitch / 4),
            pitch,
            across: pitch * POOLS_PER_ROW + space,
            down: pitch * ROWS + space + if labels { 12 } else { 0 },
            labels,
        }
    }

    /// The upper left corner of an arena.
    pub(super) fn arena_at(&self, arena: usize) -> (usize, usize) {
        (MARGIN + arena % self.columns * self.across, TOP + HEAD + arena / self.columns * self.down)
    }

    /// The upper left corner of a pool.
    pub(super) fn pool_at(&self, arena: usize, pool: usize) -> (usize, usize) {
        let (x, y) = self.arena_at(arena);
        (x + pool % POOLS_PER_ROW * self.pitch, y + pool / POOLS_PER_ROW * self.pitch)
    }

    pub(super) fn width(&self) -> usize {
        (self.columns * self.across).max(ARENAS_WIDTH_MIN)
    }

    pub(super) fn height(&self) -> usize {
        self.arenas.div_ceil(self.columns) * self.down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_do_not_overlap_and_stay_inside() {
        for arenas in [1, 5, 6, 7, 48, 49, 200, 700, ARENAS_MAX, 10 * ARENAS_MAX] {
            let grid = Grid::of(arenas);
            assert_eq!(grid.arenas, arenas.min(ARENAS_MAX));
            assert!(grid.across >= grid.pitch * POOLS_PER_ROW && grid.down >= grid.pitch * ROWS);
            assert!(grid.pool <= grid.pitch && grid.columns * grid.across <= grid.width());
            let (x, y) = grid.pool_at(grid.arenas - 1, POOLS_PER_ARENA - 1);
            assert!(x + grid.pool <= MARGIN + grid.width() && y + grid.pool <= TOP + HEAD + grid.height(), "{grid:?}");
            assert!(grid.height() <= 1300, "{arenas} arenas: {grid:?}");
        }
    }
}
