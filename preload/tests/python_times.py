#!/usr/bin/env python3
"""Time and peak memory of seven CPython programs: CPython's own pymalloc, glibc, this library, and any other preloaded.

`pymalloc` is this library as it serves CPython's objects directly, `by malloc` through CPython's call of `malloc`.

    preload/tests/python_times.py [--rounds N] [--python PATH] [--preload NAME=PATH]... [WORKLOAD...]

Each run is a process of its own. Allocators take turns within a round, so that a busy moment of the machine slows all
of them. Time is the processor time (user and system) of the process, memory its peak resident size. The least time
and the median memory of all rounds count. Figures are ratios to CPython's own pymalloc.
Build first: cargo build --release -p pymalloc-preload.
"""

import argparse
import math
import os
import pathlib
import statistics
import sys

LIBRARY = pathlib.Path(__file__).resolve().parents[2] / "target/release/libpymalloc.so"


def trees():
    """Binary trees of tuples, built and walked."""
    def make(depth):
        return (make(depth - 1), make(depth - 1)) if depth else ()

    def count(tree):
        return 1 + count(tree[0]) + count(tree[1]) if tree else 1

    kept = make(17)
    for _ in range(60):
        count(make(14))
    count(kept)


def objects():
    """A graph of instances whose nodes are replaced at random."""
    import random
    pick = random.Random(1).randrange

    class Node:
        def __init__(self, number, other):
            self.number, self.other, self.label = number, other, f"node {number}"

    nodes = [Node(number, None) for number in range(60_000)]
    for number in range(900_000):
        nodes[pick(60_000)] = Node(number, number % 7)


def dicts():
    """Counts words, with one dict per letter."""
    text = [f"word{number * 7919 % 20_011}" for number in range(150_000)]
    tables = {}
    for word in text * 8:
        table = tables.setdefault(word[-1] + word[4], {})
        table[word] = table.get(word, 0) + 1
    for _ in range(20):
        {word: [count] for table in tables.values() for word, count in table.items()}


def strings():
    """Splits, joins and replaces text."""
    line = ",".join(str(number * 37) for number in range(2_000))
    lines = []
    for number in range(1_500):
        parts = line.split(",")
        lines[number % 100:number % 100 + 1] = [";".join(part[::-1] for part in parts if part[-1] != str(number % 10))]
    "\n".join(lines).replace("1", "one").upper().split("\n")


def records():
    """Loads and dumps JSON, and pickles the same records."""
    import json
    import pickle
    records = [{"id": n, "name": f"name {n}", "tags": [str(n % 7), "x"], "at": {"x": n / 3, "y": -n}} for n in range(8_000)]
    for _ in range(16):
        records = json.loads(json.dumps(records))
        records = pickle.loads(pickle.dumps(records))


def numbers():
    """Floats and large integers in lists, sorted and summed."""
    import random
    floats = random.Random(2).random
    for _ in range(20):
        values = [floats() for _ in range(100_000)]
        values.sort()
        sum(value * value for value in values)
        sum([number ** 5 for number in range(30_000)])


def sets():
    """Sets of tuples: an automaton of living cells."""
    cells = {(x, x * x % 97) for x in range(500)}
    for _ in range(18):
        counts = {}
        for x, y in cells:
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    place = (x + dx, y + dy)
                    counts[place] = counts.get(place, 0) + 1
        cells = {place for place, count in counts.items() if count == 3 or (count in (1, 2, 4) and place in cells) or count == 5}
        cells |= {(x * 3 % 211, y * 5 % 223) for x, y in list(cells)[:2000]}


WORKLOADS = {function.__name__: function for function in (trees, objects, dicts, strings, records, numbers, sets)}


def measure(python, workload, variables):
    """Runs a workload once; returns its seconds of processor time and its peak memory in KiB."""
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PYTHONMALLOC")}
    environment |= {"PYTHONHASHSEED": "0", **variables}
    child = os.posix_spawn(python, [python, "-s", __file__, "--run", workload], environment)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{workload} failed with {variables}: status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--preload", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--run", choices=WORKLOADS, help=argparse.SUPPRESS)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    arguments = parser.parse_args()
    if arguments.run:
        return WORKLOADS[arguments.run]()
    allocators = {
        "CPython": {},
        "glibc": {"PYTHONMALLOC": "malloc"},
        "pymalloc": {"LD_PRELOAD": str(LIBRARY)},
        "by malloc": {"PYTHONMALLOC": "malloc", "LD_PRELOAD": str(LIBRARY)},
    }
    for other in arguments.preload:
        name, _, path = other.partition("=")
        allocators[name] = {"PYTHONMALLOC": "malloc", "LD_PRELOAD": path}
    for variables in allocators.values():
        if not pathlib.Path(variables.get("LD_PRELOAD", "/")).exists():
            parser.error(f"{variables['LD_PRELOAD']} does not exist")
    workloads = arguments.workloads or list(WORKLOADS)
    runs = {}
    for number in range(arguments.rounds):
        for workload in workloads:
            print(f"\rround {number + 1} of {arguments.rounds}: {workload:10}", end="", file=sys.stderr, flush=True)
            for name, variables in allocators.items():
                runs.setdefault((workload, name), []).append(measure(arguments.python, workload, variables))
    print(file=sys.stderr)
    print("time and peak memory, as multiples of CPython's own pymalloc;", f"{arguments.rounds} rounds")
    print(f"{'':10}{'seconds':>9}{'MiB':>7}" + "".join(f"{name:>18}" for name in list(allocators)[1:]))
    ratios = {name: [] for name in allocators}
    for workload in workloads:
        best = {
            name: (min(run[0] for run in runs[workload, name]), statistics.median(run[1] for run in runs[workload, name]))
            for name in allocators
        }
        base = best["CPython"]
        row = f"{workload:10}{base[0]:9.3f}{base[1] / 1024:7.1f}"
        for name in list(allocators)[1:]:
            ratio = best[name][0] / base[0], best[name][1] / base[1]
            ratios[name].append(ratio)
            row += f"{ratio[0]:11.3f} {ratio[1]:6.3f}"
        print(row)
    means = [
        [math.exp(statistics.fmean(math.log(ratio[which]) for ratio in ratios[name])) for which in (0, 1)]
        for name in list(allocators)[1:]
    ]
    print(f"{'geo. mean':26}" + "".join(f"{time:11.3f} {memory:6.3f}" for time, memory in means))


if __name__ == "__main__":
    main()
