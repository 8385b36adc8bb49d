//! The numbers of the documents: constants, layouts and counts, against the sources that they describe.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of a line of a table, or `None`.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// The text between single backquotes, part by part.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A number as documents write it: `8,192`, `32 KiB`, `2 MiB`.
fn written(text: &str) -> Option<u128> {
    let (digits, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u128 = digits.replace(',', "").parse().ok()?;
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        _ => return None,
    };
    Some(number << shift)
}

/// The constants of a source file by their names, as far as their values are numbers, or follow from others. Of two of
/// one name, the second is the model checker's.
fn constants(source: &str) -> BTreeMap<String, u128> {
    let mut known = BTreeMap::new();
    let items = syn::parse_file(source).expect("Rust").items;
    // Twice: some follow from those behind them.
    for item in items.iter().chain(&items) {
        if let syn::Item::Const(item) = item
            && let Some(value) = value_of(&item.expr, &known)
        {
            known.entry(item.ident.to_string()).or_insert(value);
        }
    }
    known
}

fn value_of(expr: &syn::Expr, known: &BTreeMap<String, u128>) -> Option<u128> {
    match expr {
        syn::Expr::Lit(literal) => match &literal.lit {
            syn::Lit::Int(number) => number.base10_parse().ok(),
            _ => None,
        },
        syn::Expr::Paren(inner) => value_of(&inner.expr, known),
        syn::Expr::Cast(cast) => value_of(&cast.expr, known),
        syn::Expr::Path(path) => {
            let segments: Vec<_> = path.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            match segments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                [name] => known.get(name).copied(),
                ["u64", "BITS"] => Some(64),
                ["u8", "BITS"] => Some(8),
                _ => None,
            }
        }
        syn::Expr::Binary(binary) => {
            let (left, right) = (value_of(&binary.left, known)?, value_of(&binary.right, known)?);
            match binary.op {
                syn::BinOp::Add(_) => left.checked_add(right),
                syn::BinOp::Sub(_) => left.checked_sub(right),
                syn::BinOp::Mul(_) => left.checked_mul(right),
                syn::BinOp::Div(_) => left.checked_div(right),
                syn::BinOp::Shl(_) => left.checked_shl(u32::try_from(right).ok()?),
                _ => None,
            }
        }
        syn::Expr::MethodCall(call) if call.method == "trailing_zeros" => {
            value_of(&call.receiver, known).map(|value| value.trailing_zeros().into())
        }
        // Miri's value comes first.
        syn::Expr::If(choice) => match &*choice.else_branch.as_ref()?.1 {
            syn::Expr::Block(block) => match &block.block.stmts[..] {
                [syn::Stmt::Expr(expr, None)] => value_of(expr, known),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// What a table says of constants: their names, what is written for each, and the file, if a column names one.
fn table_of_constants(page: &str) -> Vec<(String, String, Option<String>)> {
    let mut found = Vec::new();
    for row in page.lines().filter_map(cells) {
        let [names, values, rest @ ..] = &row[..] else { continue };
        let names: Vec<_> = code(names).collect();
        let is_constant = |name: &&str| name.len() > 2 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        if names.is_empty() || !names.iter().all(is_constant) {
            continue;
        }
        let file = rest.first().and_then(|cell| code(cell).next()).filter(|file| file.ends_with(".rs"));
        // `8,192` has no blank behind its comma.
        let values: Vec<_> = values.split(", ").collect();
        for (index, name) in names.iter().enumerate() {
            let value = if names.len() == values.len() { values[index] } else { "as many as there are names" };
            found.push(((*name).to_owned(), value.to_owned(), file.map(str::to_owned)));
        }
    }
    found
}

/// What is wrong in the tables of constants, a line each. `source` gives a file's text.
fn wrong_constants(page: &str, source: impl Fn(&str) -> String) -> Vec<String> {
    const CONFIG: &str = "src/base/config.rs";
    let rows = table_of_constants(page);
    let mut wrong = Vec::new();
    for (name, value, file) in &rows {
        let file = file.as_deref().unwrap_or(CONFIG);
        let known = constants(&source(file));
        match (written(value), known.get(name)) {
            (Some(written), Some(known)) if written == *known => {}
            (_, Some(known)) => wrong.push(format!("{name}: the page says {value}, {file} says {known}")),
            (_, None) => wrong.push(format!("{name}: not a constant of {file} with a number")),
        }
    }
    let is_there = |name: &String| rows.iter().any(|(row, ..)| row == name);
    // All names, also those whose values are not understood.
    let items = syn::parse_file(&source(CONFIG)).expect("Rust").items;
    let names = items.iter().filter_map(|item| match item {
        syn::Item::Const(item) if item.ident != "_" => Some(item.ident.to_string()),
        _ => None,
    });
    wrong.extend(names.filter(|name| !is_there(name)).map(|name| format!("{name}: not in the table")));
    wrong
}

/// The rows of the tables whose first heading is a type's name, with the columns "offset" and "bytes".
fn layouts(page: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut tables: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match cells(line).as_deref() {
            Some([name, "offset", "bytes", ..]) => {
                inside = true;
                tables.push((code(name).next().unwrap_or("a table without a type").to_owned(), Vec::new()));
            }
            Some([field, offset, ..]) if inside && !field.starts_with('-') => {
                if let Some((_, rows)) = tables.last_mut() {
                    rows.push((code(field).next().unwrap_or("a row without a field").to_owned(), (*offset).to_owned()));
                }
            }
            Some(_) => {}
            None => inside = false,
        }
    }
    tables
}

/// What is wrong in the tables of layouts: each offset must be one that the source asserts.
fn wrong_layouts(page: &str, asserted: &str) -> Vec<String> {
    // Without blanks and what separates digits.
    let plain =
        |text: &str| text.chars().filter(|letter| !letter.is_whitespace() && *letter != '_').collect::<String>();
    let asserted = asserted.replace("core::mem::", "");
    let source = plain(&asserted);
    let mut wrong = Vec::new();
    for (name, rows) in layouts(page) {
        for (field, offset) in rows {
            let claim = plain(&format!("offset_of!({name}, {field}) == {}", offset.replace(',', "")));
            let ends = |rest: &str| !rest.starts_with(|letter: char| letter.is_ascii_digit());
            if !source.match_indices(&claim).any(|(at, _)| ends(&source[at + claim.len()..])) {
                wrong.push(format!("{name}: no assertion says that `{field}` is at {offset}"));
            }
        }
    }
    wrong
}

/// The models that the page of the models names.
fn models_of(page: &str) -> Vec<String> {
    let rows = page.lines().filter_map(cells).filter(|row| row.len() == 4);
    rows.filter_map(|row| code(row[1]).next().filter(|name| name.matches('_').count() > 3).map(str::to_owned)).collect()
}

/// The models of a test binary: those of its file, and of the folder of that name.
fn models_in(binary: &str) -> Vec<String> {
    let mut files = vec![root().join(format!("{binary}.rs"))];
    if let Ok(folder) = fs::read_dir(root().join(binary)) {
        files.extend(folder.map(|entry| entry.expect("readable").path()));
    }
    let mut there = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a source");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.trim() == "#[test]" {
                let function = lines.find(|line| line.trim().starts_with("fn ")).expect("a function");
                let name = function.trim().trim_start_matches("fn ").split('(').next().expect("a name");
                there.push(name.to_owned());
            }
        }
    }
    there
}

#[test]
fn the_tables_of_constants_are_those_of_the_source() {
    let page = text_of("docs/design/01-strategy.md");
    assert!(table_of_constants(&page).len() > 40);
    let wrong = wrong_constants(&page, text_of);
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_layouts_are_those_that_the_compiler_checks() {
    let sources = ["src/heap/pool.rs", "src/heap/arena.rs", "src/heap/set.rs", "src/cache/magazine.rs"];
    let mut asserted: String = sources.map(text_of).concat();
    asserted.push_str(&text_of("src/protocols/remote.rs"));
    let pages = ["04-pool.md", "05-arena.md", "06-thread-cache.md"].map(|page| text_of(&format!("docs/design/{page}")));
    let pages = pages.join("\n\n");
    let names: Vec<_> = layouts(&pages).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["Pool", "RemoteHalf", "Arena", "Magazine", "PoolSet"]);
    let wrong = wrong_layouts(&pages, &asserted);
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_page_of_the_models_has_each_of_them() {
    let page = text_of("docs/loom.md");
    let (claimed, mut there) = (models_of(&page), models_in("tests/loom"));
    let crates = there.len();
    there.extend(models_in("object-pool/tests/loom"));
    let pools = there.len() - crates;
    for name in &claimed {
        assert!(there.contains(name), "{name} is not a model");
    }
    for name in &there {
        assert!(claimed.contains(name), "{name} is not on the page");
    }
    let says = format!("({crates} and {pools} models");
    assert!(page.contains(&says), "the page does not say {says}");
}

/// The messages of a source, which `=>` leads in.
fn messages(source: &str) -> Vec<&str> {
    source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1.strip_suffix("\","))
        .collect()
}

#[test]
fn the_page_of_failures_has_the_message_of_every_abort() {
    let (page, source) = (text_of("docs/design/11-failure-and-misuse.md"), text_of("src/base/fatal.rs"));
    let messages = messages(&source);
    assert!(messages.len() > 9, "{messages:?}");
    for message in messages {
        assert!(page.contains(&format!("`{message}`")), "not on the page: {message}");
    }
}

/// What is wrong in the page of misuse: its first table counts the outcomes of its last.
fn wrong_outcomes(page: &str) -> Vec<String> {
    let rows: Vec<_> = page.lines().filter_map(cells).collect();
    let patterns: Vec<_> = rows.iter().filter(|row| row.len() == 6 && row[0].starts_with('`')).collect();
    let outcomes = ["caught", "prevented", "system's", "missed"];
    let mut wrong = Vec::new();
    for (column, mode) in ["plain", "hardened", "debug"].iter().enumerate() {
        let Some(counts) = rows.iter().find(|row| row.len() == 5 && row[0] == *mode) else {
            wrong.push(format!("{mode}: not counted"));
            continue;
        };
        for (outcome, says) in outcomes.iter().zip(&counts[1..]) {
            let count = patterns.iter().filter(|row| row[3 + column] == *outcome).count();
            let written = if *says == "–" { Some(0) } else { says.parse().ok() };
            if written != Some(count) {
                wrong.push(format!("{mode}: {count} {outcome}, not {says}"));
            }
        }
        let unknown = patterns.iter().filter(|row| !outcomes.contains(&row[3 + column]));
        wrong.extend(
            unknown.map(|row| format!("{mode}: {}: {} is no outcome that is counted", row[0], row[3 + column])),
        );
    }
    wrong
}

#[test]
fn the_outcomes_of_misuse_are_counted_right() {
    let page = text_of("docs/misuse.md");
    let wrong = wrong_outcomes(&page);
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
    let patterns = page.lines().filter_map(cells).filter(|row| row.len() == 6 && row[0].starts_with('`')).count();
    assert!(text_of("docs/README.md").contains(&format!(": {patterns} patterns of misuse")), "{patterns} patterns");
    assert!(
        wrong_outcomes(&page.replacen("| caught | caught | caught |", "| missed | caught | caught |", 1)).len() > 1
    );
}

#[test]
fn each_kind_of_wrong_number_is_found() {
    let page = text_of("docs/design/01-strategy.md");
    let faults = |page: &str| wrong_constants(page, text_of).join("\n");
    for (right, planted, says) in [
        ("| `POOL_BYTES` | 32 KiB |", "| `POOL_BYTES` | 16 KiB |", "POOL_BYTES: the page says 16 KiB"),
        ("| 4, 8 | wholly free", "| 4, 9 | wholly free", "EMPTY_ARENAS_SHARE: the page says 9"),
        ("| `LOCK_SPINS` |", "| `LOCK_SPIN` |", "LOCK_SPINS: not in the table"),
        ("| `FIRST_ROW` | 64 |", "| `FIRST_ROW` | 32 |", "FIRST_ROW: the page says 32"),
        ("| 48, 13 |", "| 48 |", "LEAF_BITS: the page says as many"),
    ] {
        assert!(page.contains(right), "{right}");
        let found = faults(&page.replace(right, planted));
        assert!(found.contains(says), "{planted}: {found}");
    }
    let table = "| `Pool` | offset | bytes |\n|---|---|---|\n| `used` | 40 | 4 |\n";
    assert_eq!(wrong_layouts(table, "assert!(offset_of!(Pool, used) == 40);"), Vec::<String>::new());
    assert_eq!(wrong_layouts(table, "assert!(offset_of!(Pool, used) == 400);").len(), 1);
    assert_eq!(wrong_layouts(table, "assert!(offset_of!(Pool, start) == 40);").len(), 1);
}
