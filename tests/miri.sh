#!/usr/bin/env bash
# What Miri can interpret, under both of its models of aliasing (Stacked Borrows, Tree Borrows) and with strict
# provenance: the unit tests of heaps on memory of its own (src/tests/memory.rs), of the tracer's readers, and of object
# pools. Tests of threads then run by many seeds, which decide when threads take turns and what weak loads see; with
# neither model, because a model looks at each word behind a reference whenever one is made.
#
#   tests/miri.sh          all of it; a part may take an hour
#   tests/miri.sh short    the build and three small tests, by Stacked Borrows, for the gate
#
# MIRI_SEEDS (default 16) is the number of seeds. Needs, and does not install: a nightly toolchain with Miri and the
# sources of std.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${MIRI_SEEDS:-16}
part=${1:-all}
[ $# -le 1 ] && [[ $part == all || $part == short ]] && [[ $seeds =~ ^[1-9][0-9]*$ ]] || {
    echo "usage: [MIRI_SEEDS=NUMBER] $0 [short]" >&2
    exit 2
}
cargo +nightly miri --version >/dev/null 2>&1 || {
    echo "$0: no Miri: rustup toolchain install nightly --profile minimal --component miri,rust-src" >&2
    exit 2
}
export CARGO_INCREMENTAL=0

declare -A flags=([stacked]='' [tree]='-Zmiri-tree-borrows' [no]='-Zmiri-disable-stacked-borrows')
# Each path of a block: by magazines, frees across caches; metadata; the doors.
heaps=(tests::magazines::a_zeroed tests::remote_frees::bits tests::metadata tests::locks)
# Without a model: a model looks at each word of a structure whenever a reference to it is made, and these take too long so.
long=(tests::depots::what_a_thread tests::programs)
threads=(tests::threads::)
parts=(base::text base::size_class::tests::numbers)
readers=(trace::read trace::names::traceback)

# One process of Miri: `run WHAT MODEL MORE-FLAGS PACKAGE [ARGUMENT OF CARGO…] -- [TEST…]`.
run() {
    local what=$1 model=$2 more=$3 package=$4 seconds=$SECONDS
    shift 4
    printf '=== %s, %s borrows %s\n' "$what" "$model" "$more"
    # shellcheck disable=SC2086
    MIRIFLAGS="-Zmiri-strict-provenance -Zmiri-env-forward=PYMALLOC_PROGRAMS ${flags[$model]} $more" \
        cargo +nightly miri test --locked -p "$package" --lib "$@"
    echo "--- $((SECONDS - seconds)) s"
}

if [ "$part" = short ]; then
    run 'in short' stacked '' pymalloc -- base::text tests::metadata tests::locks
    exit
fi
for model in stacked tree; do
    run 'text and classes' "$model" '' pymalloc -- "${parts[@]}"
    run 'heaps' "$model" '' pymalloc -- "${heaps[@]}"
    run "the tracer's readers" "$model" '' pymalloc --features trace -- "${readers[@]}"
    run 'object pools' "$model" '' pymalloc-object-pool --
done
run 'depots, programs' no '' pymalloc -- "${long[@]}"
run 'object pools' no "-Zmiri-many-seeds=0..$seeds" pymalloc-object-pool -- barrier stock
run 'threads on a heap' no "-Zmiri-many-seeds=0..$seeds" pymalloc -- "${threads[@]}"
