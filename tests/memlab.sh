#!/usr/bin/env bash
# Compares what each block retains: as this crate says, as memlab works it out of the .heapsnapshot file, and as Chrome's
# DevTools does, if there is a Chromium. Needs cargo, node and npm; installs memlab below target/, and leaves the file and
# DevTools' pictures in target/memlab.
#   tests/memlab.sh [BLOCKS]      (a million, if none is named)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=$root/target/memlab
mkdir -p "$folder"
PYMALLOC_GRAPH_FOLDER=$folder PYMALLOC_GRAPH_BLOCKS=${1:-1000000} cargo test --locked --release -p pymalloc-tests \
    --features graph --test graph_files each_block
cd "$folder"
[ -e node_modules/@memlab/heap-analysis ] || PUPPETEER_SKIP_DOWNLOAD=1 npm install --no-audit --no-fund \
    @memlab/core@2 @memlab/heap-analysis@2
cat >compare.js <<'END'
const { getFullHeapFromFile } = require('@memlab/heap-analysis');
const wanted = new Map(require('fs').readFileSync('retained.txt', 'utf8').trim().split('\n')
    .map(line => line.split(' ').map(Number)));
getFullHeapFromFile('test.heapsnapshot').then(heap => {
    let equal = 0, different = 0;
    heap.nodes.forEach(node => {
        if (wanted.has(node.id)) node.retainedSize === wanted.get(node.id) ? equal++ : different++;
    });
    console.log(`\n${equal} blocks retain the same, ${different} do not, of ${wanted.size}`);
    process.exit(different === 0 && equal === wanted.size ? 0 : 1);
});
END
node --max-old-space-size=8192 compare.js
for browser in chromium chromium-browser google-chrome; do
    if command -v "$browser" >/dev/null; then
        exec node "$root/tests/oracles/devtools.mjs" "$browser" test.heapsnapshot . retained.txt
    fi
done
echo 'SKIPPED: DevTools were not asked, because there is no Chromium on this machine'
