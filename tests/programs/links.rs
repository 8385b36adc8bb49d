//! The links of the documents, and the paths that they name: the test fails if one does not exist.
//!
//! The README is also shown outside of the tree, so its links begin with the repository's address and the version's
//! tag. Here they are looked up in the tree that gets that tag. Addresses of other sites are not looked up.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Folders without documents or paths to check, besides those of build outputs.
const LEFT_OUT: [&str; 2] = ["corpus", ".git"];

/// Records of past runs: they name files by their names at that time.
const RECORDS: [&str; 1] = ["docs/records"];

/// The endings of file names that documents mention.
const ENDINGS: [&str; 9] = ["rs", "md", "sh", "py", "toml", "svg", "csv", "txt", "js"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if !path.is_dir() {
            found.push(path);
        } else if !LEFT_OUT.contains(&name) && !name.starts_with("target") {
            files_below(&path, found);
        }
    }
}

/// A document without its code blocks, in which brackets have other meanings.
fn prose(text: &str) -> String {
    let mut code = false;
    let keeps = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !fence && !code
    };
    text.lines().filter(keeps).collect::<Vec<_>>().join("\n")
}

/// The parts of a text between single backquotes, and the text without them.
fn split_code(prose: &str) -> (Vec<&str>, String) {
    let parts: Vec<&str> = prose.split('`').collect();
    let code = parts.iter().skip(1).step_by(2).copied().collect();
    (code, parts.into_iter().step_by(2).collect::<Vec<_>>().join("…"))
}

/// The targets of `[text](target)` and of `[label]: target`, pictures among them.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let within = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    within.chain(definitions(text).map(|(_, target)| target))
}

fn definitions(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
}

/// The labels of `[text][label]`.
fn labels(text: &str) -> impl Iterator<Item = &str> {
    text.split("][").skip(1).filter_map(|rest| rest.split_once(']')).map(|(label, _)| label)
}

/// The anchors of a document's headings, as the forges make them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = HashMap::new();
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let letters = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        letters.map(|letter| if letter == ' ' { '-' } else { letter }).collect::<String>()
    };
    headings
        .map(|heading| {
            let anchor = anchor(heading);
            let count = seen.entry(anchor.clone()).or_insert(0);
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

/// The path without its `..` parts, which may lead out of folders that do not exist.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// The fault of a target, or `None`. The document is named by its path from the root.
fn fault(root: &Path, document: &Path, target: &str) -> Option<String> {
    let ours = REPOSITORY.strip_prefix("https://github.com/").expect("a forge whose addresses are known");
    let (address, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let apart = document == Path::new("README.md");
    let inner = [
        format!("{REPOSITORY}/blob/v{VERSION}/"),
        format!("{REPOSITORY}/tree/v{VERSION}/"),
        format!("https://raw.githubusercontent.com/{ours}/v{VERSION}/"),
    ];
    let path = if address.is_empty() {
        document.to_path_buf()
    } else if let Some(path) = inner.iter().find_map(|inner| address.strip_prefix(inner)) {
        PathBuf::from(path)
    } else if address.starts_with(REPOSITORY) || address.contains(&format!("/{ours}/")) {
        return Some(format!("not pinned to v{VERSION}"));
    } else if address.contains("://") || address.starts_with("mailto:") {
        return None;
    } else if apart {
        return Some("works in the tree only".into());
    } else {
        plain(&document.parent().expect("a file").join(address))
    };
    if !root.join(&path).exists() {
        return Some(format!("{} is not there", path.display()));
    }
    let anchor = anchor.filter(|_| path.extension().is_some_and(|extension| extension == "md"))?;
    let text = fs::read_to_string(root.join(&path)).expect("readable");
    (!anchors(&text).iter().any(|known| known == anchor)).then(|| format!("{} has no #{anchor}", path.display()))
}

/// Whether code in a document is a path of the tree that does not exist. A path is the name of a source file, or a text
/// that begins with a folder of the root or of the document's folder. A source may be named from any folder on:
/// `cache/mod.rs`.
fn is_missing(root: &Path, files: &[PathBuf], document: &Path, code: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let (first, ending) =
        (code.split_once('/').map(|(first, _)| first), code.rsplit_once('.').map(|(_, ending)| ending));
    if !code.chars().all(plain) || code.starts_with(['/', '.']) || code.starts_with("target/") {
        return false;
    }
    if ending == Some("rs") && code.len() > 3 {
        return !files.iter().any(|file| file.ends_with(code));
    }
    let beside = document.parent().expect("a file");
    let starts_here = first.is_some_and(|first| root.join(first).is_dir());
    let is_name = code.ends_with('/') || ending.is_some_and(|ending| ENDINGS.contains(&ending));
    starts_here && is_name && ![root, &root.join(beside)].iter().any(|folder| folder.join(code).exists())
}

/// The faults of a document, one line each.
fn faults(root: &Path, files: &[PathBuf], document: &Path, text: &str) -> Vec<String> {
    let prose = prose(text);
    let (code, rest) = split_code(&prose);
    let record = RECORDS.iter().any(|record| document.starts_with(record));
    let missing = code.into_iter().filter(|code| !record && is_missing(root, files, document, code));
    let mut faults: Vec<String> =
        missing.map(|path| format!("{}: `{path}` is not there", document.display())).collect();
    let defined: HashSet<&str> = definitions(&rest).map(|(label, _)| label).collect();
    let used: HashSet<&str> = labels(&rest).collect();
    faults.extend(used.symmetric_difference(&defined).map(|label| {
        let missing = if used.contains(label) { "leads nowhere" } else { "is not used" };
        format!("{}: [{label}] {missing}", document.display())
    }));
    faults.extend(targets(&rest).filter_map(|target| {
        fault(root, document, target).map(|fault| format!("{}: {target}: {fault}", document.display()))
    }));
    faults
}

#[test]
fn every_link_and_every_path_of_the_documents_leads_somewhere() {
    let root = root();
    let mut files = Vec::new();
    files_below(&root, &mut files);
    let documents: Vec<_> = files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "md")).collect();
    assert!(documents.len() > 30, "{} documents", documents.len());
    let mut found = Vec::new();
    for document in documents {
        let name = document.strip_prefix(&root).expect("below it");
        found.extend(faults(&root, &files, name, &fs::read_to_string(document).expect("readable")));
    }
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

#[test]
fn each_kind_of_fault_is_found() {
    let (root, readme, page) = (root(), Path::new("README.md"), Path::new("docs/README.md"));
    let files = [root.join("src/lib.rs"), root.join("preload/src/lib.rs")];
    let raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com");
    let bad = [
        (readme, "[a](docs/testing.md)".to_owned(), "works in the tree only"),
        (readme, format!("[a]({REPOSITORY}/blob/main/docs/testing.md)"), "not pinned"),
        (readme, format!("![a]({raw}/main/docs/img/fork.svg)"), "not pinned"),
        (readme, format!("[a]({REPOSITORY}/blob/v{VERSION}/docs/gone.md)"), "docs/gone.md is not there"),
        (readme, format!("[a\nb]({REPOSITORY}/blob/v{VERSION}/docs/testing.md#gone)"), "has no #gone"),
        (readme, "[a](#gone)".to_owned(), "has no #gone"),
        (readme, "[a][b]\n\n[b]: docs/testing.md".to_owned(), "works in the tree only"),
        (readme, "[a][gone]".to_owned(), "[gone] leads nowhere"),
        (readme, "[gone]: #licence".to_owned(), "[gone] is not used"),
        (page, "[`a`](design/gone.md)".to_owned(), "docs/design/gone.md is not there"),
        (page, "[a](../README.md#gone)".to_owned(), "has no #gone"),
        (page, "see `src/gone.rs` for it".to_owned(), "`src/gone.rs` is not there"),
        (page, "[a](records/mutants.md#gone)".to_owned(), "has no #gone"),
        (page, "see `gone.rs`".to_owned(), "`gone.rs` is not there"),
        (page, "see `docs/gone.md`".to_owned(), "`docs/gone.md` is not there"),
        (page, "in `tests/gone/`".to_owned(), "`tests/gone/` is not there"),
    ];
    for (document, text, says) in &bad {
        let found = faults(&root, &files, document, text);
        assert!(found.len() == 1 && found[0].contains(says), "{text}: {found:?}");
    }
    let good = [
        (readme, format!("[a]({REPOSITORY}/blob/v{VERSION}/docs/testing.md#tools) and [b](#licence)")),
        (readme, "[a][b], ![a\nc][b]\n\n[b]: #licence".to_owned()),
        (readme, format!("![a]({raw}/v{VERSION}/docs/img/fork.svg)")),
        (page, "[a](testing.md#tools), [b](../src/), `src/lib.rs`, `tests/`, `src/*.rs`".to_owned()),
        (page, "`preload/src/lib.rs`, `img/fork.svg`, `lib.rs`".to_owned()),
        (page, "[a](https://example.org/gone) `[b](gone.md)`\n```\n[c](gone.md)\n```".to_owned()),
    ];
    for (document, text) in &good {
        assert_eq!(faults(&root, &files, document, text), Vec::<String>::new(), "{text}");
    }
}
