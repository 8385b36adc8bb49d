#!/usr/bin/env bash
# What five small programs leak, as three tools see it: LeakSanitizer, valgrind's memcheck, `pymalloc run --leaks`. Prints a
# table of blocks and bytes; fails unless each tool finds exactly what the program says that it leaks. Needs gcc with
# liblsan, valgrind, cargo. The results are in docs/graph.md.
#   tests/oracles/leaks.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/target/oracles
sources=$PWD/tests/oracles
mkdir -p "$folder"
cargo build --locked --release -p pymalloc-preload --features trace
run=$PWD/target/release/pymalloc

# Rust's LeakSanitizer is unstable: RUSTC_BOOTSTRAP opens it to this compiler for these programs only.
build() { # name: builds NAME, and NAME-lsan with LeakSanitizer
    if [ -e "$sources/$1.c" ]; then
        gcc -g -O1 -pthread "$sources/$1.c" -o "$folder/$1"
        gcc -g -O1 -pthread -fsanitize=leak "$sources/$1.c" -o "$folder/$1-lsan"
    else
        rustc -g --edition 2024 "$sources/$1.rs" -o "$folder/$1"
        RUSTC_BOOTSTRAP=1 rustc -g --edition 2024 -Zsanitizer=leak "$sources/$1.rs" -o "$folder/$1-lsan"
    fi
}

# Each prints "BLOCKS BYTES"; nothing if the tool did not run to its end.
lsan() {
    local status=0 said
    said=$(LSAN_OPTIONS=exitcode=23 "$folder/$1-lsan" 2>&1) || status=$?
    case $status in
    0) echo 0 0 ;;
    23) sed -nE 's/^SUMMARY: .*: ([0-9]+) byte\(s\) leaked in ([0-9]+) allocation.*/\2 \1/p' <<<"$said" ;;
    esac
}

memcheck() { # what is lost, directly and by other blocks that are; "possibly lost" is told apart, and not counted
    valgrind --leak-check=full "$folder/$1" 2>&1 | tr -d , | awk '
        /HEAP SUMMARY/ { seen = 1 }
        /definitely lost: |indirectly lost: / { bytes += $4; blocks += $7 }
        END { if (seen) print blocks + 0, bytes + 0 }'
}

pymalloc() {
    "$run" run --leaks -- "$folder/$1" 2>&1 |
        sed -nE 's/^reachable: .*; unreachable: ([0-9]+) B in ([0-9]+) blocks$/\2 \1/p'
}

failed=0
printf '| %-7s | %-12s | %-12s | %-12s | %-12s |\n' program planted LeakSanitizer memcheck 'run --leaks'
echo '|---|---|---|---|---|'
while read -r program blocks bytes; do
    build "$program"
    row=("$blocks $bytes" "$(lsan "$program")" "$(memcheck "$program")" "$(pymalloc "$program")")
    mark=
    for found in "${row[@]:1}"; do
        [ "$found" = "${row[0]}" ] || { mark=' differs' failed=1; }
    done
    printf '| %-7s | %-12s | %-12s | %-12s | %-12s |%s\n' "$program" "${row[@]}" "$mark"
done <<'END'
list 100 2850
cycle 120 4800
lru 128 8192
thread 21 1700
none 0 0
END
exit $failed
