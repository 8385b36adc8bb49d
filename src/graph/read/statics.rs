//! Names of statics and thread-locals, by the symbols in the modules' files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use addr2line::demangle_auto;
use object::{Object, ObjectSymbol, SymbolKind};

use crate::graph::found::Module;

/// A static: where it begins in its module, or among the module's thread-locals; its bytes; its name.
struct Symbol {
    start: u64,
    bytes: u64,
    name: String,
}

/// The statics and thread-locals of a module, sorted by place.
#[derive(Default)]
struct Symbols {
    statics: Vec<Symbol>,
    thread_locals: Vec<Symbol>,
}

/// The names of each module, read when they are first asked for.
#[derive(Default)]
pub(in crate::graph) struct Statics(Mutex<HashMap<u32, Arc<Symbols>>>);

impl Statics {
    /// The name of the static that an address is in; empty if it has none.
    pub(in crate::graph) fn of_static(&self, modules: &[Module], module: u32, address: usize) -> String {
        let Some(found) = modules.get(module as usize) else { return String::new() };
        holding(&self.symbols(found, module).statics, address.wrapping_sub(found.base) as u64)
    }

    /// The name of the thread-local at an offset among a module's; empty if it has none.
    pub(in crate::graph) fn of_thread_local(&self, modules: &[Module], module: u32, offset: u64) -> String {
        let Some(found) = modules.get(module as usize) else { return String::new() };
        holding(&self.symbols(found, module).thread_locals, offset)
    }

    fn symbols(&self, module: &Module, number: u32) -> Arc<Symbols> {
        // A poisoned lock is good: entries are added whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(number).or_insert_with(|| Arc::new(read(module).unwrap_or_default())))
    }
}

fn holding(symbols: &[Symbol], place: u64) -> String {
    let after = symbols.partition_point(|symbol| symbol.start <= place);
    let found = after.checked_sub(1).and_then(|number| symbols.get(number));
    found
        .filter(|symbol| place - symbol.start < symbol.bytes.max(1))
        .map_or(String::new(), |symbol| symbol.name.clone())
}

/// Reads a module's symbols; `None` if its file is gone, or is not an object file.
fn read(module: &Module) -> Option<Symbols> {
    let bytes = std::fs::read(&module.path).ok()?;
    let file = object::File::parse(&*bytes).ok()?;
    let mut symbols = Symbols::default();
    for symbol in file.symbols().chain(file.dynamic_symbols()).filter(|symbol| !symbol.is_undefined()) {
        let list = match symbol.kind() {
            SymbolKind::Data => &mut symbols.statics,
            SymbolKind::Tls => &mut symbols.thread_locals,
            _ => continue,
        };
        let Ok(name) = symbol.name() else { continue };
        let name = demangle_auto(name.into(), None).into_owned();
        list.push(Symbol { start: symbol.address(), bytes: symbol.size(), name });
    }
    for list in [&mut symbols.statics, &mut symbols.thread_locals] {
        list.sort_by_key(|symbol| symbol.start);
    }
    Some(symbols)
}
