#!/usr/bin/env python3
"""Runs other crates' own test suites with Pymalloc as their global allocator, and without.

    tests/suites/run.py FOLDER [NAME...]

FOLDER holds the sources of crates, each in NAME-VERSION, as `cargo fetch` or `cargo vendor --versioned-dirs` leave
them. Which crates, with which features, and what is left out and why: crates.toml. Each is copied to target/suites,
where one line is added to the root of each test binary (`extern crate served as _;`) and one dependency to its
manifest. The crate `served` sets the allocator, and says at exit how many requests it served and whether the heap is
sound; in the run without, the same line links nothing.

One row a crate: tests passed with and without, tests whose outcome differs, and what Pymalloc served. Exit code 1 if
an outcome differs, a heap is not sound, or a binary was not served. Logs are in target/suites/logs.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE.parent.parent / "target" / "suites"
LIMIT_SECONDS = 1800


def fail(message):
    print(f"run.py: {message}", file=sys.stderr)
    sys.exit(2)


def newest(folder, name):
    """The newest version of a crate in the folder."""
    found = [path for path in folder.iterdir() if re.fullmatch(re.escape(name) + r"-\d+\.\d+\.\d+[^/]*", path.name)]
    if not found:
        return None
    return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name.removeprefix(name + "-"))[:3]])


def prepare(source):
    """A copy of the crate that links `served` into its tests; returns the test targets of cargo's."""
    copy = WORK / "src" / source.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    (copy / "Cargo.lock").unlink(missing_ok=True)
    manifest = copy / "Cargo.toml"
    text = manifest.read_text()
    if not re.search(r"^\[workspace\]", text, re.M):
        text += "\n[workspace]\n"
    text += f'\n[dev-dependencies.served]\npath = "{HERE / "served"}"\n'
    manifest.write_text(text)
    metadata = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version=1"], cwd=copy, check=True, capture_output=True, text=True
    )
    package = json.loads(metadata.stdout)["packages"][0]
    targets, own_allocator = [], []
    for target in package["targets"]:
        kinds = target["kind"]
        if not target["test"] or not {"lib", "rlib", "test", "proc-macro"} & set(kinds):
            continue
        root = Path(target["src_path"])
        lines = root.read_text()
        if "#[global_allocator]" in lines:
            own_allocator.append(target["name"])
            continue
        root.write_text(lines + "\n#[cfg(test)]\nextern crate served as _;\n")
        targets.append(["--test", target["name"]] if "test" in kinds else ["--lib"])
    return copy, package["version"], targets, own_allocator


def run(copy, arguments, served, log):
    """The outcome of each test, by binary and name; and what `served` told."""
    told = WORK / "served.log"
    told.unlink(missing_ok=True)
    environment = {**os.environ, "SERVED_LOG": str(told), "CARGO_TARGET_DIR": str(WORK / "target"), "CARGO_PROFILE_DEV_DEBUG": "0"}
    features = ["--features", "served/pymalloc"] if served else []
    command = ["cargo", "test", "--no-fail-fast", *features, *arguments]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_SECONDS
        )
        output = done.stdout
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode(errors="replace") + "\nrun.py: out of time\n"
    log.write_text(output)
    outcomes, binary = {}, "?"
    for line in output.splitlines():
        if found := re.match(r"\s+Running .*\((.*)\)", line):
            binary = re.sub(r"-[0-9a-f]{16}$", "", Path(found[1]).name)
            outcomes.setdefault((binary, "(ran)"), "ok")
        elif found := re.match(r"test (.+?)(?: - should panic)? \.\.\. .*?(ok|FAILED|ignored)\b", line):
            outcomes[binary, found[1]] = found[2]
        elif found := re.match(r"test result: .* (\d+) passed; (\d+) failed; (\d+) ignored", line):
            outcomes[binary, "(counts)"] = ",".join(found.groups())
    lines = [line.split("\t") for line in told.read_text().splitlines()] if told.exists() else []
    return outcomes, lines


def passed(outcomes):
    return sum(int(counts.split(",")[0]) for (_, name), counts in outcomes.items() if name == "(counts)")


def row(folder, name, how):
    source = newest(folder, name)
    if source is None:
        return [name, "–", "not in the folder", "", "", "", ""], False
    copy, version, targets, own = prepare(source)
    left_out = how.get("left_out", {})
    targets = [target for target in targets if target[-1] not in left_out]
    arguments = [*how.get("arguments", []), *(word for target in targets for word in target)]
    rest = [word for test in how.get("skip", {}) for word in ("--skip", test)]
    if rest:
        arguments += ["--", *rest]
    logs = WORK / "logs"
    logs.mkdir(exist_ok=True)
    without, _ = run(copy, arguments, False, logs / f"{name}.without.log")
    with_it, told = run(copy, arguments, True, logs / f"{name}.with.log")
    differ = sorted(" ".join(key) for key in without.keys() | with_it.keys() if without.get(key) != with_it.get(key))
    # Without those whose whole source is switched off.
    ran = {binary for (binary, test), outcome in with_it.items() if outcome in ("ok", "FAILED") and test != "(ran)"}
    served = {re.sub(r"-[0-9a-f]{16}$", "", Path(line[0]).name) for line in told}
    unsound = sum(line[6] != "sound" for line in told)
    small, large = sum(int(line[1]) for line in told), sum(int(line[2]) for line in told)
    exact = sum(line[3] == line[4] for line in told)
    good = bool(ran) and not differ and not (ran - served) and not unsound and passed(with_it) > 0
    for key in differ:
        print(f"    {name}: differs: {key}", file=sys.stderr)
    for binary in sorted(ran - served):
        print(f"    {name}: not served: {binary}", file=sys.stderr)
    if own:
        print(f"    {name}: has an allocator of its own, left out: {', '.join(own)}", file=sys.stderr)
    failed = sum(outcome == "FAILED" for outcome in with_it.values())
    if failed:
        print(f"    {name}: fail with and without: {[test for (_, test), o in with_it.items() if o == 'FAILED']}", file=sys.stderr)
    return [
        name, version, f"{len(ran)}", f"{passed(without)}", f"{passed(with_it)}", f"{len(differ)}",
        f"{small:,} / {large:,}", f"{len(told) - unsound} of {len(told)}", f"{exact} of {len(told)}",
    ], good


def main():
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        fail("usage: tests/suites/run.py FOLDER [NAME...]")
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    crates = tomllib.loads((HERE / "crates.toml").read_text())
    if unknown := [name for name in names if name not in crates]:
        fail(f"not in crates.toml: {' '.join(unknown)}")
    (WORK / "src").mkdir(parents=True, exist_ok=True)
    print("| crate | version | binaries | passed without | passed with | outcomes that differ "
          "| small / large requests | heaps sound at exit | counts equal |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    all_good = True
    for name in names or crates:
        started = time.monotonic()
        cells, good = row(folder, name, crates[name])
        all_good &= good
        print("| " + " | ".join(cells) + " |", flush=True)
        print(f"    {name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    sys.exit(0 if all_good else 1)


if __name__ == "__main__":
    main()
