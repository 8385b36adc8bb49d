//! Every size, count and seed of every workload, frozen.
//!
//! Figures of two commits are comparable only if this file is the same in both. A workload whose amount of work has to
//! change becomes a new workload with a new name.

/// How much work a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// About 0.3 to 1 second per process.
    Full,
    /// About a tenth of a second per process.
    Quick,
}

/// An amount of work at either scale.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// In a full run.
    pub full: usize,
    /// In a quick run.
    pub quick: usize,
}

const fn amount(full: usize, quick: usize) -> Amount {
    Amount { full, quick }
}

impl Scale {
    /// The amount at this scale.
    #[must_use]
    pub const fn of(self, amount: Amount) -> usize {
        match self {
            Self::Full => amount.full,
            Self::Quick => amount.quick,
        }
    }

    /// The name on the worker's command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Quick => "quick",
        }
    }
}

/// The most bytes of a small request.
pub const SMALL_MAX_BYTES: usize = 512;
/// The seed of every random sequence; threads add their number.
pub const SEED: u64 = 0x5EED_0B10_C5A1_10C8;

/// Request sizes of the mixed workloads, drawn evenly: mostly 16 to 64 bytes, with a tail up to 512 and with odd sizes,
/// as in programs.
pub const MIXED_BYTES: [usize; 64] = [
    8, 8, 16, 16, 16, 16, 24, 24, 24, 24, 24, 24, 32, 32, 32, 32, 32, 32, 40, 40, 40, 40, 48, 48,
    48, 48, 48, 56, 56, 56, 64, 64, 64, 64, 72, 72, 80, 80, 88, 96, 96, 104, 112, 120, 128, 128, 9,
    13, 19, 27, 35, 51, 77, 144, 160, 176, 192, 208, 256, 288, 320, 384, 448, 512,
];
/// Their mean, rounded down.
pub const MEAN_BYTES: usize = 89;
/// Request sizes above the small ones.
pub const LARGE_BYTES: [usize; 16] = [
    520, 560, 600, 632, 700, 768, 900, 1_024, 1_200, 1_500, 2_048, 3_000, 4_096, 6_000, 8_192,
    16_384,
];

// Loops of one thread.
/// Pairs of one-size.
pub const ONE_SIZE_PAIRS: Amount = amount(100_000_000, 12_000_000);
/// Words of one-size's object: 48 bytes.
pub const ONE_SIZE_WORDS: usize = 6;
/// Pairs of mixed-sizes.
pub const MIXED_SIZES_PAIRS: Amount = amount(60_000_000, 8_000_000);
/// Pairs of over-aligned.
pub const OVER_ALIGNED_PAIRS: Amount = amount(30_000_000, 2_500_000);
/// Blocks live at once in lifo-10k and fifo-10k.
pub const QUEUE_BLOCKS: usize = 10_000;
/// Rounds of lifo-10k and fifo-10k, each of `QUEUE_BLOCKS` pairs.
pub const QUEUE_ROUNDS: Amount = amount(3_000, 400);
/// Blocks of shuffled-100k.
pub const SHUFFLED_BLOCKS: usize = 100_000;
/// Rounds of shuffled-100k.
pub const SHUFFLED_ROUNDS: Amount = amount(120, 10);
/// Pairs of replace-1k.
pub const REPLACE_1K_PAIRS: Amount = amount(40_000_000, 5_000_000);
/// Pairs of replace-100k.
pub const REPLACE_100K_PAIRS: Amount = amount(15_000_000, 2_000_000);
/// Pairs of replace-1m.
pub const REPLACE_1M_PAIRS: Amount = amount(5_000_000, 500_000);
/// Pairs of large-only.
pub const LARGE_ONLY_PAIRS: Amount = amount(6_000_000, 1_000_000);
/// Blocks live at once in large-only.
pub const LARGE_ONLY_BLOCKS: usize = 1_000;

// Medium requests.
/// Sizes of 513 bytes to 32 KiB, drawn evenly, with the same number in each doubling.
pub const MEDIUM_BYTES: [usize; 24] = [
    520, 600, 768, 1_000, 1_024, 1_280, 1_500, 2_048, 2_100, 3_000, 4_000, 4_096, 4_200, 5_000,
    6_144, 8_192, 8_200, 10_000, 12_288, 16_384, 16_500, 20_000, 26_000, 32_768,
];
/// Their mean, rounded down.
pub const MEDIUM_MEAN_BYTES: usize = 7_817;
/// Pairs of medium-hot.
pub const MEDIUM_HOT_PAIRS: Amount = amount(20_000_000, 2_000_000);
/// Blocks of medium-shuffled.
pub const MEDIUM_SHUFFLED_BLOCKS: usize = 10_000;
/// Rounds of medium-shuffled.
pub const MEDIUM_SHUFFLED_ROUNDS: Amount = amount(300, 30);
/// Pairs of medium-64m, medium-256m and medium-1g.
pub const MEDIUM_LIVE_PAIRS: Amount = amount(2_000_000, 200_000);
/// Sizes of 513 bytes to 1 MiB, drawn evenly.
pub const MEGABYTE_BYTES: [usize; 16] = [
    600, 1_500, 4_000, 9_000, 20_000, 32_768, 40_000, 65_536, 100_000, 131_072, 200_000, 262_144,
    400_000, 524_288, 800_000, 1_048_576,
];
/// Blocks live at once in megabyte.
pub const MEGABYTE_LIVE: usize = 200;
/// Pairs of megabyte.
pub const MEGABYTE_PAIRS: Amount = amount(600_000, 60_000);
/// Messages of medium-handed-on.
pub const MEDIUM_MESSAGES: Amount = amount(60_000, 6_000);
/// Blocks of a message.
pub const MEDIUM_MESSAGE_BLOCKS: usize = 16;

// Data structures.
/// Depth of one binary tree.
pub const TREE_DEPTH: u32 = 16;
/// Trees of trees-1, and of trees-4 (all threads together).
pub const TREE_COUNT: Amount = amount(240, 36);
/// Nodes of one linked list.
pub const LIST_NODES: usize = 1_000;
/// Lists of linked-lists.
pub const LIST_COUNT: Amount = amount(30_000, 4_000);
/// Lists alive at once in linked-lists.
pub const LIST_LIVE: usize = 20;
/// Vectors alive at once in growing-vectors.
pub const VECTOR_LIVE: usize = 1_000;
/// Most elements (of 8 bytes) of a vector: its buffer stays a small request.
pub const VECTOR_MAX: usize = 64;
/// Pushes of growing-vectors.
pub const VECTOR_PUSHES: Amount = amount(60_000_000, 8_000_000);
/// Strings alive at once in growing-strings.
pub const STRING_LIVE: usize = 1_000;
/// Pieces appended to a string before it starts again (of 1 to 12 bytes each).
pub const STRING_MAX_PIECES: usize = 40;
/// Appends of growing-strings.
pub const STRING_APPENDS: Amount = amount(40_000_000, 5_000_000);

// Memory.
/// Bytes asked for in each density workload.
pub const DENSITY_BYTES: Amount = amount(160 << 20, 64 << 20);
/// Bytes asked for in growth-mixed.
pub const GROWTH_BYTES: Amount = amount(512 << 20, 128 << 20);
/// Bytes at the peak of peak-shrink and peak-free.
pub const PEAK_BYTES: Amount = amount(256 << 20, 48 << 20);
/// One block of this many survives in peak-shrink.
pub const SURVIVOR_ONE_IN: usize = 100;
/// Milliseconds between the last free and the reading of end RSS, in which allocators that give memory back after a
/// delay can do so.
pub const SETTLE_MILLIS: Amount = amount(1_500, 30);
/// Blocks allocated and freed after that wait, because some allocators look at the clock only on their slow path.
pub const SETTLE_BLOCKS: usize = 10_000;

// Threads.
/// Threads of every workload that does not say otherwise.
pub const THREADS: usize = 4;
/// Blocks a thread holds in hand-over.
pub const HAND_OVER_BLOCKS: usize = 1_000;
/// Threads that hold the same blocks one after another in hand-over.
pub const HAND_OVER_GENERATIONS: Amount = amount(60, 10);
/// Replacements of one generation.
pub const HAND_OVER_PAIRS: usize = 100_000;
/// Blocks of one message between threads.
pub const CHAIN_BLOCKS: usize = 100;
/// Messages that a channel holds before the sender waits.
pub const CHANNEL_MESSAGES: usize = 64;
/// Messages of each producer-consumer workload.
pub const MESSAGES: Amount = amount(120_000, 12_000);
/// Pairs of each thread in the false-sharing workloads.
pub const SHARING_PAIRS: Amount = amount(200_000, 25_000);
/// Writes to a block before it is freed there.
pub const SHARING_WRITES: usize = 1_000;
/// Threads started by thread-storm.
pub const STORM_THREADS: Amount = amount(16_000, 2_500);
/// Threads alive at once in thread-storm.
pub const STORM_ALIVE: usize = 8;
/// Blocks each of them allocates.
pub const STORM_BLOCKS: usize = 200;
/// Jobs of pool-results.
pub const POOL_JOBS: Amount = amount(60_000, 8_000);
/// Blocks in the result of a job.
pub const POOL_RESULT_BLOCKS: usize = 200;
/// Rounds of fork-join.
pub const FORK_ROUNDS: Amount = amount(700, 100);
/// Levels of halving in fork-join: eight leaves.
pub const FORK_LEVELS: usize = 3;
/// Blocks a leaf of fork-join builds.
pub const FORK_LEAF_BLOCKS: usize = 3_000;
/// Blocks each thread holds in mixed-4.
pub const MIXED_4_BLOCKS: usize = 10_000;
/// Pairs of each thread in mixed-4.
pub const MIXED_4_PAIRS: Amount = amount(8_000_000, 1_000_000);
/// Programs started and ended by start-stop.
pub const START_STOP_PROGRAMS: Amount = amount(300, 50);

// Series.
/// Pairs of a scaling run, all threads together.
pub const SCALING_PAIRS: Amount = amount(48_000_000, 6_000_000);
/// Blocks each thread of a scaling run holds.
pub const SCALING_BLOCKS: usize = 1_000;
/// Replacements of a live run, after the heap is filled.
pub const LIVE_PAIRS: Amount = amount(4_000_000, 500_000);

// Programs.
/// Records of the JSON document.
pub const JSON_RECORDS: usize = 1_000;
/// Times it is parsed, changed and printed.
pub const JSON_ROUNDS: Amount = amount(250, 40);
/// Functions and types of the Rust source.
pub const SYN_ITEMS: usize = 150;
/// Times it is parsed.
pub const SYN_ROUNDS: Amount = amount(50, 5);
/// Times the set of regular expressions is compiled.
pub const REGEX_ROUNDS: Amount = amount(60, 8);
/// Keys of btree-churn and hashmap-churn.
pub const MAP_KEYS: usize = 50_000;
/// Operations of btree-churn and hashmap-churn.
pub const MAP_OPERATIONS: Amount = amount(3_000_000, 400_000);
/// Distinct words of interned.
pub const INTERN_WORDS: usize = 100_000;
/// Look-ups of interned.
pub const INTERN_LOOKUPS: Amount = amount(4_000_000, 500_000);
/// Times the script runs.
pub const SCRIPT_ROUNDS: Amount = amount(300, 40);
/// Tasks of async-tasks.
pub const ASYNC_TASKS: Amount = amount(800_000, 100_000);
/// Tasks alive at once.
pub const ASYNC_ALIVE: usize = 1_000;
/// Updates of persistent-map.
pub const PERSISTENT_UPDATES: Amount = amount(500_000, 60_000);
/// Old versions it keeps.
pub const PERSISTENT_VERSIONS: usize = 100;
/// Entries of the cache in lru-cache.
pub const LRU_ENTRIES: usize = 50_000;
/// Look-ups of lru-cache.
pub const LRU_LOOKUPS: Amount = amount(1_500_000, 200_000);
/// Rows of the table in csv-group.
pub const CSV_ROWS: usize = 20_000;
/// Times it is read and grouped.
pub const CSV_ROUNDS: Amount = amount(120, 16);
/// Documents of search-memory, 60 words each.
pub const SEARCH_DOCUMENTS: usize = 1_000;
/// Words that occur in them.
pub const SEARCH_WORDS: usize = 4_000;
/// Times they are indexed, searched and removed.
pub const SEARCH_ROUNDS: Amount = amount(25, 3);

// Programs of larger requests.
/// Bodies that the HTTP clients send in turn.
pub const HTTP_BODIES: usize = 64;
/// Bytes of a body: the least, and the most.
pub const HTTP_BODY_BYTES: (usize, usize) = (200, 40 << 10);
/// Requests over one connection.
pub const HTTP_REQUESTS: usize = 50;
/// Connections of http, and of http-4 (all threads together).
pub const HTTP_CONNECTIONS: Amount = amount(600, 120);
/// Bytes that the pipe between client and server holds.
pub const HTTP_PIPE_BYTES: usize = 8 << 10;
/// Messages that cbor writes and reads in turn.
pub const CBOR_MESSAGES: usize = 128;
/// Times they are written and read, by all threads together.
pub const CBOR_ROUNDS: Amount = amount(200, 40);
/// Keys of the database of redb.
pub const REDB_KEYS: usize = 20_000;
/// Bytes of its values: the least, and the most.
pub const REDB_VALUE_BYTES: (usize, usize) = (40, 3_000);
/// Writes of a transaction.
pub const REDB_WRITES: usize = 100;
/// Transactions of redb.
pub const REDB_TRANSACTIONS: Amount = amount(500, 100);
/// Bytes of its cache.
pub const REDB_CACHE_BYTES: usize = 16 << 20;
/// Buffers that deflate and lz4 compress in turn.
pub const COMPRESSION_BUFFERS: usize = 64;
/// Bytes of a buffer: the least, and the most.
pub const COMPRESSION_BUFFER_BYTES: (usize, usize) = (256, 16 << 10);
/// Times the buffers are compressed and decompressed by deflate, by all threads together.
pub const DEFLATE_ROUNDS: Amount = amount(20, 4);
/// Times they are by lz4.
pub const LZ4_ROUNDS: Amount = amount(300, 60);
/// Pictures of thumbnails.
pub const THUMBNAIL_PICTURES: usize = 24;
/// Pixels of a side of a picture: the least, and the most.
pub const THUMBNAIL_SIDES: (usize, usize) = (64, 320);
/// Pixels of a side of a thumbnail.
pub const THUMBNAIL_SIDE: u32 = 48;
/// Times the pictures are made smaller.
pub const THUMBNAIL_ROUNDS: Amount = amount(25, 5);
/// Rows of the page of templates.
pub const TEMPLATE_ROWS: usize = 60;
/// Pages that it renders.
pub const TEMPLATE_PAGES: Amount = amount(2_500, 500);
/// Documents that markdown renders in turn.
pub const MARKDOWN_DOCUMENTS: usize = 32;
/// Sections of a document: the least, and the most.
pub const MARKDOWN_SECTIONS: (usize, usize) = (3, 14);
/// Times the documents are rendered, by all threads together.
pub const MARKDOWN_ROUNDS: Amount = amount(150, 30);
/// Documents of bitmap-index.
pub const BITMAP_DOCUMENTS: usize = 20_000;
/// Terms that occur in them.
pub const BITMAP_TERMS: usize = 3_000;
/// Terms of a document.
pub const BITMAP_DOCUMENT_TERMS: usize = 30;
/// Queries of each index.
pub const BITMAP_QUERIES: usize = 2_000;
/// Times the index is built, saved, loaded and asked.
pub const BITMAP_ROUNDS: Amount = amount(8, 2);
/// Tasks of timers that send readings.
pub const TIMER_DEVICES: usize = 200;
/// Bytes of a reading: the least, and the most.
pub const TIMER_READING_BYTES: (usize, usize) = (50, 3_000);
/// Readings of a device.
pub const TIMER_READINGS: Amount = amount(3_000, 600);
/// Readings of a batch.
pub const TIMER_BATCH: usize = 32;
/// Documents of parallel-words.
pub const WORDS_DOCUMENTS: usize = 400;
/// Words of a document.
pub const WORDS_DOCUMENT_WORDS: usize = 150;
/// Words of a line of the result.
pub const WORDS_LINE: usize = 40;
/// Times the words are sorted and joined.
pub const WORDS_ROUNDS: Amount = amount(35, 7);
/// Functions of the shader module.
pub const SHADER_FUNCTIONS: usize = 24;
/// Times the module is compiled.
pub const SHADER_ROUNDS: Amount = amount(75, 15);
