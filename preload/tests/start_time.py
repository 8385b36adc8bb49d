#!/usr/bin/env python3
"""Measures what the library adds to a program's start and end: runs /bin/true with and without it, in turns.

    preload/tests/start_time.py [--runs N]      some seconds

Build first: cargo build --release -p pymalloc-preload.
"""

import argparse
import os
import pathlib
import statistics
import time

LIBRARY = pathlib.Path(__file__).resolve().parents[2] / "target/release/libpymalloc.so"


def run(environment):
    """Milliseconds from the start of /bin/true to its end."""
    start = time.perf_counter()
    child = os.posix_spawn("/bin/true", ["true"], environment)
    _, status = os.waitpid(child, 0)
    assert status == 0
    return (time.perf_counter() - start) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000)
    runs = parser.parse_args().runs
    if not LIBRARY.exists():
        parser.error(f"{LIBRARY} does not exist")
    without = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with_library = without | {"LD_PRELOAD": str(LIBRARY)}
    pairs = [(run(without), run(with_library)) for _ in range(runs)]
    medians = [statistics.median(column) for column in zip(*pairs)]
    print(f"true: {medians[0]:.3f} ms without, {medians[1]:.3f} ms with the library:"
          f" {medians[1] - medians[0]:+.3f} ms (medians of {runs} runs each)")


if __name__ == "__main__":
    main()
