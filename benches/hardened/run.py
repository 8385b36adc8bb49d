#!/usr/bin/env python3
"""What the feature `hardened` costs, and each of its mechanisms: instructions and cycles of the workloads of benches/peers.

    benches/hardened/run.py [--rounds N] [--only WORKLOAD,...] [--no-build]

Builds six workers (fat LTO): plain, hardened, and hardened without each one mechanism (`--cfg pymalloc_without`). Runs each
workload N times (default 5) with each of them in turn, at quick scale, under `perf stat`, and prints the ratios to plain: of
user instructions, which are the same each time, and of user cycles (medians), which other programs on the machine disturb.
The quotient of `hardened` and `without X` is what X costs beside the others. Checksums must be those of plain.

Needs Linux's `perf` with hardware counters. Files go to benches/peers/target/hardened; the table, to table.txt there, too.
Exit code 1: a build or a run failed, or results differ; 2: a bad command line, or no counters.
"""

import argparse
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent / "peers"
WORK = PEERS / "target" / "hardened"
WORKLOADS = (
    "json syn regex btree-churn hashmap-churn interned script persistent-map lru-cache csv-group search-memory".split()
)
MECHANISMS = ["checks", "random", "quarantine", "zero"]
WITHOUT = [f"without {mechanism}" for mechanism in MECHANISMS]
VARIANTS = ["plain", "hardened", *WITHOUT]


def fail(message, code):
    print(f"run.py: {message}", file=sys.stderr)
    sys.exit(code)


def worker(variant):
    return WORK / f"worker-{variant.replace(' ', '-')}"


def build(variant):
    """Builds the worker of a variant. Flags are part of what cargo caches by, so each set has a folder of its own."""
    target = WORK / ("build-" + variant.replace(" ", "-") if variant in WITHOUT else "build")
    feature = "alloc-pymalloc" if variant == "plain" else "alloc-pymalloc-hardened"
    flags = f'--cfg pymalloc_without="{variant.split()[1]}"' if variant in WITHOUT else ""
    command = ["cargo", "build", "--locked", "--quiet", "--profile", "lto", "--bin", "worker", "--no-default-features"]
    command += ["--features", f"worker,{feature}", "--target-dir", str(target)]
    if subprocess.run(command, cwd=PEERS, env=os.environ | {"RUSTFLAGS": flags}).returncode:
        fail(f"the worker {variant} can't be built", 1)
    shutil.copy(target / "lto" / "worker", worker(variant))


def count(variant, workload):
    """One run: instructions, cycles, checksum."""
    command = ["perf", "stat", "-x", ";", "-e", "instructions:u,cycles:u", worker(variant), workload, "--scale", "quick"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if run.returncode:
        fail(f"{workload} with {variant} ended with {run.returncode}: {run.stderr.strip()}", 1)
    counts = {name: int(number) for number, name in re.findall(r"^(\d+);[^;]*;(\w+):u;", run.stderr, re.M)}
    if "instructions" not in counts or "cycles" not in counts:
        fail("perf has no hardware counters here", 2)
    return counts["instructions"], counts["cycles"], re.search(r"checksum=(\S+)", run.stdout)[1]


def measure(workload, rounds):
    """Medians of (instructions, cycles) by variant."""
    runs = {variant: [] for variant in VARIANTS}
    for number in range(rounds):
        # Each round starts with the next one: what disturbs the machine for a while disturbs all.
        for place in range(len(VARIANTS)):
            variant = VARIANTS[(place + number) % len(VARIANTS)]
            runs[variant].append(count(variant, workload))
    if len({run[2] for of in runs.values() for run in of}) > 1:
        fail(f"the results of {workload} differ", 1)
    return {variant: [statistics.median(run[field] for run in of) for field in (0, 1)] for variant, of in runs.items()}


def mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--no-build", action="store_true")
    arguments = parser.parse_args()
    workloads = arguments.only.split(",")
    unknown = sorted(set(workloads) - set(WORKLOADS))
    if unknown or arguments.rounds < 1:
        parser.error(f"no workload is called {unknown[0]}" if unknown else "a round at least")
    if not shutil.which("perf"):
        fail("needs perf", 2)
    WORK.mkdir(parents=True, exist_ok=True)
    for number, variant in enumerate(VARIANTS):
        if not arguments.no_build:
            print(f"builds {number + 1} of {len(VARIANTS)}: {variant}", file=sys.stderr, flush=True)
            build(variant)
        if not worker(variant).exists():
            fail(f"there is no {worker(variant)}: leave out --no-build", 2)

    table = (WORK / "table.txt").open("w")

    def line(text):
        print(text, flush=True)
        print(text, file=table, flush=True)

    columns = VARIANTS[1:]
    line("| instructions, cycles | " + " | ".join(columns) + " |")
    line("|---|" + "---|" * len(columns))
    ratios = {variant: [] for variant in columns}
    for workload in workloads:
        found = measure(workload, arguments.rounds)
        plain = found["plain"]
        for variant in columns:
            ratios[variant].append([found[variant][field] / plain[field] for field in (0, 1)])
        line(f"| {workload} | " + " | ".join("{:.2f}, {:.2f}".format(*ratios[variant][-1]) for variant in columns) + " |")
    means = {variant: [mean([ratio[field] for ratio in of]) for field in (0, 1)] for variant, of in ratios.items()}
    line("| geometric mean | " + " | ".join("{:.3f}, {:.3f}".format(*means[variant]) for variant in columns) + " |")
    for mechanism, variant in zip(MECHANISMS, WITHOUT):
        cost = [100 * (means["hardened"][field] / means[variant][field] - 1) for field in (0, 1)]
        line(f"{mechanism}: {cost[0]:.1f} % of instructions, {cost[1]:.1f} % of cycles")


if __name__ == "__main__":
    main()
