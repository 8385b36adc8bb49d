#!/usr/bin/env bash
# Line coverage of src/ by the unit tests and every test binary. Needs cargo-llvm-cov (`cargo install cargo-llvm-cov`)
# and the toolchain's llvm-tools (`rustup component add llvm-tools`).
#
#   tests/coverage.sh           runs the tests; prints a line a file, and the lines that no test reached
#   tests/coverage.sh report    the same of the last run
#
# Counters live in a file that is mapped (LLVM's continuous mode), so children that abort, end by `_exit` or are killed
# count like the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
# What is not the core: tests, and what other platforms have in place of os/linux/.
ignored='(^|/)(tests|examples|preload)/|/src/os/unsupported\.rs$'

export LLVM_PROFILE_FILE_NAME='pymalloc-%p%c.profraw'
export RUSTFLAGS="${RUSTFLAGS:-} -Cllvm-args=-runtime-counter-relocation"

if [ "${1:-}" != report ]; then
    cargo llvm-cov clean --workspace
    # Which leaves what was built with other features or from files since gone: the report would count it.
    cargo clean --quiet --profile quick --package pymalloc --target-dir target/llvm-cov-target
    cargo llvm-cov --no-report --profile quick --features serde --lib
    for test in tests/*.rs tests/programs/*.rs; do
        test=$(basename "$test" .rs)
        case $test in
            # The models' own build; the tracer is not there without its feature, and needs debugging information.
            loom | links | trace*) ;;
            *) cargo llvm-cov --no-report --profile quick --features serde --test "$test" ;;
        esac
    done
fi
cargo llvm-cov report --profile quick --ignore-filename-regex "$ignored" --show-missing-lines
