#!/usr/bin/env bash
# CPython's own regression tests with and without the library, under PYTHONMALLOC=malloc and malloc_debug: every single
# test must have the same outcome. Needs a CPython with its `test` package (Debian: libpython3-testsuite).
#
#   preload/tests/cpython.sh [MODULE…]      about 20 minutes for the default modules on two cores
#
# PYTHON names the interpreter (default: python3), JOBS the processes (default: 2).
set -euo pipefail
cd "$(dirname "$0")/../.."

modules=("$@")
if [ ${#modules[@]} = 0 ]; then
    modules=(test_list test_dict test_set test_gc test_thread test_threading test_fork1 test_subprocess
        test_multiprocessing_fork test_multiprocessing_spawn test_io test_json test_pickle test_ctypes test_tracemalloc
        test_capi)
fi
python=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)')
"$python" -c 'import test.libregrtest' || { echo "cpython.sh: $python has no test package" >&2; exit 2; }

cargo build --release -p pymalloc-preload
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# A copy, so that a build during the test changes nothing.
library=$folder/libpymalloc.so
cp target/release/libpymalloc.so "$library"

# run NAME VARIABLE=VALUE…: runs all modules once, and writes the outcomes to NAME.xml. A failed test is an outcome,
# too.
run() {
    local name=$1
    shift
    printf '=== %s: %s\n' "$(date +%T)" "$name" >&2
    mkdir -p "$folder/$name"
    env "$@" "$python" -m test -j "${JOBS:-2}" --timeout 900 --tempdir "$folder/$name" --junit-xml "$folder/$name.xml" \
        "${modules[@]}" >"$folder/$name.log" 2>&1 || true
    tail -n 4 "$folder/$name.log" >&2
}

"$python" --version
for kind in malloc malloc_debug; do
    run "$kind-without" "PYTHONMALLOC=$kind"
    run "$kind-with" "PYTHONMALLOC=$kind" "LD_PRELOAD=$library" "PYMALLOC_REPORT=$folder/$kind.report"
done

"$python" - "$folder" <<'PYTHON'
import collections, re, sys
import xml.etree.ElementTree as xml

folder = sys.argv[1]
different = False

def outcomes(name):
    found = {}
    for case in xml.parse(f"{folder}/{name}.xml").iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        # The names of some subtests contain addresses and process numbers.
        test = re.sub(r"0x[0-9a-f]+|\b\d{3,}\b", "N", case.get("name"))
        found.setdefault(test, set()).add("+".join(sorted(kinds)) or "passed")
    return found

for kind in "malloc", "malloc_debug":
    without, with_library = outcomes(f"{kind}-without"), outcomes(f"{kind}-with")
    counts = collections.Counter("+".join(sorted(kinds)) for kinds in with_library.values())
    print(f"PYTHONMALLOC={kind}: {len(with_library)} tests with the library:", dict(counts))
    for test in sorted(without.keys() | with_library.keys()):
        pair = without.get(test, {"missing"}), with_library.get(test, {"missing"})
        if pair[0] != pair[1]:
            different = True
            print(f"  DIFFERENT: {test}: without {pair[0]}, with {pair[1]}")
    lines = open(f"{folder}/{kind}.report").read().splitlines()
    allocations = {line: int(re.search(r"at least (\d+) allocations$", line)[1]) for line in lines}
    served = [line for line in lines if allocations[line]]
    python = [line for line in served if "(python" in line]
    print(f"  the library served {len(served)} processes that exited by exit, {len(python)} of them CPython,"
          f" with at least {sum(allocations[line] for line in python):,} allocations,"
          f" {min(map(allocations.get, python), default=0):,} in the least; {len(lines) - len(served)} allocated nothing small")
    different |= not with_library or len(python) == 0 or any("(python" in line for line in set(lines) - set(served))
print("DIFFERENT" if different else "the same outcomes with and without the library")
sys.exit(different)
PYTHON
