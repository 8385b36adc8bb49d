#!/usr/bin/env python3
"""Time and peak memory of the well-known malloc benchmarks: glibc, this library, and any other preloaded.

    preload/tests/malloc_benchmarks.py FOLDER [--rounds N] [--preload NAME=PATH]... [PROGRAM...]

FOLDER holds the built programs of mimalloc-bench (https://github.com/daanx/mimalloc-bench). --inputs names its folder
`bench`, where espresso and barnes have their inputs. Programs that do a given amount of work are timed by the clock.
For those that work for a given time, the time that a fixed amount of work would have taken is computed from their
output. Allocators take turns within a round. Each run is a process of its own. The least time and the median memory
count.

With --security, the programs of FOLDER/security run once with each allocator instead, and once with this library and
PYMALLOC_HARDENED=1. Each does a misuse and says whether it went unnoticed.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess

import runs

THREADS = 2

# Arguments. For some also how the output tells the time: a pattern, and a function of the number found.
PROGRAMS = {
    "cfrac": ("17545186520507317056371138836327483792789528",),
    "espresso": ("{inputs}/espresso/largest.espresso",),
    "barnes": (),
    "alloc-test": ("1",),
    "alloc-test/threads": (str(THREADS),),
    "glibc-simple": (),
    "glibc-thread": (str(THREADS),),
    "larson": ("1", "8", "1000", "5000", "100", "4141", str(THREADS)),
    "larson-sized": ("1", "8", "1000", "5000", "100", "4141", str(THREADS)),
    "xmalloc-test": ("-w", str(THREADS), "-t", "2", "-s", "64"),
    "cache-scratch": ("1", "1000", "1", "1000000", str(THREADS)),
    "cache-scratch/threads": (str(THREADS), "1000", "1", "1000000", str(THREADS)),
    "cache-thrash": ("1", "1000", "1", "1000000", str(THREADS)),
    "cache-thrash/threads": (str(THREADS), "1000", "1", "1000000", str(THREADS)),
    "mstress": (str(THREADS), "50", "25"),
    "mleak": ("50",),
    "rptest": (str(THREADS), "0", "1", "2", "100", "1000", "100", "8", "16000"),
    "malloc-large": (),
}
# For programs that run for a given time: the time that a given amount of work would have taken.
SAID = {
    "larson": (r"relative time: ([\d.]+)", lambda said: said),
    "larson-sized": (r"relative time: ([\d.]+)", lambda said: said),
    "xmalloc-test": (r"rtime: ([\d.]+)", lambda said: said),
    "glibc-thread": (r"(\d+) iterations", lambda said: 1e8 / said),
    "rptest": (r"(\d+) memory ops/CPU second", lambda said: 1e6 / said),
}


def measure(folder, inputs, program, library):
    name = program.partition("/")[0]
    command = [str(folder / name), *(argument.format(inputs=inputs) for argument in PROGRAMS[program])]
    stdin = inputs / "barnes/input" if name == "barnes" else os.devnull
    variables = {"LD_PRELOAD": library} if library else {}
    seconds, _, kib, text = runs.run(command, variables, folder, stdin)
    if name in SAID:
        pattern, seconds_of = SAID[name]
        seconds = seconds_of(float(re.search(pattern, text)[1]))
    return seconds, kib


def misuse(program, variables, folder):
    """Runs a program that misuses a block and then prints `NOT_CAUGHT`; returns the outcome."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"} | variables
    try:
        done = subprocess.run([str(program)], env=environment, capture_output=True, timeout=60, cwd=folder)
        said, stopped = b"NOT_CAUGHT" in done.stdout, done.returncode != 0
    except subprocess.TimeoutExpired as over:
        said, stopped = b"NOT_CAUGHT" in (over.stdout or b""), True
    if said:
        return "late" if stopped else "missed"
    return "caught" if stopped else "harmless"


OUTCOMES = {
    "caught": "the program was stopped before the misuse had its effect",
    "harmless": "it ran to its end, and the misuse had no effect",
    "late": "stopped after the effect",
    "missed": "the effect was there, and went unnoticed",
}
SIZES = {"small": 8, "medium": 4096, "large": 256 << 10}


def security(folder, libraries):
    """Prints the table of the security programs: for each pattern, the outcome with each allocator in each size."""
    allocators = {name: {"LD_PRELOAD": library} if library else {} for name, library in libraries.items()}
    allocators["pymalloc, checked"] = allocators["pymalloc"] | {"PYMALLOC_HARDENED": "1"}
    programs = sorted(path for path in (folder / "security").iterdir() if path.is_file() and os.access(path, os.X_OK))
    found, counts = collections.defaultdict(dict), collections.Counter()
    for path in programs:
        pattern, _, size = path.name.rpartition("_")
        if size not in SIZES:
            pattern, size = path.name, "any"
        for name, variables in allocators.items():
            runs.progress(path.name, name)
            outcome = misuse(path, variables, folder)
            found[pattern, name][size] = outcome
            counts[outcome, size, name] += 1
    runs.progress()
    sizes = ", ".join(f"{bytes} bytes ({size})" for size, bytes in SIZES.items())
    print(f"outcomes with {sizes}; one if they are equal")
    print(f"{'':30}" + "".join(f"{name:>26}" for name in allocators))
    for pattern in dict.fromkeys(pattern for pattern, _ in found):
        row = f"{pattern:30}"
        for name in allocators:
            outcomes = [found[pattern, name][size] for size in (*SIZES, "any") if size in found[pattern, name]]
            row += f"{'/'.join(outcomes if len(set(outcomes)) > 1 else outcomes[:1]):>26}"
        print(row)
    for outcome, meaning in OUTCOMES.items():
        print(f"\n{outcome}: {meaning}")
        for size in (*SIZES, "any"):
            print(f"  {size:28}" + "".join(f"{counts[outcome, size, name]:26}" for name in allocators))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--inputs", type=pathlib.Path, help="default: FOLDER/../bench")
    parser.add_argument("--security", action="store_true")
    runs.add_arguments(parser)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    arguments = parser.parse_intermixed_args()
    folder = arguments.folder.resolve()
    inputs = (arguments.inputs or folder.parent / "bench").resolve()
    allocators = runs.libraries(parser, arguments)
    if arguments.security:
        return security(folder, allocators)
    programs = arguments.programs or list(PROGRAMS)
    for program in programs:
        if program not in PROGRAMS:
            parser.error(f"{program} is not one of {', '.join(PROGRAMS)}")
        if not (folder / program.partition("/")[0]).exists():
            parser.error(f"{folder} has no {program}")
    results = runs.Runs(arguments.results)
    for number in range(0 if arguments.table else arguments.rounds):
        for program in programs:
            for name, library in allocators.items():
                runs.progress(f"round {number + 1} of {arguments.rounds}:", program, name)
                results.add(program, name, *measure(folder, inputs, program, library))
    runs.progress()
    results.print_table("pymalloc")


if __name__ == "__main__":
    main()
