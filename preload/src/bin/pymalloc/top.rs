//! `pymalloc top`: shows live what a running program holds. It asks once a second. Whatever happens here, the program
//! goes on.

mod draw;

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use pymalloc_core::trace::{By, Look, Watch, WatchError};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::sockets;

/// The arguments of `pymalloc top`.
#[derive(clap::Args)]
pub(crate) struct Top {
    /// The number of a process, or the path of a socket
    #[arg(value_name = "PID|PATH")]
    program: String,
    /// Print one table and end, also where there is no terminal
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    every: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&number) { Ok(number) } else { Err("not in 0.1..=3600".to_owned()) }
}

/// The column by which rows are sorted, the largest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Own,
    Total,
    Blocks,
    Name,
}

/// A function or a line: what it allocated itself, and what it and all its callees allocated.
struct Row {
    name: String,
    own_bytes: usize,
    own_blocks: usize,
    total_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    Table,
    Heap,
}

/// What is shown.
struct Shown {
    program: String,
    look: Look,
    rows: Vec<Row>,
    heap: (String, Vec<[u8; 2]>),
    page: Page,
    by: By,
    sort: Sort,
    /// Rows that are above the screen.
    scrolled: usize,
    is_paused: bool,
}

fn rows(look: &Look, by: By) -> Vec<Row> {
    let name = |traceback: &pymalloc_core::trace::Traceback| match by {
        By::Function => traceback.cause().function().to_owned(),
        _ => traceback.cause().to_string(),
    };
    let mut rows: HashMap<String, Row> = HashMap::new();
    fn at(rows: &mut HashMap<String, Row>, name: String) -> &mut Row {
        let new = || Row { name: name.clone(), own_bytes: 0, own_blocks: 0, total_bytes: 0 };
        rows.entry(name.clone()).or_insert_with(new)
    }
    for total in &look.snapshot.cumulative_statistics(by) {
        at(&mut rows, name(&total.traceback)).total_bytes += total.bytes;
    }
    for own in &look.snapshot.statistics(by) {
        let row = at(&mut rows, name(&own.traceback));
        row.own_bytes += own.bytes;
        row.own_blocks += own.blocks;
    }
    rows.into_values().collect()
}

impl Shown {
    fn new(watch: &mut Watch) -> Result<Self, WatchError> {
        let look = watch.look()?;
        let name = Path::new(watch.program()).file_name().unwrap_or_default();
        let program = format!("{} ({})", name.display(), watch.process());
        let heap = watch.heap()?;
        let (page, by, sort) = (Page::Table, By::Function, Sort::Own);
        let mut shown =
            Self { program, rows: rows(&look, by), look, heap, page, by, sort, scrolled: 0, is_paused: false };
        shown.sort();
        Ok(shown)
    }

    fn refresh(&mut self, watch: &mut Watch) -> Result<(), WatchError> {
        match self.page {
            Page::Table => {
                self.look = watch.look()?;
                self.rows = rows(&self.look, self.by);
                self.sort();
            }
            Page::Heap => self.heap = watch.heap()?,
        }
        Ok(())
    }

    fn sort(&mut self) {
        let sort = self.sort;
        let key = |row: &Row| match sort {
            Sort::Own => (row.own_bytes, row.total_bytes),
            Sort::Total => (row.total_bytes, row.own_bytes),
            Sort::Blocks => (row.own_blocks, row.own_bytes),
            Sort::Name => (0, 0),
        };
        self.rows.sort_by(|one, other| key(other).cmp(&key(one)).then_with(|| one.name.cmp(&other.name)));
    }

    /// Does what a key asks for; `false` if it asks to end.
    fn press(&mut self, key: KeyEvent) -> bool {
        let scroll = |scrolled: usize, by: isize| scrolled.saturating_add_signed(by);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('o') => self.sort = Sort::Own,
            KeyCode::Char('t') => self.sort = Sort::Total,
            KeyCode::Char('b') => self.sort = Sort::Blocks,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Char('l') => {
                self.by = if matches!(self.by, By::Function) { By::Line } else { By::Function };
                self.rows = rows(&self.look, self.by);
            }
            KeyCode::Char('p') | KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('1') => (self.page, self.scrolled) = (Page::Table, 0),
            KeyCode::Char('2') => (self.page, self.scrolled) = (Page::Heap, 0),
            KeyCode::Tab => {
                let other = if self.page == Page::Table { Page::Heap } else { Page::Table };
                (self.page, self.scrolled) = (other, 0);
            }
            KeyCode::Up => self.scrolled = scroll(self.scrolled, -1),
            KeyCode::Down => self.scrolled = scroll(self.scrolled, 1),
            KeyCode::PageUp => self.scrolled = scroll(self.scrolled, -10),
            KeyCode::PageDown => self.scrolled = scroll(self.scrolled, 10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        self.sort();
        true
    }

    /// One table as plain text.
    fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.program, draw::totals(&self.look), draw::HEADINGS);
        for row in self.rows.iter().take(40) {
            text.push_str(&draw::row(row));
            text.push('\n');
        }
        text
    }
}

/// Runs until the user or the program ends it.
///
/// # Errors
/// No program serves there, or there is no terminal.
pub(crate) fn run(top: &Top) -> Result<(), String> {
    let socket = sockets::find(&top.program)?;
    let unseen = |error: WatchError| format!("{}: {error}", socket.display());
    let mut watch = Watch::connect(&socket).map_err(unseen)?;
    let mut shown = Shown::new(&mut watch).map_err(unseen)?;
    if top.once {
        return match std::io::stdout().write_all(shown.text().as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
            _ => Ok(()),
        };
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err("there is no terminal; --once prints a table".into());
    }
    let mut terminal = ratatui::try_init().map_err(|error| error.to_string())?;
    let ended = watch_until_end(&mut terminal, &mut watch, &mut shown, Duration::from_secs_f64(top.every));
    ratatui::restore();
    match ended {
        Err(Ended::Terminal(error)) => Err(error.to_string()),
        Err(Ended::Program) => {
            println!("pymalloc: {} has ended, or does not serve any more", shown.program);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Why watching ended without the user's wish.
enum Ended {
    Program,
    Terminal(std::io::Error),
}

fn watch_until_end(
    terminal: &mut ratatui::DefaultTerminal,
    watch: &mut Watch,
    shown: &mut Shown,
    every: Duration,
) -> Result<(), Ended> {
    let mut due = Instant::now() + every;
    loop {
        terminal.draw(|frame| draw::draw(frame, shown)).map_err(Ended::Terminal)?;
        let page = shown.page;
        if event::poll(due.saturating_duration_since(Instant::now())).map_err(Ended::Terminal)?
            && let Event::Key(key) = event::read().map_err(Ended::Terminal)?
            && key.kind != KeyEventKind::Release
            && !shown.press(key)
        {
            return Ok(());
        }
        if Instant::now() >= due || page != shown.page {
            if !shown.is_paused || page != shown.page {
                shown.refresh(watch).map_err(|_| Ended::Program)?;
            }
            due = Instant::now() + every;
        }
    }
}
