//! A cache of 64 entries in the order of their use. Of those that it drops, it forgets each fourth: 64 entries of 64 bytes
//! with a text of 50 bytes each.

use std::hint::black_box;

const PLACES: usize = 64;

struct Entry {
    key: usize,
    text: String,
    _more: [usize; 4],
}

struct Cache {
    /// The one that was used last is the last one.
    entries: Vec<Box<Entry>>,
    dropped: usize,
}

impl Cache {
    #[inline(never)]
    fn get(&mut self, key: usize) -> &str {
        let entry = match self.entries.iter().position(|entry| entry.key == key) {
            Some(place) => self.entries.remove(place),
            None => {
                if self.entries.len() == PLACES {
                    let oldest = self.entries.remove(0);
                    self.dropped += 1;
                    if self.dropped % 4 == 0 {
                        std::mem::forget(oldest);
                    }
                }
                Box::new(Entry { key, text: format!("{key:50}"), _more: [0; 4] })
            }
        };
        self.entries.push(entry);
        &self.entries[self.entries.len() - 1].text
    }
}

#[inline(never)]
fn run() -> Cache {
    let mut cache = Cache { entries: Vec::with_capacity(PLACES), dropped: 0 };
    for key in 0..PLACES * 5 {
        assert!(cache.get(key).len() == 50);
        // In use all the time.
        assert!(cache.get(key / PLACES * PLACES).len() == 50);
    }
    assert!(cache.dropped >= PLACES * 4);
    cache
}

#[inline(never)]
fn clear_stack() {
    black_box([0_usize; 2048]);
}

fn main() {
    let kept = run();
    eprintln!("dropped {}", kept.dropped);
    clear_stack();
    black_box(&kept);
    // Held when the program exits.
    std::process::exit(0);
}
