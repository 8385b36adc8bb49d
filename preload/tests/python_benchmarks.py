#!/usr/bin/env python3
"""Time and peak memory of pyperformance's benchmarks: CPython's pymalloc, glibc, this library, any other preloaded.

    preload/tests/python_benchmarks.py --python PATH [--rounds N] [--preload NAME=PATH]... [BENCHMARK...]

PATH is a CPython with pyperformance installed (`pip install pyperformance`, in a virtual environment). Each run is a
process of its own: a worker of pyperf that takes three values after one that is dropped. Allocators take turns within
a round. The number of loops per value is found once, with CPython's own pymalloc. The least value of all runs counts
(or their sum, if a benchmark has parts), and the median of the processes' peak memory.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import runs

# Further arguments. None needs more than pyperformance's own packages.
BENCHMARKS = {name: () for name in """
    2to3 argparse async_generators base64 bpe_tokeniser chaos comprehensions coroutines deepcopy deltablue fannkuch float
    gc_traversal generators go hexiom json_dumps json_loads logging mdp meteor_contest nbody nqueens pathlib pidigits
    pprint pyflate raytrace regex_compile regex_dna regex_effbot regex_v8 richards scimark spectral_norm sqlite_synth telco
    typing_runtime_protocols unpack_sequence xml_etree
    """.split()}
BENCHMARKS |= {"async_tree": ("none",), "pickle": ("pickle",), "unpickle": ("unpickle",)}
FOLDERS = {"unpickle": "pickle"}
# About how many seconds a value should take.
VALUE_SECONDS = 0.1


def worker(python, folder, benchmark, loops, variables, values=3):
    """Runs one worker; returns its least value, in seconds per loop, and its peak memory in KiB."""
    script = folder / f"bm_{FOLDERS.get(benchmark, benchmark)}/run_benchmark.py"
    with tempfile.TemporaryDirectory() as place:
        output = pathlib.Path(place) / "output.json"
        command = [python, str(script), "--worker", f"--loops={loops}", f"--values={values}", f"--warmups={int(values > 1)}"]
        command += ["--output", str(output), *BENCHMARKS[benchmark]]
        _, _, kib, _ = runs.run(command, {"PYTHONHASHSEED": "0", **variables}, place)
        parts = json.loads(output.read_text())["benchmarks"]
    return sum(min(value for run in part["runs"] for value in run["values"]) for part in parts), kib


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True)
    runs.add_arguments(parser)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK")
    arguments = parser.parse_intermixed_args()
    benchmarks = arguments.benchmarks or list(BENCHMARKS)
    for benchmark in benchmarks:
        if benchmark not in BENCHMARKS:
            parser.error(f"{benchmark} is not one of {', '.join(BENCHMARKS)}")
    allocators = {"CPython": {}}
    for name, library in runs.libraries(parser, arguments).items():
        allocators[name] = {"PYTHONMALLOC": "malloc"} | ({"LD_PRELOAD": library} if library else {})
    results = runs.Runs(arguments.results)
    if not arguments.table:
        find = "import pathlib, pyperformance; print(pathlib.Path(pyperformance.__file__).parent / 'data-files/benchmarks')"
        found = subprocess.run([arguments.python, "-c", find], capture_output=True, text=True)
        if found.returncode:
            parser.error(f"{arguments.python} has no pyperformance")
        folder = pathlib.Path(found.stdout.strip())
        for benchmark in benchmarks:
            runs.progress(f"how many loops: {benchmark}")
            seconds, _ = worker(arguments.python, folder, benchmark, 1, {}, values=1)
            loops = max(1, round(VALUE_SECONDS / seconds))
            if loops > 1:
                # The first loop takes longer than the others.
                seconds, _ = worker(arguments.python, folder, benchmark, loops, {}, values=1)
                loops = max(1, round(VALUE_SECONDS / seconds))
            for number in range(arguments.rounds):
                for name, variables in allocators.items():
                    runs.progress(f"{benchmark}, round {number + 1} of {arguments.rounds}:", name)
                    results.add(benchmark, name, *worker(arguments.python, folder, benchmark, loops, variables))
        runs.progress()
    results.print_table("CPython")


if __name__ == "__main__":
    main()
