#!/usr/bin/env bash
# The tests under AddressSanitizer and ThreadSanitizer, and the examples under memcheck. Not for the gate: takes 40 minutes,
# and some 10 to build.
#   tests/sanitizers.sh [asan|tsan|memcheck|marks]…      (all, if none is named)
# Rust's sanitizers are unstable: RUSTC_BOOTSTRAP opens them to this compiler for these runs only. ThreadSanitizer needs std
# built with it, or it takes std's own locks for races: `rustup component add rust-src`. What is left out, and why, is in
# docs/testing.md.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
step() { printf '\n=== %s\n' "$*"; }
# Everything is built in a folder of its own, so that nothing sanitized is left where others look.
sanitized() { # sanitizer, arguments of cargo
    local sanitizer=$1
    shift
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$sanitizer $flags" \
        cargo test --locked --target "$target" --target-dir "target/$sanitizer$(suffix "$flags")" "$@"
}
# Further flags for `sanitized`.
flags=
# What a folder's name ends in for a flag: `-bypass` for `--cfg pymalloc_bypass`.
suffix() { echo "${1:+-${1##*_}}"; }

# Heaps of tests, caches and sets live for ever, and the leak checker does not look into arenas for pointers.
export ASAN_OPTIONS=detect_leaks=0
# Children that are to abort, fork handlers: threads at a fork are meant, and children that start threads, too.
export TSAN_OPTIONS='halt_on_error=1 report_signal_unsafe=0 die_after_fork=0'

asan() {
    step 'AddressSanitizer: the heaps of the tests (pools are one block to it)'
    sanitized address --lib
    step 'AddressSanitizer: each block the system allocator'"'"'s (pymalloc_bypass)'
    local flags='--cfg pymalloc_bypass'
    sanitized address --lib --test exhaustive_layouts --test measure --test teardown --test nested_fork
    sanitized address -p pymalloc-object-pool --test pools
    flags=
    step 'AddressSanitizer: the real pools'
    sanitized address --test threads_storm --test teardown --test realloc --test zeroed --test large_allocator \
        --test fork --test nested_fork --test fork_stops_others --test real_programs
    sanitized address -p pymalloc-object-pool --test pools
    step 'AddressSanitizer: the hardened allocator'
    sanitized address --features hardened --lib --test hardened --test threads_storm --test fork \
        --test fork_stops_others --test real_programs
}

marks() {
    step 'AddressSanitizer, told of the blocks (pymalloc_asan)'
    local flags='--cfg pymalloc_asan'
    PYMALLOC_ASAN=1 sanitized address --test tools -- --nocapture
    sanitized address --test threads_storm --test teardown --test fork \
        --test nested_fork --test fork_stops_others --test real_programs
    sanitized address -p pymalloc-object-pool --test pools
    step 'memcheck, told of the blocks (pymalloc_valgrind)'
    RUSTFLAGS='--cfg pymalloc_valgrind' cargo test --locked --target-dir target/valgrind --test tools -- --nocapture
}

tsan() {
    local features
    for features in '' hardened; do
        step "ThreadSanitizer: the heaps of the tests (${features:-no feature})"
        # One thread alone works in `bound`, for ten minutes. Signals wait in its runtime until the write that they are to interrupt ends.
        sanitized thread -Zbuild-std --features "$features" --lib -- --skip tests::bound:: \
            --skip a_message_goes_out_although_signals_interrupt_it
        step "ThreadSanitizer: the real pools (${features:-no feature})"
        # Left out: what its runtime can't do (docs/testing.md). Without the feature, `hardened` has no tests.
        sanitized thread -Zbuild-std --features "$features" --test threads_storm --test teardown \
            --test statistics --test memory_return --test purge_thread --test sleeping_thread --test survivor \
            --test hardened \
            -- --skip what_sleeping_threads_left_of_a_peak_goes_back \
            --skip memory_goes_back_with_and_without_the_call_for_many_ranges --skip large_requests_show_in_the_systems_share \
            --skip key_destructors_free_and_allocate_and_arm_again --skip detached_threads_may_end_by_pthread_exit
        sanitized thread -Zbuild-std -p pymalloc-object-pool --features "${features:+pymalloc/$features}" --test pools
        step "ThreadSanitizer: forks (${features:-no feature})"
        # A fork copies what the tool noted, and takes more than a second.
        PYMALLOC_FORKS=20 sanitized thread -Zbuild-std --features "$features" --test fork --test nested_fork \
            --test fork_stops_others
    done
}

memcheck() {
    step 'memcheck: examples, each block the system allocator'"'"'s, pools as they are, and told of the blocks'
    local flags example target_dir
    for flags in '--cfg pymalloc_bypass' '' '--cfg pymalloc_valgrind'; do
        target_dir=target/memcheck$(suffix "$flags")
        # Optimised, because one of them makes 66 million objects; with lines for the reports.
        CARGO_PROFILE_RELEASE_DEBUG=line-tables-only RUSTFLAGS=$flags cargo build --locked --release --examples -p pymalloc-examples -p pymalloc-object-pool \
            --target-dir "$target_dir"
        for example in global pool_cheap pool_connections pool_buffers pool_parsers 'wordfreq --threads 3' heap_picture; do
            # shellcheck disable=SC2086  # an example and its arguments
            valgrind --quiet --error-exitcode=99 --leak-check=no "$target_dir"/release/examples/$example >/dev/null
            echo "$example (${flags:-no flag}): nothing to report"
        done
    done
}

[ $# -gt 0 ] || set -- asan marks tsan memcheck
for run in "$@"; do
    case $run in
        asan | marks | tsan | memcheck) "$run" ;;
        *)
            echo "$0: $run is none of asan, marks, tsan, memcheck" >&2
            exit 2
            ;;
    esac
done
