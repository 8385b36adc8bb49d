//! The format of V8's heap snapshots, which Chrome's DevTools (panel Memory), VS Code and memlab open.
//!
//! A node is seven numbers and an edge three, all in JSON. The viewers read ids and sizes as 32-bit numbers. So an id
//! is a hash of a block's address, size and call stack, which is the same in each snapshot while the block lives; and a
//! block of 4 GiB or more is several nodes. The viewers find the same dominator tree as this crate, because references
//! that keep nothing alive are written as weak ones.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::graph::build::HeapGraph;
use crate::graph::found::RootKind;
use crate::graph::read::analysis::{Analysis, Group};
use crate::graph::read::answers::{Reach, Site};
use crate::trace::access::{self, Busy, Traceback};

/// How many numbers a node has.
const NODE_FIELDS: usize = 7;
/// The most bytes of one node.
const SIZE_MAX: usize = (u32::MAX - 7) as usize;

// The numbers of types, in the order of `HEAD`.
const OBJECT: u8 = 0;
const SYNTHETIC: u8 = 1;
const ELEMENT: u8 = 0;
const PROPERTY: u8 = 1;
const INTERNAL: u8 = 2;
const WEAK: u8 = 3;

/// The format's description, from the beginning on.
const META: &str = concat!(
    r#"{"snapshot":{"meta":{"node_fields":["type","name","id","self_size","edge_count","trace_node_id","detachedness"],"#,
    r#""node_types":[["object","synthetic"],"string","number","number","number","number","number"],"#,
    r#""edge_fields":["type","name_or_index","to_node"],"#,
    r#""edge_types":[["element","property","internal","weak"],"string_or_number","node"],"#,
    r#""trace_function_info_fields":[],"trace_node_fields":[],"sample_fields":[],"location_fields":[]},"#,
);

/// The strings of a file, each once.
#[derive(Default)]
struct Strings {
    numbers: HashMap<String, usize>,
    all: Vec<String>,
}

impl Strings {
    fn number(&mut self, text: String) -> usize {
        let new = self.all.len();
        match self.numbers.get(&text) {
            Some(&known) => known,
            None => {
                self.all.push(text.clone());
                self.numbers.insert(text, new);
                new
            }
        }
    }
}

/// A JSON array, written element by element.
struct List<'out, W: Write> {
    out: &'out mut W,
    is_first: bool,
}

impl<'out, W: Write> List<'out, W> {
    fn begin(out: &'out mut W, name: &str) -> io::Result<Self> {
        write!(out, "\"{name}\":[")?;
        Ok(Self { out, is_first: true })
    }

    fn row(&mut self, numbers: &[usize]) -> io::Result<()> {
        for number in numbers {
            let comma = if core::mem::take(&mut self.is_first) { "" } else { "," };
            write!(self.out, "{comma}{number}")?;
        }
        // One row per line, so that a text editor can open the file.
        writeln!(self.out)
    }

    fn end(self, rest: &str) -> io::Result<()> {
        write!(self.out, "]{rest}")
    }
}

/// All that must be known before the first byte is written.
struct Plan<'graph> {
    graph: &'graph HeapGraph,
    analysis: &'graph Analysis,
    strings: Strings,
    /// Names of the groups and of the sites, as numbers of strings.
    groups: Vec<usize>,
    sites: Vec<usize>,
    /// The references of each group: a name and a block.
    rooted: Vec<Vec<(usize, usize)>>,
    /// Further nodes of blocks that one node has no room for: the block and the bytes.
    parts: Vec<(usize, usize)>,
}

/// The name of the blocks of a call site.
fn class(site: &Traceback) -> String {
    if *site == access::unknown() { "(unknown)".to_owned() } else { no_element(Site(site).to_string()) }
}

/// DevTools takes a name that begins with `<` for that of an HTML element, and cuts it off at the first space.
fn no_element(name: String) -> String {
    if name.starts_with('<') { format!("impl {name}") } else { name }
}

impl<'graph> Plan<'graph> {
    fn of(graph: &'graph HeapGraph) -> Self {
        let analysis = graph.analysis();
        let mut strings = Strings::default();
        strings.number("(all)".to_owned());
        let groups = analysis.groups.iter().map(|&group| strings.number(graph.group_name(group))).collect();
        let sites = graph.sites.iter().map(|site| strings.number(class(site))).collect();
        let mut rooted: Vec<Vec<(usize, usize)>> = vec![Vec::new(); analysis.groups.len()];
        let numbers: HashMap<Group, usize> =
            analysis.groups.iter().enumerate().map(|(number, &group)| (group, number)).collect();
        for root in &graph.roots {
            let kind = graph.root_kind(root);
            let best = if kind == RootKind::Foreign { Reach::Foreign } else { Reach::Rooted };
            if graph.reach[root.target as usize] == best
                && let Some(&number) = numbers.get(&Group::Roots(kind, root.owner))
            {
                let name = strings.number(graph.place_of(root).to_string());
                rooted[number].push((name, root.target as usize));
            }
        }
        if let Some(&number) = numbers.get(&Group::Nobody) {
            let name = strings.number("leaked".to_owned());
            rooted[number] = analysis.leak_roots.iter().map(|root| (name, root.node as usize)).collect();
        }
        let mut parts = Vec::new();
        for (number, node) in graph.nodes.iter().enumerate() {
            let mut rest = node.bytes.saturating_sub(SIZE_MAX);
            while rest > 0 {
                parts.push((number, rest.min(SIZE_MAX)));
                rest = rest.saturating_sub(SIZE_MAX);
            }
        }
        Self { graph, analysis, strings, groups, sites, rooted, parts }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let blocks = self.graph.nodes.len();
        let nodes = self.analysis.first() + blocks + self.parts.len();
        let rooted: usize = self.rooted.iter().map(Vec::len).sum();
        let edges = self.groups.len() + rooted + self.graph.edges.len() + self.parts.len();
        write!(out, r#"{META}"node_count":{nodes},"edge_count":{edges},"trace_function_count":0}},"#)?;
        self.write_nodes(out)?;
        self.write_edges(out)?;
        write!(out, r#""trace_function_infos":[],"trace_tree":[],"samples":[],"locations":[],"strings":["#)?;
        for (number, text) in self.strings.all.iter().enumerate() {
            writeln!(out, "{}{}", if number == 0 { "" } else { "," }, Quoted(text))?;
        }
        write!(out, "]}}")
    }

    /// The further nodes of a block, as indexes into the parts, which are in the blocks' order.
    fn parts_of(&self, block: usize) -> core::ops::Range<usize> {
        let start = self.parts.partition_point(|part| part.0 < block);
        start..self.parts.partition_point(|part| part.0 <= block)
    }

    fn write_nodes(&self, out: &mut impl Write) -> io::Result<()> {
        let (mut ids, mut list) = (Ids::default(), List::begin(out, "nodes")?);
        let kind = usize::from(SYNTHETIC);
        list.row(&[kind, 0, 1, 0, self.groups.len(), 0, 0])?;
        for (number, (&name, edges)) in self.groups.iter().zip(&self.rooted).enumerate() {
            list.row(&[kind, name, 2 * number + 2, 0, edges.len(), 0, 0])?;
        }
        let kind = usize::from(OBJECT);
        let sites: Vec<u64> = self.graph.sites.iter().map(hash).collect();
        for (number, node) in self.graph.nodes.iter().enumerate() {
            let name = self.sites[node.site as usize];
            let id = ids.of(hash(&(node.address(), node.bytes, sites[node.site as usize])));
            let edges = self.graph.edges_of(number).len() + self.parts_of(number).len();
            list.row(&[kind, name, id, node.bytes.min(SIZE_MAX), edges, 0, 0])?;
        }
        for (number, &(block, bytes)) in self.parts.iter().enumerate() {
            let node = self.graph.nodes[block];
            let id = ids.of(hash(&(node.address(), number, bytes)));
            list.row(&[kind, self.sites[node.site as usize], id, bytes, 0, 0, 0])?;
        }
        list.end(",")
    }

    fn write_edges(&self, out: &mut impl Write) -> io::Result<()> {
        let mut list = List::begin(out, "edges")?;
        let first = self.analysis.first();
        for (number, &name) in self.groups.iter().enumerate() {
            list.row(&[usize::from(PROPERTY), name, (number + 1) * NODE_FIELDS])?;
        }
        for &(name, block) in self.rooted.iter().flatten() {
            list.row(&[usize::from(PROPERTY), name, (first + block) * NODE_FIELDS])?;
        }
        for number in 0..self.graph.nodes.len() {
            for edge in self.graph.edges_of(number) {
                let target = edge.target as usize;
                let kind = if self.graph.counts(number, target) { ELEMENT } else { WEAK };
                // The name of a weak reference is a string: some viewers accept no number there.
                let name = if kind == WEAK { 0 } else { edge.word as usize * size_of::<usize>() };
                list.row(&[usize::from(kind), name, (first + target) * NODE_FIELDS])?;
            }
            for part in self.parts_of(number) {
                let target = first + self.graph.nodes.len() + part;
                list.row(&[usize::from(INTERNAL), 0, target * NODE_FIELDS])?;
            }
        }
        list.end(",")
    }
}

/// The ids given so far: odd numbers of 32 bits.
#[derive(Default)]
struct Ids(HashSet<u32>);

impl Ids {
    /// The next free id from a hash's own on.
    fn of(&mut self, hash: u64) -> usize {
        let mut id = (hash as u32 | 1).max(3);
        while !self.0.insert(id) {
            id = id.wrapping_add(2).max(3);
        }
        id as usize
    }
}

/// A hash that is the same for the same value in any process.
fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A JSON string.
struct Quoted<'text>(&'text str);

impl core::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                control if (control as u32) < 0x20 => write!(f, "\\u{:04x}", control as u32)?,
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}

impl HeapGraph {
    /// Writes a file that Chrome's DevTools, VS Code and memlab open (`.heapsnapshot`).
    ///
    /// These viewers show what keeps a block alive and what it retains, and compare two files block by block.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save_heapsnapshot(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let _busy = Busy::enter();
        let mut file = BufWriter::with_capacity(1 << 16, std::fs::File::create(path)?);
        self.write_heapsnapshot(&mut file)?;
        file.flush()
    }

    /// Writes what [`save_heapsnapshot`](Self::save_heapsnapshot) writes, to any writer.
    ///
    /// # Errors
    /// The errors of `out`.
    pub fn write_heapsnapshot(&self, out: &mut impl Write) -> io::Result<()> {
        let _busy = Busy::enter();
        Plan::of(self).write(out)
    }

    /// The name of a group.
    fn group_name(&self, group: Group) -> String {
        match group {
            Group::Roots(RootKind::Static, module) => match self.modules.get(module as usize) {
                Some(module) => format!("(statics of {})", module.path.display()),
                None => "(statics of modules that were being loaded)".to_owned(),
            },
            Group::Roots(RootKind::Thread, thread) => format!("(thread-locals of {})", self.thread_name(thread)),
            Group::Roots(RootKind::Stack, thread) => format!("(stack of {})", self.thread_name(thread)),
            Group::Roots(RootKind::Foreign, _) => "(foreign memory)".to_owned(),
            Group::Nobody => "(nobody: leaks)".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_string_of_json() {
        for text in ["", "a\"b\\c", "line\nend\u{1}", "é <&>"] {
            let quoted = Quoted(text).to_string();
            assert_eq!(serde_json::from_str::<String>(&quoted).expect("a string"), text);
        }
    }

    #[test]
    fn no_class_has_the_name_of_an_element() {
        assert_eq!(no_element("<T as Clone>::clone at a.rs:1".to_owned()), "impl <T as Clone>::clone at a.rs:1");
        assert_eq!(no_element("f<T> at a.rs:1".to_owned()), "f<T> at a.rs:1");
        assert_eq!(class(&access::unknown()), "(unknown)");
    }

    #[test]
    fn ids_are_odd_and_never_given_twice() {
        let mut ids = Ids::default();
        let given: Vec<usize> =
            [0, 1, 2, 3, u64::from(u32::MAX), u64::from(u32::MAX)].map(|hash| ids.of(hash)).to_vec();
        assert!(given.iter().all(|&id| id % 2 == 1 && id > 1 && id <= u32::MAX as usize), "{given:?}");
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len());
    }
}
