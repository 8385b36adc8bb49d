//! Programs that read and work on text: a document, source code, patterns, a script, a table.

use crate::measure::{Outcome, measure};
use crate::random::Random;
use peers::params::{
    CSV_ROUNDS, CSV_ROWS, JSON_RECORDS, JSON_ROUNDS, REGEX_ROUNDS, SCRIPT_ROUNDS, SEED, SYN_ITEMS,
    SYN_ROUNDS, Scale,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub fn json(scale: Scale) -> Outcome {
    let rounds = scale.of(JSON_ROUNDS);
    let mut random = Random::new(SEED);
    let records: Vec<Value> = (0..JSON_RECORDS)
        .map(|id| {
            json!({
                "id": id,
                "name": format!("customer number {id}"),
                "balance": random.below(100_000) as f64 / 100.0,
                "active": random.below(2) == 0,
                "tags": (0..random.below(6)).map(|tag| format!("tag-{tag}")).collect::<Vec<_>>(),
                "address": { "street": format!("{id} High Street"), "city": "Springfield" },
                "parent": null,
            })
        })
        .collect();
    let document = serde_json::to_string(&records).expect("a document");
    measure(rounds * JSON_RECORDS, || {
        let mut sum = 0;
        for round in 0..rounds {
            let mut value: Value = serde_json::from_str(&document).expect("it was printed");
            for record in value.as_array_mut().expect("a list of records") {
                record["round"] = json!(round);
                record["address"]["country"] = json!("Nowhere");
            }
            sum += serde_json::to_string(&value).expect("a document").len() as u64;
        }
        sum
    })
}

/// Source text with the constructs that source text has.
fn rust_source() -> String {
    let mut source = String::new();
    for number in 0..SYN_ITEMS {
        write!(
            source,
            r#"
/// Item number {number}.
#[derive(Debug, Clone, PartialEq)]
pub struct Item{number}<'a, T: Clone + 'a> where T: std::fmt::Debug {{
    pub name: &'a str,
    values: Vec<Option<T>>,
    nested: std::collections::HashMap<String, Result<Box<T>, [u8; {number}]>>,
}}
impl<'a, T: Clone + std::fmt::Debug> Item{number}<'a, T> {{
    pub fn work(&mut self, count: usize, f: impl Fn(&T) -> bool) -> Result<usize, String> {{
        let mut total = 0usize;
        for (index, value) in self.values.iter().enumerate().filter(|(i, _)| i % 3 == 0) {{
            match value {{
                Some(inner) if f(inner) && index < count => total += index * {number} + 1,
                Some(_) => continue,
                None => return Err(format!("missing {{}} of {{}}", index, self.name)),
            }}
        }}
        if let Some(last) = self.values.last().and_then(|v| v.as_ref()) {{
            println!("{{:?}}", last);
        }} else {{
            self.values.push(None);
        }}
        Ok((total << 2) ^ self.nested.get("key").map_or(0, |r| r.is_ok() as usize))
    }}
}}
"#
        )
        .expect("a string can be written to");
    }
    source
}

pub fn syn(scale: Scale) -> Outcome {
    let rounds = scale.of(SYN_ROUNDS);
    let source = rust_source();
    measure(rounds * SYN_ITEMS, || {
        let parse = |_| syn::parse_file(&source).expect("valid Rust").items.len() as u64;
        (0..rounds).map(parse).sum()
    })
}

pub fn regex(scale: Scale) -> Outcome {
    const SHAPES: [&str; 10] = [
        r"^(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})$",
        r"(?i)\b[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,6}\b",
        r"(foo|bar|baz|quux)+(\s+(alpha|beta|gamma)){1,5}",
        r"https?://([\w-]+\.)+[\w-]+(/[\w ./?%&=-]*)?",
        r"^\s*(?:fn|struct|enum|impl|trait)\s+([A-Za-z_]\w*)",
        r"([0-9a-f]{2}:){5}[0-9a-f]{2}",
        r#""(?:[^"\\]|\\.)*""#,
        r"(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3}",
        r"[\p{Greek}\p{Cyrillic}]+",
        r"(a|b)*c{3,9}(d|e|f)?$",
    ];
    const TEXT: &str =
        "On 2024-02-29 fn main() met foo bar alpha at http://a.example/x?y=1, 10.0.0.1";
    let rounds = scale.of(REGEX_ROUNDS);
    // Four variants of each shape, so that no two patterns are the same.
    let patterns: Vec<String> =
        (0..40).map(|number| format!("{}|x{number}", SHAPES[number % SHAPES.len()])).collect();
    measure(rounds * patterns.len(), || {
        let mut matches = 0;
        for pattern in patterns.iter().cycle().take(rounds * patterns.len()) {
            let regex = regex::Regex::new(pattern).expect("a valid pattern");
            matches += regex.find_iter(TEXT).count() as u64;
        }
        matches
    })
}

pub fn script(scale: Scale) -> Outcome {
    const SCRIPT: &str = r#"
        fn fibonacci(n) { if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) } }
        let people = [];
        for id in 0..300 {
            people.push(#{ id: id, name: "person " + id, tags: ["a" + id % 7, "b"], age: id % 90 });
        }
        let adults = people.filter(|p| p.age >= 18).map(|p| p.name.to_upper() + "!");
        let by_age = #{};
        for p in people {
            let key = "age-" + p.age;
            if key in by_age { by_age[key] += 1; } else { by_age[key] = 1; }
        }
        let text = "";
        for name in adults { text += name; }
        text.len + by_age.len() + fibonacci(14)
    "#;
    let rounds = scale.of(SCRIPT_ROUNDS);
    let engine = rhai::Engine::new();
    measure(rounds, || {
        let run = |_| engine.eval::<i64>(SCRIPT).expect("a valid script").unsigned_abs();
        (0..rounds).map(run).sum()
    })
}

pub fn csv_group(scale: Scale) -> Outcome {
    let rounds = scale.of(CSV_ROUNDS);
    let mut random = Random::new(SEED);
    let mut table = String::from("id,city,product,price\n");
    for id in 0..CSV_ROWS {
        let (city, product) = (random.below(300), random.below(40));
        writeln!(table, "{id},city number {city},product {product},{}", random.below(10_000))
            .expect("a string can be written to");
    }
    measure(rounds * CSV_ROWS, || {
        let mut sum = 0;
        for _ in 0..rounds {
            let mut groups: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
            let mut reader = csv::Reader::from_reader(table.as_bytes());
            // A record of its own a row, as the plain interface of the crate has it.
            for row in reader.records() {
                let row = row.expect("a valid row");
                let price = row[3].parse().expect("a number");
                groups.entry(row[1].to_owned()).or_default().push((row[2].to_owned(), price));
            }
            for products in groups.values() {
                sum += products.iter().map(|(name, price)| price + name.len() as u64).sum::<u64>();
            }
        }
        sum
    })
}
