//! Programs that render pages: templates, Markdown.

use super::lanes::share_out;
use crate::measure::{Outcome, measure};
use crate::random::Random;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use peers::params::{
    MARKDOWN_DOCUMENTS, MARKDOWN_ROUNDS, MARKDOWN_SECTIONS, SEED, Scale, TEMPLATE_PAGES,
    TEMPLATE_ROWS,
};
use pulldown_cmark::{Options, Parser, html};
use serde::Serialize;
use std::fmt::Write as _;

const LAYOUT: &str = r#"<!DOCTYPE html>
<html><head><title>{% block title %}{% endblock %}</title></head>
<body><nav>{% for link in links %}<a href="/{{ link }}">{{ link|title }}</a> {% endfor %}</nav>
{% block body %}{% endblock %}
<footer>{{ rows|length }} rows</footer></body></html>
"#;

const PAGE: &str = r#"{% extends "layout.html" %}
{% macro price(amount) %}<b>{{ "%.2f"|format(amount) }}</b>{% endmacro %}
{% block title %}Page {{ number }} of {{ name|upper }}{% endblock %}
{% block body %}<table>{% for row in rows %}
<tr class="{{ loop.cycle('odd', 'even') }}"><td>{{ loop.index }}</td><td>{{ row.name }}</td>
<td>{{ price(row.price) }}</td><td>{{ row.tags|join(", ") }}</td>
<td>{% if row.remark %}{{ row.remark }}{% else %}none{% endif %}</td></tr>{% endfor %}
</table>{% set dear = rows|selectattr("price", "gt", 500)|list %}
<p>{{ dear|length }} are dear: {{ dear|map(attribute="name")|join("; ") }}</p>{% endblock %}
"#;

#[derive(Debug, Serialize)]
struct TableRow {
    name: String,
    price: f64,
    tags: Vec<String>,
    remark: Option<String>,
}

fn table_row(random: &mut Random, number: usize) -> TableRow {
    TableRow {
        name: format!("Article <{number}> & others"),
        price: random.below(100_000) as f64 / 100.0,
        tags: (0..random.below(5)).map(|_| random.text(9)).collect(),
        remark: (random.below(3) == 0).then(|| random.text(120)),
    }
}

/// A page with a table, from objects and two templates.
pub fn templates(scale: Scale) -> Outcome {
    let pages = scale.of(TEMPLATE_PAGES);
    let mut random = Random::new(SEED);
    let rows: Vec<_> = (0..TEMPLATE_ROWS).map(|number| table_row(&mut random, number)).collect();
    let mut environment = Environment::new();
    environment.add_template("layout.html", LAYOUT).expect("a valid template");
    environment.add_template("page.html", PAGE).expect("a valid template");
    measure(pages, || {
        let page = |number: usize| {
            let template = environment.get_template("page.html").expect("it was added");
            // Pages differ in length.
            let rows = Serde(&rows[number % (TEMPLATE_ROWS / 2)..]);
            let links = ["home", "articles", "orders"];
            let page = template.render(context! { number, rows, links, name => "the catalogue" });
            page.expect("a page").len() as u64
        };
        (0..pages).map(page).sum()
    })
}

/// Headings, paragraphs, lists, tables, code, links and notes.
fn markdown_document(random: &mut Random) -> String {
    let mut text = format!("# {}\n\n", random.text(30));
    for section in 0..random.between(MARKDOWN_SECTIONS) {
        let (paragraph, words) = (random.between((200, 1_500)), random.text(24));
        let (first, second) = (random.text(paragraph), random.text(paragraph / 2));
        write!(
            text,
            "## {section}. {words}\n\n{first} **{words}** `code({section})`, a [link](/{section} \"{words}\").\n\
             {second}[^{section}]\n\n[^{section}]: A note on _{words}_.\n\n| name | count |\n|:--|--:|\n"
        )
        .expect("a string grows");
        for row in 0..random.below(10) {
            writeln!(text, "| {} | {row} |", random.text(14)).expect("a string grows");
        }
        text.push('\n');
        for item in 0..random.below(8) {
            let line = random.text(40);
            writeln!(text, "- {line} & <more>\n  - [x] *{line}* {item}").expect("a string grows");
        }
        write!(text, "\n```rust\nfn main() {{ println!(\"{words}\"); }}\n```\n\n> {words}\n\n")
            .expect("a string grows");
    }
    text
}

pub fn markdown<const THREADS: usize>(scale: Scale) -> Outcome {
    let rounds = scale.of(MARKDOWN_ROUNDS);
    let mut random = Random::new(SEED);
    let documents: Vec<_> =
        (0..MARKDOWN_DOCUMENTS).map(|_| markdown_document(&mut random)).collect();
    measure(rounds * MARKDOWN_DOCUMENTS, || {
        share_out::<THREADS>(rounds * MARKDOWN_DOCUMENTS, |number| {
            let mut page = String::new();
            let document = &documents[number % MARKDOWN_DOCUMENTS];
            html::push_html(&mut page, Parser::new_ext(document, Options::all()));
            page.len() as u64
        })
    })
}
