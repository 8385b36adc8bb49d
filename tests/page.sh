#!/usr/bin/env bash
# The page of a timeline in a headless Chromium: `tests/trace_page.rs`, with its pictures kept to be looked at. Installs Chromium
# and node where apt can and they are missing.
#   tests/page.sh FOLDER      (leaves light.png, dark.png, click.png, range.png and narrow.png there)
set -euo pipefail
folder=$(realpath -m "${1:?a folder for the pictures}")
cd "$(dirname "$0")/.."

has() { command -v "$1" >/dev/null; }
if ! has node || ! { has chromium || has chromium-browser || has google-chrome; }; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq
    $as_root apt-get install -qq -y --no-install-recommends nodejs chromium
fi
mkdir -p "$folder"
PYMALLOC_PAGE_PICTURES=$folder cargo test --locked -p pymalloc --features flamegraph --test trace_page -- --nocapture
