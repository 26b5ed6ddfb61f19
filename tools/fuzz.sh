#!/bin/sh
# Feeds the parsers of hostile bytes with what cargo-fuzz makes up, so many seconds each.
#
#     sh tools/fuzz.sh [SECONDS [TARGET...]]
#
# Works with the stable compiler: only its unstable flags have to be let through. What is found
# lies in fuzz/artifacts, what was learned in fuzz/corpus.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

seconds=${1:-60}
[ $# = 0 ] || shift
[ $# -gt 0 ] || set -- address create envelope form path report signature

need_rust
need g++ g++
if ! has cargo-fuzz; then
    tools=${CARGO_TARGET_DIR:-target}/tools
    [ -x "$tools/bin/cargo-fuzz" ] ||
        cargo install --locked --version 0.13.2 --root "$tools" cargo-fuzz
    PATH=$PATH:$(cd "$tools" && pwd)/bin
fi
export RUSTC_BOOTSTRAP=1

for target; do
    say "fuzz $target"
    # Where the compiler comes without the sanitizer, as Debian's does, do without.
    sanitizer=address
    ls "$(rustc --print target-libdir)"/librustc-*asan.a >/dev/null 2>&1 || sanitizer=none
    cargo fuzz run --sanitizer "$sanitizer" "$target" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=16384
done
