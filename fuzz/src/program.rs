//! Reads an input's bytes as a program. Each record of four bytes is an operation of a thread, a switch between
//! threads, or a storm of switches. So changing a byte changes one of them, and inserting bytes moves the others.

use crate::base::config::CLASS_COUNT;
use crate::scheduler::{Switch, THREADS};

/// One step of a thread. A place is taken modulo the number of live blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Alloc {
        class: usize,
        blocks: usize,
    },
    AllocZeroed {
        class: usize,
        blocks: usize,
    },
    /// Frees live blocks, whichever thread allocated them.
    Free {
        place: usize,
        blocks: usize,
    },
    /// Moves a block to another class, as `realloc` does.
    Move {
        place: usize,
        class: usize,
    },
    /// Allocates, resizes or frees a run of pools. The place is one of the live runs.
    Run {
        act: RunAct,
        place: usize,
        pools: usize,
        align_pools: usize,
    },
    /// `flush_thread_cache`.
    Flush,
    /// The thread ends, and another takes its place.
    End,
    Purge,
    /// The purge thread looks at the heap.
    Tick,
    /// From now on, purging and unmapping fail, or work again.
    Refuse {
        purge: bool,
        unmap: bool,
    },
    /// From now on, `left` maps succeed.
    Maps {
        left: usize,
    },
    /// From now on, there are at most `arenas`.
    Limit {
        arenas: usize,
    },
    Poison {
        on: bool,
    },
    /// The self-check, wherever the other threads are.
    Check,
}

/// What to do with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunAct {
    Alloc,
    Resize,
    Free,
}

/// A program of operations for several threads, and their interleaving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub(crate) threads: [Vec<Op>; THREADS],
    pub(crate) switches: Vec<Switch>,
}

const RECORD_BYTES: usize = 4;

impl Program {
    /// Reads an input. Every input is a program; bytes at the end that make no whole record are ignored.
    pub fn read(input: &[u8]) -> Self {
        let mut program = Self::default();
        for &[kind, who, y, z] in input.as_chunks::<RECORD_BYTES>().0 {
            let thread = usize::from(who) % THREADS;
            if kind % 16 >= 14 {
                program.storm(y, z);
            } else if kind % 16 >= 12 {
                // Near switches are placed point by point, far ones in larger steps.
                let after = u32::from(y) << (z % 4 * 2);
                program.switches.push(Switch { after, exchanges_only: z & 4 != 0, thread });
            } else {
                program.threads[thread].push(Op::read(kind % 16, who, y, z));
            }
        }
        program
    }
}

impl Program {
    /// Adds many switches, close together, drawn from a seed. They hit windows of a few steps that no single switch
    /// would hit.
    fn storm(&mut self, seed: u8, shape: u8) {
        let switches = 32 << (shape >> 6);
        let mut state = u64::from(seed) << 8 | u64::from(shape);
        for _ in 0..switches {
            // A linear congruential generator (Knuth, MMIX); its upper bits are good enough here.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let after = (state >> 40) as u32 & ((1 << (shape % 5)) - 1);
            let thread = (state >> 60) as usize % THREADS;
            self.switches.push(Switch { after, exchanges_only: shape & 8 == 0, thread });
        }
    }
}

impl Op {
    fn read(kind: u8, who: u8, y: u8, z: u8) -> Self {
        // Most records use one of a few classes, so that threads meet in the same pools.
        let favourites = [0, 1, 7, 31, 62, 63, 63, 63];
        let class = if who < 192 { favourites[usize::from(y) % 8] } else { usize::from(y) % CLASS_COUNT };
        let place = usize::from(y) << 3;
        // Mostly no limit: otherwise most programs would soon be out of memory for good.
        let few = |number: u8| if number < 64 { usize::from(number) % 8 } else { usize::MAX };
        match kind {
            0..=2 => Self::Alloc { class, blocks: usize::from(z) / 2 + 1 },
            3 => Self::AllocZeroed { class, blocks: usize::from(z) % 16 + 1 },
            4 => Self::Free { place: place + usize::from(z), blocks: 1 },
            5..=7 => Self::Free { place, blocks: usize::from(z) + 1 },
            8 => Self::Move { place: place + usize::from(z) % 16, class: usize::from(z) % CLASS_COUNT },
            9 => match z % 8 {
                0 | 4 => Self::Flush,
                1 | 2 | 5 => Self::End,
                6 => Self::Tick,
                7 => Self::Run {
                    act: [RunAct::Alloc, RunAct::Alloc, RunAct::Resize, RunAct::Free][usize::from(y) % 4],
                    place: usize::from(y) >> 2,
                    pools: usize::from(z) / 8 % 9 + 1,
                    align_pools: 1 << (z >> 6),
                },
                _ => Self::Purge,
            },
            10 => match z % 4 {
                0 => Self::Refuse { purge: y & 1 != 0, unmap: y & 2 != 0 },
                1 => Self::Maps { left: few(y) },
                2 => Self::Limit { arenas: few(y) },
                _ => Self::Poison { on: y & 1 != 0 },
            },
            _ => Self::Check,
        }
    }
}
