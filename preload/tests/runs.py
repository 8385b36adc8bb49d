"""Shared by the runners of benchmarks: allocators that take turns, runs kept in a file, and the table of all runs."""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

LIBRARY = pathlib.Path(__file__).resolve().parents[2] / "target/release/libpymalloc.so"


def add_arguments(parser):
    """The options that all runners have."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--library", default=str(LIBRARY), help="of this allocator")
    parser.add_argument("--preload", action="append", default=[], metavar="NAME=PATH", help="another allocator's library")
    parser.add_argument("--results", metavar="FILE", help="add the runs to those in FILE, and print the table of all of them")
    parser.add_argument("--table", action="store_true", help="only print the table of the runs in FILE")


def libraries(parser, arguments):
    """Each allocator's name and library, glibc's (None) first; ends the program if one isn't there."""
    found = {"glibc": None, "pymalloc": arguments.library}
    found |= dict(other.partition("=")[::2] for other in arguments.preload)
    for path in found.values():
        if path is not None and not pathlib.Path(path).exists():
            parser.error(f"{path} does not exist")
    return found


def run(command, variables, folder=None, stdin=os.devnull, limit_seconds=120):
    """Runs a program once; returns its seconds by the clock and of processor time, its peak memory in KiB, its output.

    GNU time measures, because a process's peak memory includes the peak of the process that forked it, and Python's is
    larger than many programs'.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PYTHONMALLOC")}
    with open(stdin) as source, tempfile.NamedTemporaryFile("r") as figures:
        whole = ["timeout", "--foreground", str(limit_seconds), "time", "-q", "-f", "%e %U %S %M", "-o", figures.name, "env"]
        whole += [f"{name}={value}" for name, value in variables.items()] + list(command)
        start = time.perf_counter()
        try:
            done = subprocess.run(
                whole, env=environment, cwd=folder, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except FileNotFoundError as error:
            sys.exit(f"{error.filename} is not installed")
        seconds = time.perf_counter() - start
        text = done.stdout.decode(errors="replace")
        if done.returncode:
            sys.exit(f"\n{' '.join(command)} failed with {variables}: {done.returncode}\n{text[-2000:]}")
        _, user, system, kib = figures.read().split()
    return seconds, float(user) + float(system), int(kib), text


class Runs:
    """Seconds and peak memory of each run of a program with an allocator."""

    def __init__(self, path):
        self.path = pathlib.Path(path) if path else None
        self.lines = []
        if self.path and self.path.exists():
            self.lines = [json.loads(line) for line in self.path.read_text().splitlines()]

    def add(self, program, allocator, seconds, kib):
        self.lines.append([program, allocator, seconds, kib])
        if self.path:
            with self.path.open("a") as file:
                print(json.dumps(self.lines[-1]), file=file)

    def print_table(self, base, width=24):
        """Prints the least seconds and the median memory: of `base` in units, of the others as multiples of `base`."""
        programs = list(dict.fromkeys(line[0] for line in self.lines))
        allocators = [name for name in dict.fromkeys(line[1] for line in self.lines) if name != base]
        print(f"time and peak memory, as multiples of {base}")
        print(f"{'':{width}}{'runs':>5}{'ms':>10}{'MiB':>8}" + "".join(f"{name:>15}" for name in allocators))
        ratios = {name: [] for name in allocators}
        for program in programs:
            best = {}
            for name in [base, *allocators]:
                runs = [line[2:] for line in self.lines if line[:2] == [program, name]]
                if runs:
                    best[name] = min(run[0] for run in runs), statistics.median(run[1] for run in runs), len(runs)
            if base not in best:
                continue
            seconds, kib, count = best[base]
            row = f"{program:{width}}{count:5}{seconds * 1000:10.4g}{kib / 1024:8.1f}"
            for name in allocators:
                if name in best:
                    ratio = best[name][0] / seconds, best[name][1] / kib
                    ratios[name].append(ratio)
                    row += f"{ratio[0]:8.2f} {ratio[1]:6.2f}"
                else:
                    row += f"{'–':>15}"
            print(row)
        means = (
            "".join(f"{math.exp(statistics.fmean(math.log(ratio[which]) for ratio in ratios[name])):{form}}"
                    for which, form in ((0, "8.3f"), (1, "7.3f")))
            for name in allocators if ratios[name]
        )
        print(f"{'geo. mean':{width + 23}}" + "".join(means))


def progress(*words):
    print("\r\x1b[K" + " ".join(map(str, words)), end="", file=sys.stderr, flush=True)
