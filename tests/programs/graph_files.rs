//! The heap as a graph, beside other people's crates: programs that leak nothing, and files that other readers read.
//!
//! Sizes in a `.heapsnapshot` are compared with the ones that a reader of our own works out, by another algorithm than
//! the crate's; with `PYMALLOC_GRAPH_FOLDER` the file and the sizes are left there, for `tests/memlab.sh`, and
//! `PYMALLOC_GRAPH_BLOCKS` says how many blocks it has.
#![cfg(target_os = "linux")]
#![allow(clippy::vec_box, clippy::type_complexity, reason = "the boxes are what is looked at")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../planted/mod.rs"]
mod planted;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::hint::black_box;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;

use common::Rng;
use planted::{Hidden, on_clean_stack, take, traced};
use pymalloc::Pymalloc;
use pymalloc::graph::{HeapGraph, Reach};
use serde_json::Value;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// A snapshot of the format that V8 writes, as far as this crate's tests read it.
struct Read {
    names: Vec<String>,
    ids: Vec<u64>,
    bytes: Vec<u64>,
    /// Whether the node is a block.
    is_block: Vec<bool>,
    /// For each node, what it refers to by a reference that is not weak.
    targets: Vec<Vec<usize>>,
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|number| number.as_u64().expect("a number")).collect()
}

/// Reads a snapshot by its own description of its fields.
fn read(text: &str) -> Read {
    let file: Value = serde_json::from_str(text).expect("JSON");
    let meta = &file["snapshot"]["meta"];
    let fields = |name: &str| -> Vec<String> {
        meta[name].as_array().expect("a list").iter().map(|field| field.as_str().expect("a name").to_owned()).collect()
    };
    let (node_fields, edge_fields) = (fields("node_fields"), fields("edge_fields"));
    let place = |fields: &[String], name: &str| fields.iter().position(|field| field == name).expect("a field");
    let strings: Vec<&str> =
        file["strings"].as_array().expect("a list").iter().map(|text| text.as_str().expect("a string")).collect();
    let types = |list: &str, fields: &[String]| -> Vec<String> {
        let types = meta[list][place(fields, "type")].as_array().expect("a list");
        types.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
    };
    let (node_types, edge_types) = (types("node_types", &node_fields), types("edge_types", &edge_fields));
    let (nodes, edges) = (numbers(&file["nodes"]), numbers(&file["edges"]));
    let mut edges = edges.chunks(edge_fields.len());
    let mut read =
        Read { names: Vec::new(), ids: Vec::new(), bytes: Vec::new(), is_block: Vec::new(), targets: Vec::new() };
    for node in nodes.chunks(node_fields.len()) {
        let field = |name: &str| node[place(&node_fields, name)];
        read.names.push(strings[field("name") as usize].to_owned());
        read.ids.push(field("id"));
        read.bytes.push(field("self_size"));
        read.is_block.push(node_types[field("type") as usize] == "object");
        let own = edges.by_ref().take(field("edge_count") as usize);
        let strong = own.filter(|edge| edge_types[edge[place(&edge_fields, "type")] as usize] != "weak");
        read.targets
            .push(strong.map(|edge| edge[place(&edge_fields, "to_node")] as usize / node_fields.len()).collect());
    }
    assert!(edges.next().is_none());
    assert_eq!(file["snapshot"]["node_count"], read.ids.len());
    assert_eq!(read.ids.iter().collect::<HashSet<_>>().len(), read.ids.len(), "an id is given twice");
    assert!(read.ids.iter().all(|&id| id <= u32::MAX.into()));
    read
}

/// What each node retains, by the algorithm of Cooper, Harvey and Kennedy ("A Simple, Fast Dominance Algorithm").
fn retained(read: &Read) -> Vec<u64> {
    let count = read.ids.len();
    let (mut order, mut seen, mut path) = (Vec::new(), vec![false; count], vec![(0, 0)]);
    seen[0] = true;
    while let Some((node, looked)) = path.last_mut() {
        match read.targets[*node].get(*looked) {
            Some(&next) => {
                *looked += 1;
                if !std::mem::replace(&mut seen[next], true) {
                    path.push((next, 0));
                }
            }
            None => {
                order.push(*node);
                path.pop();
            }
        }
    }
    assert_eq!(order.len(), count, "every node hangs on the root");
    let mut number = vec![0; count];
    order.iter().enumerate().for_each(|(place, &node)| number[node] = place);
    let mut before = vec![Vec::new(); count];
    for (node, targets) in read.targets.iter().enumerate() {
        targets.iter().for_each(|&target| before[target].push(node));
    }
    let mut above: Vec<Option<usize>> = vec![None; count];
    above[0] = Some(0);
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for &node in order.iter().rev().skip(1) {
            let known = before[node].iter().copied().filter(|&node| above[node].is_some());
            let nearest = known.reduce(|mut one, mut other| {
                while one != other {
                    while number[one] < number[other] {
                        one = above[one].expect("known");
                    }
                    while number[other] < number[one] {
                        other = above[other].expect("known");
                    }
                }
                one
            });
            changed |= above[node] != nearest;
            above[node] = nearest;
        }
    }
    let mut sums = read.bytes.clone();
    for &node in order.iter().take(count - 1) {
        sums[above[node].expect("known")] += sums[node];
    }
    sums
}

/// A list, a tree, circles, shared blocks and leaks.
#[derive(Default)]
struct Shape {
    boxes: Vec<Box<[usize; 4]>>,
    shared: Vec<Rc<String>>,
    tree: BTreeMap<u64, Rc<String>>,
}

fn shape(blocks: usize) -> Shape {
    let mut shape = Shape::default();
    let mut rng = Rng::new(3);
    for number in 0..blocks {
        let mut boxed = Box::new([number, 0, 0, 0]);
        for word in 1..=rng.below(4) {
            if word < 4 && number > 0 {
                boxed[word] = (&raw const *shape.boxes[rng.below(number)]).expose_provenance();
            }
        }
        if number % 50 == 1 {
            let text = Rc::new(format!("{number:20}"));
            shape.tree.insert(rng.next(), Rc::clone(&text));
            shape.shared.push(text);
            let lost = Box::leak(Box::new([(&raw const *boxed).expose_provenance(), 0]));
            lost[1] = (&raw const *lost).expose_provenance();
        }
        shape.boxes.push(boxed);
    }
    shape
}

#[test]
fn each_block_retains_in_a_file_what_the_graph_says() {
    traced("each_block_retains_in_a_file_what_the_graph_says", || {
        let blocks = std::env::var("PYMALLOC_GRAPH_BLOCKS").map_or(20_000, |blocks| blocks.parse().expect("a number"));
        let shape = on_clean_stack(|| shape(blocks));
        let graph = take();
        let mut file = Vec::new();
        graph.write_heapsnapshot(&mut file).expect("memory");
        let text = String::from_utf8(file).expect("UTF-8");
        let own: Vec<u64> = graph.blocks().map(|block| block.retained_bytes).collect();
        let read = read(&text);
        let ids: Vec<u64> = read.ids.iter().zip(&read.is_block).filter(|(_, is)| **is).map(|(&id, _)| id).collect();
        if let Some(folder) = std::env::var_os("PYMALLOC_GRAPH_FOLDER").map(PathBuf::from) {
            let lines = ids.iter().zip(&own).fold(String::new(), |mut lines, (id, bytes)| {
                writeln!(lines, "{id} {bytes}").expect("memory");
                lines
            });
            std::fs::write(folder.join("test.heapsnapshot"), &text).expect("a folder");
            std::fs::write(folder.join("retained.txt"), lines).expect("a folder");
            return;
        }
        let sums = retained(&read);
        let sums: Vec<u64> = sums.iter().zip(&read.is_block).filter(|(_, is)| **is).map(|(&sum, _)| sum).collect();
        assert!(own.len() > blocks && sums == own, "sizes differ");
        assert!(read.names.iter().any(|name| name.contains("Box<T>::new at graph_files.rs:")));
        let summary = graph.summary();
        let roots = sums_of_groups(&read, &retained(&read));
        assert_eq!(roots["(nobody: leaks)"], summary.unreachable_bytes as u64);
        drop(shape);
    });
}

fn sums_of_groups<'read>(read: &'read Read, sums: &[u64]) -> HashMap<&'read str, u64> {
    (0..read.ids.len()).filter(|&node| !read.is_block[node]).map(|node| (&*read.names[node], sums[node])).collect()
}

#[test]
fn two_files_give_a_block_that_lives_the_same_id() {
    traced("two_files_give_a_block_that_lives_the_same_id", || {
        let kept: Vec<Box<[u64; 6]>> = (0..500).map(|number| Box::new([number; 6])).collect();
        let ids = |graph: &HeapGraph| -> HashSet<u64> {
            let mut file = Vec::new();
            graph.write_heapsnapshot(&mut file).expect("memory");
            let read = read(std::str::from_utf8(&file).expect("UTF-8"));
            let own = |node: &usize| read.names[*node].contains("two_files") || read.bytes[*node] == 48;
            (0..read.ids.len()).filter(own).map(|node| read.ids[node]).collect()
        };
        let first = ids(&take());
        let more: Vec<Box<[u64; 6]>> = (0..100).map(|number| Box::new([number; 6])).collect();
        let second = ids(&take());
        assert!(first.len() >= 500 && first.is_subset(&second), "{} {}", first.len(), second.len());
        assert!(second.len() >= first.len() + 100);
        drop((kept, more));
    });
}

/// Runs a program, takes a graph while what it made is alive, and checks that nothing looks leaked.
fn leaks_nothing<R>(name: &str, program: impl FnOnce() -> R) -> R {
    let result = on_clean_stack(program);
    let graph = take();
    let leaks = graph.leaks();
    assert!(leaks.is_empty(), "{name}: {leaks}");
    let summary = graph.summary();
    println!("{name}: {summary}; pause {:?}", graph.pause());
    assert!(summary.rooted_blocks > 10, "{name}");
    result
}

#[test]
fn programs_of_other_peoples_crates_leak_nothing() {
    traced("programs_of_other_peoples_crates_leak_nothing", || {
        drop(leaks_nothing("JSON", || {
            let text: String = (0..500).map(|number| format!("{{\"{number}\":[{number},[\"x{number}\"]]}},")).collect();
            serde_json::from_str::<Value>(&format!("[{}0]", text)).expect("JSON")
        }));
        drop(leaks_nothing("XML", || {
            let text: &'static str = "<a><b c='1'>text</b><b c='2'/></a>";
            roxmltree::Document::parse(text).expect("XML")
        }));
        drop(leaks_nothing("a parser", || syn::parse_file(include_str!("graph_files.rs")).expect("it compiles")));
        drop(leaks_nothing("persistent maps", || {
            let first: im::HashMap<u64, String> = (0..3000).map(|key| (key, format!("{key:30}"))).collect();
            let second = first.update(7, "other".to_owned()).without(&8);
            let ordered: im::OrdMap<u64, im::Vector<u64>> =
                (0..300_u64).map(|key| (key, (0..key).collect::<im::Vector<u64>>())).collect();
            (first, second, ordered)
        }));
        drop(leaks_nothing("a compressor", || {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut encoder, &[7; 100_000]).expect("memory");
            encoder
        }));
        drop(leaks_nothing("tokens", || {
            include_str!("graph_files.rs").parse::<proc_macro2::TokenStream>().expect("tokens")
        }));
        leaks_nothing("an async server", server).shutdown_background();
        drop(leaks_nothing("a pool of threads", thread_pool));
        drop(leaks_nothing("a game loop", game));
        drop(leaks_nothing("a database", database));
    });
}

/// Connections that answer each other, all of them waiting.
fn server() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("threads");
    runtime.block_on(async {
        let (send, mut receive) = tokio::sync::mpsc::channel::<(u64, tokio::sync::oneshot::Sender<String>)>(16);
        tokio::spawn(async move {
            while let Some((number, answer)) = receive.recv().await {
                // Who asked may be gone.
                let _ = answer.send(format!("answer {number}"));
            }
        });
        for number in 0..500 {
            let send = send.clone();
            tokio::spawn(async move {
                let (answer, answered) = tokio::sync::oneshot::channel();
                send.send((number, answer)).await.expect("the server runs");
                let text = answered.await.expect("an answer");
                tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
                drop(text);
            });
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    });
    runtime
}

type Job = Box<dyn FnOnce() -> Vec<u64> + Send>;

/// Jobs that are done, waiting and under way.
fn thread_pool() -> (mpsc::Sender<Job>, mpsc::Receiver<Vec<u64>>, Vec<thread::JoinHandle<()>>) {
    let (send, receive) = mpsc::channel::<Job>();
    let (done, results) = mpsc::channel();
    let receive = Arc::new(std::sync::Mutex::new(receive));
    let workers = (0..3).map(|_| {
        let (receive, done) = (Arc::clone(&receive), done.clone());
        thread::spawn(move || {
            loop {
                let job = receive.lock().expect("no panic").recv();
                let Ok(job) = job else { return };
                if done.send(job()).is_err() {
                    return;
                }
            }
        })
    });
    let workers = workers.collect();
    for number in 0..200 {
        send.send(Box::new(move || (0..number).collect())).expect("workers");
    }
    (send, results, workers)
}

/// Things in a world by their numbers, some of which were destroyed, and who is near whom.
fn game() -> (Vec<Option<Box<dyn Fn(f64) -> f64>>>, HashMap<(i32, i32), Vec<usize>>) {
    let mut things: Vec<Option<Box<dyn Fn(f64) -> f64>>> = Vec::new();
    let mut near: HashMap<(i32, i32), Vec<usize>> = HashMap::new();
    let mut rng = Rng::new(9);
    for frame in 0..2000_usize {
        let speed = frame as f64;
        things.push(Some(Box::new(move |time| time * speed)));
        near.entry((rng.below(20) as i32, rng.below(20) as i32)).or_default().push(frame);
        if frame > 100 {
            things[rng.below(frame - 100)] = None;
        }
        black_box(things.iter().flatten().map(|thing| thing(0.1)).sum::<f64>());
    }
    (things, near)
}

/// Rows, and indexes that share their keys.
fn database() -> (Vec<Arc<(String, u64)>>, BTreeMap<u64, Vec<Arc<(String, u64)>>>, HashMap<String, Arc<(String, u64)>>)
{
    let (mut rows, mut by_number, mut by_name) = (Vec::new(), BTreeMap::<_, Vec<_>>::new(), HashMap::new());
    for number in 0..2000_u64 {
        let row = Arc::new((format!("row {number:10}"), number % 90));
        by_number.entry(row.1).or_default().push(Arc::clone(&row));
        by_name.insert(row.0.clone(), Arc::clone(&row));
        rows.push(row);
    }
    rows.retain(|row| row.1 % 7 != 0);
    (rows, by_number, by_name)
}

#[test]
fn what_a_server_forgets_is_found_behind_its_tasks() {
    traced("what_a_server_forgets_is_found_behind_its_tasks", || {
        let mut lost = Hidden::default();
        let runtime = on_clean_stack(|| {
            let runtime = server();
            let (send, receive) = mpsc::channel();
            for number in 0..200_u64 {
                let send = send.clone();
                runtime.spawn(async move {
                    tokio::task::yield_now().await;
                    send.send(!(&raw const *Box::leak(Box::new([number; 13]))).addr()).expect("the test waits");
                });
            }
            receive.iter().take(200).for_each(|address| lost.note_inverted(address));
            runtime
        });
        let graph = take();
        lost.assert_mostly_unreachable(&graph, 99);
        assert_eq!(graph.leaks().iter().map(|leak| leak.count).sum::<usize>(), lost.count(&graph, Reach::Unreachable));
        runtime.shutdown_background();
    });
}
