//! [`HeapGraph`]: the blocks with their names, the references between them, and from where each block is reached.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use super::Progress;
use super::found::{Edge, Module, Received, Root, RootKind, UNTRACED, VACANT};
use super::read::analysis::Analysis;
use super::read::answers::Reach;
use super::read::reached::{Via, reached};
use super::read::statics::Statics;
use crate::trace::access::{self, Busy, Frame, Traceback};

/// The heap at one moment, as a graph of blocks and references.
///
/// [`take()`](super::take()) takes it. To ask it, the tracer is not needed any more.
pub struct HeapGraph {
    pub(super) nodes: Vec<Node>,
    /// The number of the first large block. The nodes before it are sorted, and so are those from it on.
    large_start: usize,
    /// Where the references of each node end.
    pub(super) ends: Vec<u32>,
    pub(super) edges: Vec<Edge>,
    /// Statics first, then thread-locals, stacks, foreign memory.
    pub(super) roots: Vec<Root>,
    /// The call stacks that allocated blocks.
    pub(super) sites: Vec<Traceback>,
    pub(super) threads: Vec<Thread>,
    pub(super) modules: Vec<Module>,
    /// How each node is reached.
    pub(super) via: Vec<Via>,
    pub(super) reach: Vec<Reach>,
    pub(super) pause: Duration,
    pub(super) threads_left: Vec<u32>,
    pub(super) taken_at: SystemTime,
    pub(super) analysis: OnceLock<Analysis>,
    pub(super) statics: Statics,
}

/// A block.
#[derive(Clone, Copy)]
pub(super) struct Node {
    /// Its address, inverted: otherwise a kept graph would look as if it referred to all blocks.
    hidden: usize,
    pub(super) bytes: usize,
    /// Index into the sites.
    pub(super) site: u32,
}

impl Node {
    pub(super) const fn address(self) -> usize {
        !self.hidden
    }
}

/// A thread whose stack was looked at.
pub(super) struct Thread {
    /// The kernel's number.
    pub(super) number: u32,
    /// Empty if the thread had ended before its name was read.
    pub(super) name: String,
    /// Each function's stack pointer, and the function (inlined ones first); sorted. From its stack pointer on, the
    /// stack belongs to that function and its callers.
    pub(super) frames: Vec<(usize, Arc<[Frame]>)>,
}

/// The site of blocks that the tracer does not know: always the first one.
pub(super) const UNTRACED_SITE: u32 = 0;

/// Puts a graph together. The caller is [`Busy`].
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nobody scans"))]
pub(super) fn graph(
    received: Received,
    session: u32,
    modules: Vec<Module>,
    threads: &[u32],
    busy: &Busy,
    progress: &mut dyn FnMut(Progress),
) -> HeapGraph {
    let Received { nodes: raw, ends, edges, mut roots, frames } = received;
    let mut numbers: HashMap<u32, u32> = HashMap::from([(UNTRACED, UNTRACED_SITE)]);
    let mut stacks = Vec::new();
    for node in &raw {
        numbers.entry(node.stack).or_insert_with(|| {
            stacks.push(node.stack);
            stacks.len() as u32
        });
    }
    let mut named = |done, total| progress(Progress::Named { done, total });
    // Stacks with the same names are one site: an unrolled loop has several calls on one line.
    let mut sites = vec![access::unknown()];
    let mut known: HashMap<Traceback, u32> = HashMap::new();
    let mut site_of_stack = vec![UNTRACED_SITE];
    let found = access::tracebacks(session, &stacks, busy, &mut named);
    for site in found {
        let site = site.unwrap_or_else(access::unknown);
        site_of_stack.push(*known.entry(site.clone()).or_insert_with(|| {
            sites.push(site);
            sites.len() as u32 - 1
        }));
    }
    let site_of = |stack: u32| site_of_stack[numbers[&stack] as usize];
    let nodes: Vec<Node> =
        raw.iter().map(|node| Node { hidden: node.address, bytes: node.bytes, site: site_of(node.stack) }).collect();
    drop(raw);
    let (ends, edges) = without_vacant(ends, edges, &nodes, &sites);
    let threads = name_threads(threads, &frames, busy);
    roots.sort_by_key(|root| root.kind);
    let (via, reach) = reached(nodes.len(), &ends, &edges, &roots);
    let descends = |pair: &[Node]| pair[0].address() > pair[1].address();
    let large_start = nodes.windows(2).position(descends).map_or(nodes.len(), |last| last + 1);
    HeapGraph {
        nodes,
        large_start,
        ends,
        edges,
        roots,
        sites,
        threads,
        modules,
        via,
        reach,
        pause: Duration::ZERO,
        threads_left: Vec::new(),
        taken_at: SystemTime::now(),
        analysis: OnceLock::new(),
        statics: Statics::default(),
    }
}

/// Removes the references from vacant buckets of hash tables.
///
/// A block is a hash table if it is laid out as one and its call stack says that `hashbrown` allocated it. Where no
/// names are known, the layout alone decides.
fn without_vacant(ends: Vec<u32>, mut edges: Vec<Edge>, nodes: &[Node], sites: &[Traceback]) -> (Vec<u32>, Vec<Edge>) {
    let unknown = access::unknown();
    let is_table: Vec<bool> =
        sites.iter().map(|site| *site == unknown || access::is_through(site, "hashbrown")).collect();
    let (mut kept, mut from) = (0, 0);
    let mut new_ends = Vec::with_capacity(ends.len());
    for (node, &end) in nodes.iter().zip(&ends) {
        for index in from..end as usize {
            let edge = edges[index];
            if edge.word & VACANT == 0 || !is_table[node.site as usize] {
                edges[kept] = Edge { target: edge.target, word: edge.word & !VACANT };
                kept += 1;
            }
        }
        from = end as usize;
        new_ends.push(kept as u32);
    }
    edges.truncate(kept);
    (new_ends, edges)
}

fn name_threads(threads: &[u32], notes: &[super::found::FrameNote], busy: &Busy) -> Vec<Thread> {
    let words: Vec<usize> = notes.iter().map(|note| note.word).collect();
    let functions = access::functions(&words, busy);
    let mut named: Vec<Thread> = threads
        .iter()
        .map(|&number| Thread {
            number,
            name: std::fs::read_to_string(format!("/proc/self/task/{number}/comm"))
                .unwrap_or_default()
                .trim()
                .to_owned(),
            frames: Vec::new(),
        })
        .collect();
    for (note, functions) in notes.iter().zip(functions) {
        if let Some(thread) = named.get_mut(note.thread) {
            thread.frames.push((note.sp, functions));
        }
    }
    named
}

impl HeapGraph {
    /// The references of a block.
    pub(super) fn edges_of(&self, node: usize) -> &[Edge] {
        let start = node.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.edges[start..self.ends[node] as usize]
    }

    /// The number of the block that an address is in.
    pub(super) fn number_of(&self, address: usize) -> Option<usize> {
        let by_address = |part: &[Node]| {
            let after = part.partition_point(|node| node.address() <= address);
            let number = after.checked_sub(1)?;
            (address - part[number].address() < part[number].bytes.max(1)).then_some(number)
        };
        // Small blocks first, then large ones: each part is sorted.
        let large = self.large_start;
        by_address(&self.nodes[..large]).or_else(|| Some(large + by_address(&self.nodes[large..])?))
    }

    /// How long the other threads were held up: the time until all of them stood still, and the time until they went
    /// on.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// The kernel's numbers of the threads that could not be stopped.
    ///
    /// There are some only with [`Config::go_on_without_threads`](super::Config::go_on_without_threads). A block that
    /// only such a thread refers to may look as if only foreign memory, or nothing, referred to it.
    pub fn threads_left(&self) -> &[u32] {
        &self.threads_left
    }

    /// When the graph was taken.
    pub fn taken_at(&self) -> SystemTime {
        self.taken_at
    }

    /// Bytes of memory that the graph itself takes, without its names.
    pub fn overhead_bytes(&self) -> usize {
        size_of_val(&*self.nodes)
            + size_of_val(&*self.ends)
            + size_of_val(&*self.edges)
            + size_of_val(&*self.roots)
            + size_of_val(&*self.via)
            + size_of_val(&*self.reach)
    }

    pub(super) fn root_kind(&self, root: &Root) -> RootKind {
        RootKind::of_number(root.kind).unwrap_or(RootKind::Foreign)
    }
}

impl core::fmt::Debug for HeapGraph {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HeapGraph")
            .field("blocks", &self.nodes.len())
            .field("references", &self.edges.len())
            .field("roots", &self.roots.len())
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}
