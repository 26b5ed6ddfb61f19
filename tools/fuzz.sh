#!/bin/sh
# Feeds the parsers of hostile bytes with what libFuzzer makes up, so many seconds each.
#
#     sh tools/fuzz.sh [SECONDS [TARGET...]]
#
# Starts from fuzz/seeds. What is found lies in fuzz/artifacts, what was learned in fuzz/corpus.
# Takes any compiler, and what the tests are built on is not built again for it.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

seconds=${1:-60}
[ $# = 0 ] || shift
# One word per target is meant.
# shellcheck disable=SC2046
[ $# -gt 0 ] || set -- $(sed -n 's/^targets! { \(.*\) }$/\1/p' fuzz/src/main.rs)

need_rust
need g++ g++
target=${CARGO_TARGET_DIR:-target}
RUSTC_WRAPPER=$PWD/fuzz/rustc.sh CARGO_INCREMENTAL=0 \
    cargo build --locked --manifest-path fuzz/Cargo.toml --target-dir "$target"

found=
for name; do
    corpus=fuzz/corpus/$name
    log=fuzz/artifacts/$name.log
    mkdir -p "$corpus" fuzz/artifacts
    # Only read. Not all have any: some formats are soon met by chance.
    seeds=
    [ ! -d "fuzz/seeds/$name" ] || seeds=fuzz/seeds/$name
    # shellcheck disable=SC2086
    if COPPICE_FUZZ=$name "$target/debug/coppice-fuzz" "$corpus" $seeds \
        -artifact_prefix="fuzz/artifacts/$name-" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=1024 -max_len=16384 -print_funcs=0 -print_final_stats=1 >"$log" 2>&1 &&
        # That anything was tried, and that it was seen what came of it.
        grep -q 'INFO: Loaded .* inline 8-bit counters' "$log" &&
        runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$log") && [ "${runs:-0}" -ge 100 ]; then
        say "fuzz $name, $seconds s: $runs runs"
    else
        tail -n 60 "$log"
        found="$found $name"
    fi
done
[ -z "$found" ] || fail "found something, or tried nothing, in:$found (see above, and fuzz/artifacts)"
say "fuzz: nothing found in $*"
