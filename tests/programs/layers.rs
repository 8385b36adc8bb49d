//! The layers of `src/`: a folder imports only from folders below it.
//!
//! Reads the sources with `syn` and looks at every path that begins with `crate::`, in imports and elsewhere. Unit
//! tests and documentation may name what they like.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The folders and files of `src/`, from top to bottom. Those on one line are in the same layer: none imports another.
const LAYERS: [&[&str]; 12] = [
    &["api"],
    &["graph"],
    &["trace", "purge"],
    &["inspect"],
    &["cache"],
    &["pool_set"],
    &["heap", "debug"],
    &["protocols"],
    &["sync"],
    &["base"],
    &["observe"],
    &["os", "marks"],
];

/// Above all layers: `lib.rs` re-exports, unit tests look everywhere.
const ABOVE: [&str; 2] = ["lib", "tests"];

fn layer_of(place: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&place))
}

/// The top-level places of the crate that a file names.
#[derive(Default)]
struct Named(Vec<(String, usize)>);

impl Named {
    /// Notes what follows each `crate ::` in a stream of tokens, because macros are not parsed further.
    fn note_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.note_tokens(group.stream()),
                TokenTree::Ident(word) if word == "crate" => {
                    let line = word.span().start().line;
                    match tokens.get(index + 3) {
                        Some(TokenTree::Ident(place)) => self.0.push((place.to_string(), line)),
                        // `crate::{…}`: the first word after each comma.
                        Some(TokenTree::Group(group)) => self.note_group(group.stream(), line),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    fn note_group(&mut self, tokens: TokenStream, line: usize) {
        let mut starts = true;
        for token in tokens {
            match &token {
                TokenTree::Ident(place) if starts => self.0.push((place.to_string(), line)),
                _ => {}
            }
            starts = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == ',');
        }
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !attributes.iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tokens(quote_of(&item.tree));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter();
        if let (Some(first), Some(place)) = (segments.next(), segments.next())
            && first.ident == "crate"
        {
            self.0.push((place.ident.to_string(), first.ident.span().start().line));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.note_tokens(call.tokens.clone());
    }

    // Links in documentation may lead to any layer.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
}

/// The tokens of an import as text.
fn quote_of(tree: &syn::UseTree) -> TokenStream {
    use quote::ToTokens;
    tree.to_token_stream()
}

/// The imports of a file of `place` that are against the order, one line each.
fn violations(file: &str, place: &str, text: &str) -> Vec<String> {
    let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut named = Named::default();
    named.visit_file(&parsed);
    let own = layer_of(place).unwrap_or_else(|| panic!("{file}: {place} is in no layer: add it to LAYERS"));
    let is_against = |(other, line): (String, usize)| {
        let theirs = layer_of(&other);
        // Items of the crate's root are re-exports from above; the linter knows names that do not exist.
        let allowed = other == place || theirs.is_some_and(|theirs| theirs > own);
        (!allowed).then(|| format!("{file}:{line}: {place} imports {other}, which is not below it"))
    };
    named.0.into_iter().filter_map(is_against).collect()
}

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the source") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_folder_imports_only_from_those_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
    let mut files = Vec::new();
    source_files(&source, &mut files);
    let mut found = Vec::new();
    let mut seen = 0;
    for path in &files {
        let name = path.strip_prefix(&source).expect("inside").to_string_lossy().into_owned();
        let place = name.split('/').next().expect("a name").trim_end_matches(".rs").to_owned();
        if ABOVE.contains(&place.as_str()) {
            continue;
        }
        seen += 1;
        found.extend(violations(&format!("src/{name}"), &place, &fs::read_to_string(path).expect("readable")));
    }
    assert!(seen > 80, "only {seen} files: is the source elsewhere?");
    assert!(found.is_empty(), "imports against the order of the layers:\n{}", found.join("\n"));
}

#[test]
fn an_import_against_the_order_is_found_wherever_it_stands() {
    for (place, text) in [
        ("heap", "use crate::cache::ThreadCache;"),
        ("heap", "use crate::{base::config::POOL_BYTES, pool_set::Inside};"),
        ("base", "pub(crate) fn f() { crate::sync::spin_loop() }"),
        ("inspect", "type T = Vec<crate::trace::Snapshot>;"),
        ("os", "fn f() { println!(\"{}\", crate::heap::arena::ALL_POOLS) }"),
        ("cache", "impl crate::api::allocator::Route for u8 {}"),
        ("heap", "use crate::Pymalloc;"),
    ] {
        assert_eq!(violations("planted.rs", place, text).len(), 1, "{place}: {text}");
    }
    for (place, text) in [
        ("heap", "use crate::base::config::POOL_BYTES; use crate::heap::arena::Arena; use core::ptr;"),
        ("heap", "#[cfg(test)] mod tests { use crate::cache::ThreadCache; }"),
        ("base", "/// See [`purge`](crate::purge()).\nfn f() {}"),
    ] {
        assert_eq!(violations("allowed.rs", place, text), Vec::<String>::new(), "{place}: {text}");
    }
}
