//! The hot paths of crates that do not know this allocator, checked against independent results.
#![cfg(not(pymalloc_bypass))]

#[path = "../common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::Duration;

use common::{Rng, assert_live_near, assert_sound, one_at_a_time};
use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// The live blocks before a program ran. A few may stay: crates keep some in statics, the test harness some for its
/// threads. A program that leaks its tens of thousands of blocks is found.
const SLACK_BLOCKS: usize = 200;

/// Shows that our pools served a program: its blocks are live in between, and freed afterwards.
struct Served {
    before: usize,
    _one: MutexGuard<'static, ()>,
}

impl Served {
    fn from_here() -> Self {
        let one = one_at_a_time();
        Self { before: assert_sound().blocks_live(), _one: one }
    }

    fn holds_at_least(&self, blocks: usize) {
        let now = assert_sound().blocks_live();
        assert!(now + SLACK_BLOCKS >= self.before + blocks, "{} blocks live before, {now} now", self.before);
    }

    fn ends(self) {
        assert_live_near(self.before, SLACK_BLOCKS);
    }
}

mod json {
    use super::*;
    use serde_json::{Value, json};

    type Model = BTreeMap<String, (u64, Vec<u64>)>;

    fn document(model: &Model) -> Value {
        let members = model.iter().map(|(name, (id, numbers))| {
            let tags: Vec<String> = numbers.iter().map(|number| format!("tag \"{number}\"\n")).collect();
            (name.clone(), json!({ "id": id, "numbers": numbers, "nested": { "tags": tags } }))
        });
        Value::Object(members.collect())
    }

    fn read_back(document: &Value) -> Model {
        let members = document.as_object().expect("an object").iter();
        members
            .map(|(name, value)| {
                let numbers = value["numbers"].as_array().expect("an array").iter();
                let numbers: Vec<u64> = numbers.map(|number| number.as_u64().expect("a number")).collect();
                let tags = value["nested"]["tags"].as_array().expect("an array");
                assert!(tags.iter().zip(&numbers).all(|(tag, number)| *tag == format!("tag \"{number}\"\n")));
                (name.clone(), (value["id"].as_u64().expect("a number"), numbers))
            })
            .collect()
    }

    #[test]
    fn documents_are_built_written_parsed_and_changed() {
        let served = Served::from_here();
        let mut rng = Rng::new(1);
        let mut model = Model::new();
        for id in 0..5000 {
            let numbers = (0..rng.below(10)).map(|_| rng.next()).collect();
            model.insert(format!("member {id} {:x}", rng.next()), (id, numbers));
        }
        let built = document(&model);
        let mut parsed: Value = serde_json::from_str(&built.to_string()).expect("valid");
        assert_eq!(parsed, built);
        assert_eq!(read_back(&parsed), model);
        let pretty = serde_json::to_vec_pretty(&built).expect("it has string keys");
        assert_eq!(serde_json::from_slice::<Value>(&pretty).expect("valid"), built);
        served.holds_at_least(50_000);

        let names: Vec<String> = model.keys().cloned().collect();
        for name in &names {
            match rng.below(4) {
                0 => {
                    model.remove(name);
                    parsed.as_object_mut().expect("an object").remove(name);
                }
                1 => {
                    let number = rng.next();
                    model.get_mut(name).expect("there").1.push(number);
                    let value = &mut parsed[name];
                    value["numbers"].as_array_mut().expect("an array").push(json!(number));
                    let tags = value["nested"]["tags"].as_array_mut().expect("an array");
                    tags.push(json!(format!("tag \"{number}\"\n")));
                }
                2 => {
                    let entry = (rng.next(), vec![rng.next()]);
                    let new = document(&Model::from([(name.clone(), entry.clone())]));
                    parsed[name] = new[name].clone();
                    model.insert(name.clone(), entry);
                }
                _ => {}
            }
        }
        assert_eq!(read_back(&parsed), model);
        drop((built, parsed, pretty, names, model));
        served.ends();
    }
}

mod rust_source {
    use super::*;
    use syn::{BinOp, Block, Expr, Item, Lit, Stmt};

    const FUNCTIONS: usize = 400;

    /// An expression and its value.
    fn expression(rng: &mut Rng, depth: usize) -> (String, u64) {
        if depth == 0 {
            let value = rng.next() >> 40;
            return (value.to_string(), value);
        }
        let (left, left_value) = expression(rng, depth - 1);
        let (right, right_value) = expression(rng, rng.clone().below(depth));
        if rng.below(2) == 0 {
            (format!("({left} + {right})"), left_value.wrapping_add(right_value))
        } else {
            (format!("({left} ^ {right})"), left_value ^ right_value)
        }
    }

    /// Source text, and the value of each variable by function and variable.
    fn source(rng: &mut Rng) -> (String, BTreeMap<(String, usize), u64>) {
        let (mut text, mut values) = (String::new(), BTreeMap::new());
        for function in 0..FUNCTIONS {
            let name = format!("function_{function}");
            writeln!(text, "/// Of number {function}.\npub fn {name}<T: Clone>(it: &[T]) -> Option<T> {{")
                .expect("memory");
            for variable in 0..10 {
                let (expression, value) = expression(rng, 5);
                writeln!(text, "    let v{variable}: u64 = {expression};").expect("memory");
                values.insert((name.clone(), variable), value);
            }
            text.push_str("    match it { [first, ..] => Some(first.clone()), _ => None }\n}\n");
        }
        (text, values)
    }

    fn evaluate(expr: &Expr) -> u64 {
        match expr {
            Expr::Paren(paren) => evaluate(&paren.expr),
            Expr::Binary(binary) => {
                let (left, right) = (evaluate(&binary.left), evaluate(&binary.right));
                match binary.op {
                    BinOp::Add(_) => left.wrapping_add(right),
                    BinOp::BitXor(_) => left ^ right,
                    _ => panic!("only those are written"),
                }
            }
            Expr::Lit(literal) => match &literal.lit {
                Lit::Int(number) => number.base10_parse().expect("a u64"),
                _ => panic!("only numbers are written"),
            },
            _ => panic!("nothing else is written"),
        }
    }

    fn variables(block: &Block) -> Vec<u64> {
        let locals = block.stmts.iter().filter_map(|statement| match statement {
            Stmt::Local(local) => local.init.as_ref(),
            _ => None,
        });
        locals.map(|init| evaluate(&init.expr)).collect()
    }

    #[test]
    fn a_large_source_is_parsed_and_evaluated() {
        let served = Served::from_here();
        let (text, expected) = source(&mut Rng::new(2));
        let file = syn::parse_file(&text).expect("valid");
        let copy = file.clone();
        served.holds_at_least(50_000);
        drop(file);
        let mut found = BTreeMap::new();
        for item in &copy.items {
            let Item::Fn(function) = item else { panic!("only functions are written") };
            for (variable, value) in variables(&function.block).into_iter().enumerate() {
                found.insert((function.sig.ident.to_string(), variable), value);
            }
        }
        assert_eq!(found, expected);
        drop((text, expected, copy, found));
        served.ends();
    }

    fn sources_below(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                sources_below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(std::fs::read_to_string(&path).expect("readable"));
            }
        }
    }

    /// Every name that follows a `fn`, even in comments and in blocks.
    fn names_after_fn(text: &str) -> BTreeSet<&str> {
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let rests = text.split("fn ").skip(1);
        rests.filter_map(|rest| rest.split(|letter| !is_name(letter)).next()).collect()
    }

    #[test]
    fn our_own_sources_are_parsed_in_several_threads() {
        let served = Served::from_here();
        let mut sources = Vec::new();
        for folder in ["src", "tests", "examples", "benches"] {
            let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(folder);
            sources_below(&folder, &mut sources);
        }
        let functions: usize = thread::scope(|scope| {
            let threads: Vec<_> = sources
                .iter()
                .map(|text| {
                    scope.spawn(|| {
                        let file = syn::parse_file(text).expect("it compiles");
                        let functions = file.items.iter().filter_map(|item| match item {
                            Item::Fn(function) => Some(function.sig.ident.to_string()),
                            _ => None,
                        });
                        let functions: BTreeSet<String> = functions.collect();
                        let names = names_after_fn(text);
                        for name in &functions {
                            assert!(names.contains(name.as_str()), "{name} in {names:?}");
                        }
                        functions.len()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("its checks passed")).sum()
        });
        assert!(functions > 100, "{functions} functions");
        drop(sources);
        served.ends();
    }
}

mod tasks {
    use super::*;
    use tokio::runtime::Builder;
    use tokio::sync::{mpsc, oneshot};

    const TASKS: u64 = 20_000;
    const KEYS: u64 = 100;

    /// Sleeps a little, sends its result in parts, and answers when all parts are sent. Stops if the receiver is gone:
    /// then the test has failed already.
    async fn work(number: u64, parts: mpsc::Sender<(String, u64)>, done: oneshot::Sender<u64>) {
        let mut rng = Rng::new(number);
        tokio::time::sleep(Duration::from_millis(rng.next() % 20)).await;
        for part in 0..3 {
            tokio::task::yield_now().await;
            let key = format!("key {}", (number + part) % KEYS);
            if parts.send((key, number * part)).await.is_err() {
                return;
            }
        }
        let _ = done.send(number);
    }

    #[test]
    fn tasks_timers_and_channels_lose_nothing() {
        let served = Served::from_here();
        let runtime = Builder::new_multi_thread().worker_threads(4).enable_time().build().expect("threads");
        let collected = runtime.block_on(async {
            let (sender, mut receiver) = mpsc::channel::<(String, u64)>(64);
            let mut answers = Vec::new();
            for number in 0..TASKS {
                let (done, answer) = oneshot::channel();
                tokio::spawn(work(number, sender.clone(), done));
                answers.push(answer);
            }
            drop(sender);
            // The channel is full long before the last task is done: most tasks are live now.
            served.holds_at_least(TASKS as usize);
            let mut collected = BTreeMap::<String, (u64, u64)>::new();
            while let Some((key, value)) = receiver.recv().await {
                let entry = collected.entry(key).or_default();
                *entry = (entry.0 + 1, entry.1 + value);
            }
            for (number, answer) in (0..).zip(answers) {
                assert_eq!(answer.await, Ok(number));
            }
            collected
        });
        drop(runtime);

        let mut expected = BTreeMap::<String, (u64, u64)>::new();
        for (number, part) in (0..TASKS).flat_map(|number| [(number, 0), (number, 1), (number, 2)]) {
            let entry = expected.entry(format!("key {}", (number + part) % KEYS)).or_default();
            *entry = (entry.0 + 1, entry.1 + number * part);
        }
        assert_eq!(collected, expected);
        drop((collected, expected));
        served.ends();
    }
}

mod persistent {
    use super::*;
    use im::{HashMap, OrdMap, Vector};

    const ENTRIES: u64 = 20_000;

    fn value(key: u64) -> String {
        format!("the value of {key}")
    }

    /// Changes its own versions of the maps, whose nodes other threads share, and a model.
    fn change(number: u64, mut hashed: HashMap<u64, String>, mut ordered: OrdMap<u64, String>) {
        let mut model: BTreeMap<u64, String> = (0..ENTRIES).map(|key| (key, value(key))).collect();
        let mut versions = Vec::new();
        let mut rng = Rng::new(number);
        for step in 0..10_000 {
            let key = rng.next() % (2 * ENTRIES);
            if rng.below(3) == 0 {
                let old = model.remove(&key);
                assert_eq!(hashed.remove(&key), old);
                assert_eq!(ordered.remove(&key), old);
            } else {
                let new = format!("{number} {step}");
                hashed.insert(key, new.clone());
                ordered.insert(key, new.clone());
                model.insert(key, new);
            }
            if step % 1000 == 0 {
                versions.push((hashed.clone(), ordered.clone(), model.clone()));
            }
        }
        versions.push((hashed, ordered, model));
        rng.shuffle(&mut versions);
        for (hashed, ordered, model) in versions {
            assert!(ordered.iter().eq(&model));
            assert_eq!(hashed.len(), model.len());
            assert!(model.iter().all(|(key, value)| hashed.get(key) == Some(value)));
        }
    }

    #[test]
    fn maps_share_their_structure_across_threads() {
        let served = Served::from_here();
        let hashed: HashMap<u64, String> = (0..ENTRIES).map(|key| (key, value(key))).collect();
        let ordered: OrdMap<u64, String> = (0..ENTRIES).map(|key| (key, value(key))).collect();
        served.holds_at_least(2 * ENTRIES as usize);
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (hashed, ordered) = (hashed.clone(), ordered.clone());
                thread::spawn(move || change(number, hashed, ordered))
            })
            .collect();
        for thread in threads {
            thread.join().expect("its checks passed");
        }
        // The first versions have not changed.
        assert!(ordered.iter().map(|(&key, value)| (key, value.clone())).eq((0..ENTRIES).map(|key| (key, value(key)))));
        assert!((0..ENTRIES).all(|key| hashed.get(&key) == Some(&value(key))));
        drop((hashed, ordered));
        served.ends();
    }

    #[test]
    fn vectors_are_split_and_joined() {
        let served = Served::from_here();
        let mut model: Vec<u64> = (0..50_000).collect();
        // The vector's leaves are large; the nodes that it shares are small.
        let mut vector: Vector<Arc<u64>> = model.iter().copied().map(Arc::new).collect();
        let mut rng = Rng::new(3);
        let mut versions = Vec::new();
        for _ in 0..200 {
            let at = rng.below(model.len());
            model.rotate_left(at);
            let (left, right) = vector.split_at(at);
            vector = right + left;
            vector.push_back(Arc::new(at as u64));
            model.push(at as u64);
            versions.push(vector.clone());
        }
        served.holds_at_least(50_000);
        assert!(vector.iter().map(|number| **number).eq(model.iter().copied()));
        drop((vector, versions, model));
        served.ends();
    }
}
