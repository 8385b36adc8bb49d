#!/usr/bin/env bash
# Runs programs from Debian's packages with and without the library: each must write the same bytes, and exit alike.
# A program that is not installed is skipped with a message; with fewer than ten left the script fails.
#
#   preload/tests/programs.sh [NAME…]      about 2 minutes
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release -p pymalloc-preload
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
library=$folder/libpymalloc.so
cp target/release/libpymalloc.so "$library"

# Something to read: this project's own text, many times.
export text=$folder/text project=$folder/project root
mkdir "$project"
cp -r src docs README.md "$project"
for _ in $(seq 20); do find "$project" -name '*.rs' -print0 | sort -z | xargs -0 cat; done >"$text"

# One function per program, named after it. Each runs in an empty folder; its output and the files it leaves are
# compared.
run_git() {
    export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z' GIT_CONFIG_GLOBAL=/dev/null
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    git init -q -b main . && cp -r "$project/." . && git add . && git commit -qm one
    for file in $(git ls-files | head -40); do sed -i 's/the/THE/g' "$file"; done
    git commit -qam two && git -c pack.threads=1 repack -qad && git fsck --full
    git log -p --stat && git blame README.md && git rev-parse HEAD && git grep -n allocator | sort
    rm -rf .git
}
run_sqlite3() {
    sqlite3 base.sqlite "create table t(a integer primary key, b text, c real);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000)
        insert into t select i, 'text ' || (i * 7919 % 10007), i / 7.0 from n;
        create index tb on t(b); select b, count(*), sum(c) from t group by b order by 3 desc limit 50;
        delete from t where a % 3 = 0; vacuum; select count(*), sum(length(b)) from t where b like '%99%';"
}
run_perl() {
    perl -e 'open F, $ENV{text}; while (<F>) { for (split /\W+/) { $n{$_}++; push @{$at{$_}}, $. } }
        for (sort keys %n) { print "$_ $n{$_} ", scalar(@{$at{$_}}), " ", join(",", @{$at{$_}}[0..2]), "\n" }'
}
run_lua5.4() {
    lua5.4 -e 'local n, list = {}, {} for line in io.lines(os.getenv("text")) do for word in line:gmatch("%w+") do
        n[word] = (n[word] or 0) + 1 end end for word, times in pairs(n) do list[#list + 1] = word .. " " .. times end
        table.sort(list) print(table.concat(list, "\n"))'
}
run_jq() {
    jq -n '[range(60000) | {id: ., name: "name \(. * 7 % 1000)", list: [range(. % 5)]}]' >all.json
    jq 'group_by(.name) | map({name: .[0].name, count: length, sum: (map(.list | add // 0) | add)})' all.json
}
run_xz() { xz -T2 -6 --block-size=500KiB -c "$text" >text.xz && xz -dc text.xz | cmp - "$text" && xz -lvv text.xz; }
run_zstd() { zstd -q -T2 -12 -c "$text" >text.zst && zstd -dqc text.zst | cmp - "$text"; }
run_bzip2() { bzip2 -c "$text" >text.bz2 && bunzip2 -c text.bz2 | cmp - "$text"; }
run_gawk() { gawk '{ for (i = 1; i <= NF; i++) n[$i]++ } END { for (w in n) print w, n[w] | "sort" }' "$text"; }
run_sort() { sort --parallel=2 -S 1M "$text" | uniq -c | sort -rn -k1,1 -k2; }
run_tar() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$project" -cf all.tar . && tar -tf all.tar; }
run_bc() { echo 'scale = 900; 4 * a(1); e(1); for (i = 1; i < 200; i++) 2 ^ i % 997' | bc -l; }
run_tclsh() {
    tclsh <<<'set f [open $env(text)]; foreach w [regexp -all -inline {\w+} [read $f]] { incr n($w) }
        foreach w [lsort [array names n]] { puts "$w $n($w)" }'
}
run_node() {
    node -e 'const n = new Map(); for (const w of require("fs").readFileSync(process.env.text, "utf8").split(/\W+/))
        n.set(w, (n.get(w) || 0) + 1); console.log([...n].sort().join("\n"));
        console.log(require("zlib").gzipSync(require("fs").readFileSync(process.env.text)).length)'
}
run_openssl() {
    openssl dgst -sha256 -r "$text" | cut -d' ' -f1
    openssl enc -aes-256-ctr -K "$(printf '%064d' 7)" -iv "$(printf '%032d' 9)" -in "$text" | openssl dgst -md5 -r
    openssl prime 1000003 && openssl ciphers -v
}
run_g++() {
    g++ -std=c++17 -O2 -S -o operators.s "$root/preload/tests/cxx/operators.cpp"
    g++ -std=c++17 -O2 -o operators "$root/preload/tests/cxx/operators.cpp" && ./operators
}
run_make() {
    { printf 'all:'; printf ' t%s' {1..300}; printf '\n'; for t in {1..300}; do printf 't%s:\n\t@echo %s\n' $t $t; done; } >Makefile
    make -n && make -s && make -j2 -s | sort
}
run_gdb() { gdb -nx -batch -ex 'info functions malloc' -ex 'disassemble main' "$(command -v perl)" 2>&1; }
run_rsvg-convert() { for picture in "$root"/docs/img/*.svg; do rsvg-convert "$picture" | sha256sum; done; }
run_convert() {
    convert -size 400x300 plasma:fractal -seed 1 /dev/null 2>&1
    convert -size 400x300 gradient:red-blue -swirl 90 -blur 0x3 -resize 50% ppm:- | sha256sum
}
run_redis-server() {
    redis-server --port 0 --unixsocket "$PWD/socket" --save '' --daemonize no >log 2>&1 &
    local server=$!
    for _ in $(seq 100); do [ -S socket ] && break; sleep 0.1; done
    { for i in $(seq 20000); do echo "set key:$i value:$((i * 7919 % 10007))"; done; echo 'dbsize'; echo 'get key:777'
      for i in $(seq 5000); do echo "zadd z $((i * 31 % 997)) m$i"; done; echo 'zrange z 0 50 withscores'; echo 'shutdown nosave'
    } | redis-cli -s socket 2>&1 | sort | uniq -c
    wait $server
    rm -f log socket
}
run_python3() {
    python3 -I -c 'import json, re, os; n = {}
for w in re.findall(r"\w+", open(os.environ["text"]).read()): n.setdefault(w, []).append(len(w))
print(json.dumps({w: len(l) for w, l in sorted(n.items())}, indent=1))'
}
run_bash() { for i in {1..3000}; do a[i]="$((i * 7))-${a[i - 1]:0:50}"; done; printf '%s\n' "${a[@]}" | (while read -r l; do echo "${l^^}"; done); }

# once NAME VARIANT VARIABLE=VALUE…: runs a program once. Its output goes to NAME.VARIANT, its files to
# NAME.VARIANT.files.
once() {
    local name=$1 output=$folder/$1.$2
    shift 2
    rm -rf "$folder/here"
    mkdir "$folder/here"
    # A program that a library breaks may hang.
    export -f "run_$name"
    (cd "$folder/here" && env "$@" timeout 300 bash -c "run_$name" >"$output" 2>&1; echo "status $?" >>"$output")
    mv "$folder/here" "$output.files"
}

names=("$@")
[ ${#names[@]} != 0 ] || names=($(declare -F | sed -n 's/^declare -f\(x\)\? run_//p'))
same=0 different=0
for name in "${names[@]}"; do
    if ! command -v "$name" >/dev/null; then
        echo "SKIPPED: $name is not installed"
        continue
    fi
    once "$name" without PLAIN=1
    once "$name" with "LD_PRELOAD=$library" "PYMALLOC_REPORT=$folder/$name.report"
    served=$(grep -vc ' 0 pools' "$folder/$name.report" || true)
    own=$(grep -v ' 0 pools' "$folder/$name.report" | grep -cF "(${name:0:15}" || true)
    if cmp -s "$folder/$name.without" "$folder/$name.with" &&
        diff -rq "$folder/$name.without.files" "$folder/$name.with.files" >/dev/null && [ "$served" != 0 ]; then
        same=$((same + 1))
        printf 'same: %-12s %9d bytes of output, %2d files; %4d processes served, %4d of them %s\n' "$name" \
            "$(stat -c %s "$folder/$name.with")" "$(find "$folder/$name.with.files" -type f | wc -l)" "$served" "$own" "$name"
        grep -q '^status 0$' "$folder/$name.with" || echo "  but it failed, with and without: $(tail -n 3 "$folder/$name.with")"
    else
        different=$((different + 1))
        printf 'DIFFERENT: %s (%d processes served)\n' "$name" "$served"
        diff "$folder/$name.without" "$folder/$name.with" | head -n 5 || true
        diff -rq "$folder/$name.without.files" "$folder/$name.with.files" || true
    fi
done
echo "$same programs the same, $different different"
[ "$different" = 0 ] && { [ $# != 0 ] || [ "$same" -ge 10 ]; }
