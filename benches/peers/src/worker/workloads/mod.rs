//! The workloads, in files by theme, and the table from names to functions.

mod compression;
mod documents;
mod lanes;
mod live;
mod loops;
mod maps;
mod medium;
mod memory;
mod parallel;
mod pictures;
mod programs;
mod scaling;
mod services;
mod shaders;
mod storage;
mod structures;
mod threads;
mod wire;

use crate::measure::Outcome;
use peers::params::Scale;

/// Runs a workload once.
pub type Run = fn(Scale) -> Outcome;

/// The workload of that name.
pub fn find(name: &str) -> Option<Run> {
    Some(match name {
        "one-size" => loops::one_size,
        "mixed-sizes" => loops::mixed_sizes,
        "over-aligned" => loops::over_aligned,
        "lifo-10k" => loops::lifo,
        "fifo-10k" => loops::fifo,
        "shuffled-100k" => loops::shuffled,
        "replace-1k" => loops::replace_1k,
        "replace-100k" => loops::replace_100k,
        "replace-1m" => loops::replace_1m,
        "large-only" => loops::large_only,
        "medium-hot" => medium::hot,
        "medium-shuffled" => medium::shuffled,
        "medium-64m" => medium::live::<64>,
        "medium-256m" => medium::live::<256>,
        "medium-1g" => medium::live::<1_024>,
        "medium-handed-on" => medium::handed_on,
        "megabyte" => medium::to_a_megabyte,
        "trees-1" => structures::trees_1,
        "trees-4" => structures::trees_4,
        "linked-lists" => structures::linked_lists,
        "growing-vectors" => structures::growing_vectors,
        "growing-strings" => structures::growing_strings,
        "density-8" => memory::density::<8>,
        "density-16" => memory::density::<16>,
        "density-24" => memory::density::<24>,
        "density-40" => memory::density::<40>,
        "density-72" => memory::density::<72>,
        "density-136" => memory::density::<136>,
        "density-264" => memory::density::<264>,
        "density-mixed" => memory::density_mixed,
        "growth-mixed" => memory::growth_mixed,
        "peak-shrink" => memory::peak_shrink,
        "peak-free" => memory::peak_free,
        "hand-over" => threads::hand_over,
        "producer-consumer-1-1" => threads::producer_consumer::<1, 1>,
        "producer-consumer-1-n" => threads::producer_consumer::<1, 3>,
        "producer-consumer-n-1" => threads::producer_consumer::<3, 1>,
        "exchange" => threads::exchange,
        "false-sharing-active" => threads::false_sharing::<false>,
        "false-sharing-passive" => threads::false_sharing::<true>,
        "thread-storm" => threads::thread_storm,
        "pool-results" => threads::pool_results,
        "fork-join" => threads::fork_join,
        "mixed-4" => threads::mixed_4,
        "start-stop" => threads::start_stop,
        "scaling-1" => scaling::scaling::<1>,
        "scaling-2" => scaling::scaling::<2>,
        "scaling-4" => scaling::scaling::<4>,
        "scaling-8" => scaling::scaling::<8>,
        "scaling-16" => scaling::scaling::<16>,
        "scaling-64" => scaling::scaling::<64>,
        "live-1m" => live::live::<1>,
        "live-4m" => live::live::<4>,
        "live-16m" => live::live::<16>,
        "live-64m" => live::live::<64>,
        "live-256m" => live::live::<256>,
        "live-1g" => live::live::<1_024>,
        "live-4g" => live::live::<4_096>,
        "live-8g" => live::live::<8_192>,
        "json" => programs::json,
        "syn" => programs::syn,
        "regex" => programs::regex,
        "script" => programs::script,
        "csv-group" => programs::csv_group,
        "btree-churn" => maps::btree_churn,
        "hashmap-churn" => maps::hashmap_churn,
        "interned" => maps::interned,
        "persistent-map" => maps::persistent_map,
        "lru-cache" => maps::lru_cache,
        "async-tasks" => services::async_tasks,
        "search-memory" => services::search_memory,
        "http" => wire::http::<1>,
        "http-4" => wire::http::<4>,
        "cbor" => wire::cbor::<1>,
        "cbor-4" => wire::cbor::<4>,
        "redb" => storage::redb,
        "deflate" => compression::deflate::<1>,
        "deflate-4" => compression::deflate::<4>,
        "lz4" => compression::lz4,
        "thumbnails" => pictures::thumbnails,
        "templates" => documents::templates,
        "markdown" => documents::markdown::<1>,
        "markdown-4" => documents::markdown::<4>,
        "bitmap-index" => storage::bitmap_index,
        "timers" => parallel::timers,
        "parallel-words" => parallel::words,
        "shaders" => shaders::shaders,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_workload_of_the_catalogue_has_a_function() {
        for entry in peers::catalog::WORKLOADS {
            assert!(super::find(entry.name).is_some(), "{}", entry.name);
        }
    }
}
