#!/usr/bin/env python3
"""What tools that look for leaks cost, and what they find, on one program: benches/tracers/src/bin/leaky.rs.

    tests/oracles/compare.py [ENTRIES]

Needs cargo, valgrind, heaptrack. Prints a table: milliseconds of the program's work
under the tool, and of the whole run with what the tool does at its start and exit, also in processor time, which other
programs change less; most memory; what it says of leaks. A row is the median of three runs. A tool that is not there is left out, with a line. The results are in docs/graph.md.
"""

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRACERS = ROOT / "benches/tracers"
ENTRIES = sys.argv[1] if len(sys.argv) > 1 else "100000"
RUNS = 3


def cargo(folder, *arguments, **variables):
    """Builds; returns the folder of what was built."""
    target = TRACERS / "target" / folder
    command = ["cargo", "build", "--locked", "--release", "--target-dir", str(target), *arguments]
    subprocess.run(command, check=True, env={**os.environ, **variables})
    return target


def build():
    manifest = ["--manifest-path", str(TRACERS / "Cargo.toml"), "--bin", "leaky"]
    host = re.search(r"host: (.*)", subprocess.run(["rustc", "-vV"], capture_output=True, text=True).stdout)[1]
    plain = cargo("plain", *manifest) / "release/leaky"
    dhat = cargo("dhat", *manifest, "--features", "dhat") / "release/leaky"
    # Unstable: opened to this compiler for this program only.
    flags = {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": "-Zsanitizer=leak"}
    lsan = cargo("lsan", *manifest, "--target", host, **flags) / host / "release/leaky"
    subprocess.run(
        ["cargo", "build", "--locked", "--release", "-p", "pymalloc-preload", "--features", "trace"],
        check=True, cwd=ROOT)
    return plain, dhat, lsan


def measure(command, folder):
    """Milliseconds of work, of the whole run, of processor time; MiB at most; and what was said."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        # Of the child and those that it waited for.
        _, _, usage = os.wait4(child.pid, 0)
        whole = (time.monotonic() - begun) * 1e3
        processor = (usage.ru_utime + usage.ru_stime) * 1e3
        out.seek(0)
        said = out.read()
    work = re.search(r"([\d.]+) ms of work", said)
    return (float(work[1]) if work else float("nan")), whole, processor, usage.ru_maxrss / 1024, said


def found(pattern):
    def look(said):
        return ", ".join(sorted({" ".join(match.groups()) for match in re.finditer(pattern, said)})) or "-"
    return look


def main():
    plain, dhat, lsan = build()
    run = str(ROOT / "target/release/pymalloc")
    lost = r"(definitely|indirectly) lost: ([\d,]+ bytes in [\d,]+) blocks"
    rows = [
        ("none", [plain], found("$^")),
        ("`pymalloc run`, nothing asked", [run, "run", "--", plain], found("$^")),
        ("`pymalloc run --leaks`", [run, "run", "--leaks", "--", plain], found(r"unreachable: (.*) blocks")),
        ("LeakSanitizer", [lsan], found(r"(\d+ byte\(s\) leaked in \d+)")),
        ("memcheck", ["valgrind", "--leak-check=full", plain], found(lost)),
        ("valgrind's dhat", ["valgrind", "--tool=dhat", plain], found(r"At t-end:\s+(.*)")),
        ("heaptrack", ["heaptrack", "-o", "leaky", plain], found(r"(?:leaked allocations|allocations leaked):\s+(\d+)")),
        ("dhat, the crate", [dhat], found(r"At t-end:\s+(.*)")),
    ]
    load = os.getloadavg()[0]
    print(f"{ENTRIES} entries, median of {RUNS} runs, load {load:.1f} at the start\n")
    print("| tool | work, ms | whole, ms | processor, ms | most memory, MiB | says of leaks |")
    print("|---|---|---|---|---|---|")
    for name, command, look in rows:
        if subprocess.run(["which", str(command[0])], capture_output=True).returncode != 0:
            print(f"(without {name}: it is not there)")
            continue
        with tempfile.TemporaryDirectory() as folder:
            runs = [measure([*map(str, command), ENTRIES], folder) for _ in range(RUNS)]
        numbers = [statistics.median(run[part] for run in runs) for part in range(4)]
        print("|", name, "|", " | ".join(f"{number:.0f}" for number in numbers), "|", look(runs[0][4]), "|", flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
