#!/usr/bin/env bash
# The tests on other targets than the host's: x86-64 with musl, aarch64 with glibc under QEMU, and Windows under Wine. Not for the
# gate, but for windows-short: takes more than an hour.
#   tests/targets.sh [musl|aarch64|pages|preload|windows|windows-short|check]…      (all but windows-short, if none is named)
# musl runs on any x86-64 Linux: `rustup target add x86_64-unknown-linux-musl`.
# aarch64 and preload (its library on aarch64) need, from Debian,
# `apt-get install qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross` and
# `rustup target add aarch64-unknown-linux-gnu`. Tests start themselves anew, so the kernel has to know the emulator: where
# /proc/sys/fs/binfmt_misc/qemu-aarch64 is missing, and root asks, it is told for the time of the run.
# windows needs `apt-get install gcc-mingw-w64-x86-64 wine64` and `rustup target add x86_64-pc-windows-gnu`.
# pages has the tests of heaps take the host's OS pages for 16 and 64 KiB. Kernels that have such: tests/pages/run.
# check only compiles, for every target of its list that rustup has installed. What is left out, and why, is in docs/testing.md.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
# Where the emulator finds the loader and the C library, also in the children of a test.
export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu
export CARGO_INCREMENTAL=0

step() { printf '\n=== %s\n' "$*"; }

# The tests of .ci/run for the feature.
hardened_tests=(--test hardened --test misuse_programs --test aborts --test fork --test fork_stops_others --test statistics
    --test measure --test teardown --test zeroed --test realloc --test unwinding)

on_musl() { cargo "$1" --locked --target x86_64-unknown-linux-musl "${@:2}"; }

musl() {
    step 'musl: all tests, and the documentation'"'"'s examples'
    on_musl test -p pymalloc -p pymalloc-object-pool
    step 'musl: the hardened allocator'
    on_musl test --features hardened --lib "${hardened_tests[@]}"
    step 'musl: built with pymalloc_bypass'
    RUSTFLAGS='--cfg pymalloc_bypass' on_musl test --target-dir target/bypass --lib --test exhaustive_layouts \
        --test measure --test teardown --test nested_fork
    step 'musl: built with pymalloc_valgrind'
    RUSTFLAGS='--cfg pymalloc_valgrind' on_musl test --target-dir target/valgrind --lib --test tools
    step 'musl: the tracer'
    on_musl test --features flamegraph --lib --test 'trace*'
    step 'musl: the examples'
    local example
    for example in global pool_cheap pool_connections pool_buffers pool_parsers heap_picture; do
        on_musl run --quiet --release --example "$example" >/dev/null
        echo "$example: passed"
    done
    on_musl run --quiet --release --example wordfreq -- --threads 3 >/dev/null
    on_musl run --quiet --release --example soak -- --minutes 1 --threads 2
}

# Before the first use of the emulator.
emulator() {
    command -v qemu-aarch64-static >/dev/null || { echo "$0: qemu-aarch64-static is missing (see the head of this file)" >&2; exit 2; }
    local known=/proc/sys/fs/binfmt_misc
    [ ! -e $known/qemu-aarch64 ] || return 0
    [ "$(id -u)" = 0 ] || { echo "$0: the kernel does not know qemu-aarch64, and only root may tell it" >&2; exit 2; }
    [ -e $known/register ] || mount -t binfmt_misc binfmt_misc $known
    cat /usr/lib/binfmt.d/qemu-aarch64.conf >$known/register
    trap 'echo -1 >/proc/sys/fs/binfmt_misc/qemu-aarch64' EXIT
}

# With a profile that is optimised a little: the emulator is slow.
on_aarch64() { cargo test --locked --profile quick --target aarch64-unknown-linux-gnu "$@"; }

# What the emulator can't do, or not in time: docs/testing.md.
not_in_qemu_lib=(--skip tests::bound:: --skip what_is_not_mapped --skip tests::purge_calls::)
not_in_qemu=(--skip arenas_that_can_not_be_unmapped --skip without_membarrier --skip null_comes_at_the_limit_of_address_space
    --skip null_comes_at_the_limit_of_data --skip what_sleeping_threads_left_of_a_peak --skip memory_goes_back_with_and_without)

aarch64() {
    emulator
    step 'aarch64: the heaps of the tests'
    on_aarch64 --lib -- "${not_in_qemu_lib[@]}"
    step 'aarch64: all test binaries'
    on_aarch64 -p pymalloc -p pymalloc-object-pool --tests --no-fail-fast -- --skip tests:: "${not_in_qemu[@]}"
    step 'aarch64: the hardened allocator'
    on_aarch64 --features hardened --lib -- "${not_in_qemu_lib[@]}"
    on_aarch64 --features hardened "${hardened_tests[@]}"
    step 'aarch64: the thread slot in assembly (feature __raw)'
    on_aarch64 --features __raw --lib -- "${not_in_qemu_lib[@]}"
}

# Not by QEMU_PAGESIZE: the emulator then says such a size, and maps and unmaps by the host's all the same.
pages() {
    local bytes
    for bytes in 16384 65536; do
        step "OS pages taken for $bytes bytes"
        PYMALLOC_OS_PAGE_BYTES=$bytes cargo test --locked --release --lib
        PYMALLOC_OS_PAGE_BYTES=$bytes cargo test --locked --release --features hardened --lib
    done
}

preload() {
    emulator
    step 'aarch64: the preload library'
    on_aarch64 -p pymalloc-preload --test c_api --test processes -- --skip a_limit_on_addresses
}

# --- Windows ---------------------------------------------------------------------------------------------------------

# Before the first use of Wine. What it keeps, and a library that std asks for and Wine 8 lacks, are in target/.
wine() {
    local wine64 folder=$PWD/target/windows
    wine64=$(command -v wine64 || ls /usr/lib/wine/wine64 2>/dev/null || true)
    [ -n "$wine64" ] && command -v x86_64-w64-mingw32-gcc >/dev/null ||
        { echo "$0: wine64 or x86_64-w64-mingw32-gcc is missing (see the head of this file)" >&2; exit 2; }
    mkdir -p "$folder"
    x86_64-w64-mingw32-gcc -O1 -shared -o "$folder/bcryptprimitives.dll" tests/windows/bcryptprimitives.c -ladvapi32
    export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=$wine64
    export WINEPREFIX=$folder/wine WINEDEBUG=-all WINEPATH="Z:${folder//\//\\}"
}

on_windows() { cargo "$1" --locked --target x86_64-pc-windows-gnu "${@:2}"; }

# A library with an allocator of its own, which a test opens; under Wine no test can build it.
plugin() {
    cargo build --quiet --locked --target x86_64-pc-windows-gnu --manifest-path tests/plugin/Cargo.toml --target-dir target/windows
    export PYMALLOC_PLUGIN="Z:${PWD//\//\\}\\target\\windows\\x86_64-pc-windows-gnu\\debug\\plugin.dll"
}

windows_hardened_tests=(--test hardened --test misuse_programs --test aborts --test statistics --test measure --test teardown
    --test zeroed --test realloc --test unwinding)

windows() {
    wine
    plugin
    step 'Windows: the heaps of the tests'
    on_windows test -p pymalloc --release --lib
    step 'Windows: all test binaries, and object pools'
    on_windows test -p pymalloc -p pymalloc-object-pool --tests --no-fail-fast -- --skip tests::
    step 'Windows: the hardened allocator'
    on_windows test -p pymalloc --release --features hardened --lib
    on_windows test -p pymalloc --features hardened "${windows_hardened_tests[@]}"
    step 'Windows: the tracer says that it is not there'
    on_windows test -p pymalloc --features trace --test trace_windows
    step 'Windows: the examples'
    local example
    for example in global pool_cheap pool_connections pool_buffers pool_parsers heap_picture; do
        on_windows run --quiet --release --example "$example" >/dev/null
        echo "$example: passed"
    done
    on_windows run --quiet --release --example wordfreq -- --threads 3 >/dev/null
    echo 'wordfreq: passed'
}

# What the gate has time for.
windows-short() {
    wine
    plugin
    step 'Windows, in short: the heaps of the tests; ends of threads and of the process, statistics, memory return'
    on_windows test -p pymalloc --release --lib -- --skip tests::bound::
    on_windows test -p pymalloc --release --test teardown --test statistics --test memory_return --test plugin_windows
}

check() {
    local target features
    for target in x86_64-unknown-linux-musl aarch64-unknown-linux-gnu riscv64gc-unknown-linux-gnu i686-unknown-linux-gnu \
        x86_64-apple-darwin x86_64-pc-windows-gnu x86_64-pc-windows-msvc aarch64-pc-windows-msvc wasm32-wasip1 \
        wasm32-unknown-unknown; do
        if ! rustup target list --installed | grep -qx "$target"; then
            echo "$target: not installed, left out"
            continue
        fi
        for features in '' hardened serde,trace; do
            RUSTFLAGS='-D warnings' cargo check --quiet --locked --lib --target "$target" --features "$features" \
                --target-dir target/check
        done
        RUSTFLAGS='-D warnings' cargo check --quiet --locked -p pymalloc-object-pool --lib --target "$target" \
            --target-dir target/check
        echo "$target: builds"
    done
}

[ $# -gt 0 ] || set -- musl aarch64 pages preload windows check
for run in "$@"; do
    case $run in
        musl | aarch64 | pages | preload | windows | windows-short | check) "$run" ;;
        *)
            echo "$0: $run is none of musl, aarch64, pages, preload, windows, windows-short, check" >&2
            exit 2
            ;;
    esac
done
