//! When a pool is worth it: parsers whose tables are dear to compute. A checksum of many short messages, with a parser
//! made for each message, and with one from a pool.
//!
//! ```sh
//! cargo run --release -p pymalloc-object-pool --example pool_parsers
//! ```

use std::time::Instant;

use pymalloc::Pymalloc;
use pymalloc_object_pool::ObjectPool;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const MESSAGES: u32 = 50_000;

/// Checks messages with CRC-32, eight bytes at a time ("slicing by 8"), by tables that it computes when it is made.
struct Checker {
    tables: Box<[[u32; 256]; 8]>,
    state: u32,
}

impl Checker {
    fn new() -> Self {
        let mut tables = Box::new([[0; 256]; 8]);
        for byte in 0..256 {
            tables[0][byte] = (0..8).fold(byte as u32, |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)));
        }
        for table in 1..8 {
            for byte in 0..256 {
                let before = tables[table - 1][byte];
                tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            }
        }
        Self { tables, state: u32::MAX }
    }

    fn restart(&mut self) {
        self.state = u32::MAX;
    }

    fn check(&mut self, message: &[u8]) -> u32 {
        let (groups, rest) = message.as_chunks::<8>();
        for group in groups {
            let number = u64::from_le_bytes(*group) ^ u64::from(self.state);
            self.state =
                (0..8).fold(0, |crc, place| crc ^ self.tables[7 - place][(number >> (8 * place) & 0xff) as usize]);
        }
        for byte in rest {
            self.state = (self.state >> 8) ^ self.tables[0][((self.state ^ u32::from(*byte)) & 0xff) as usize];
        }
        !self.state
    }
}

fn time(name: &str, check: impl Fn(&[u8]) -> u32) -> u32 {
    let started = Instant::now();
    let sum = (0..MESSAGES).fold(0, |sum, number| sum ^ check(format!("message {number}").as_bytes()));
    println!("{name:24} {:7.1} ns a message", started.elapsed().as_nanos() as f64 / f64::from(MESSAGES));
    sum
}

fn main() {
    assert_eq!(Checker::new().check(b"123456789"), 0xCBF4_3926, "the checksum's standard check value");
    let checkers = ObjectPool::builder(Checker::new).reset(Checker::restart).build().expect("no limits");
    let fresh = time("made for each message:", |message| Checker::new().check(message));
    let pooled = time("from the pool:", |message| checkers.acquire().check(message));
    assert_eq!(fresh, pooled);
    println!("the pool: {}", checkers.stats());
}
