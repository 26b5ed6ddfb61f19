#!/bin/sh
# Feeds the parsers of hostile bytes with what cargo-fuzz makes up, so many seconds each.
#
#     sh tools/fuzz.sh [SECONDS [TARGET...]]
#
# Starts from fuzz/seeds. What is found lies in fuzz/artifacts, what was learned in fuzz/corpus.
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

# The stable compiler does as well: only its unstable flags have to be let through.
export RUSTC_BOOTSTRAP=1
if nightly=$(rustup which --toolchain nightly cargo 2>/dev/null) && new_enough "$nightly"; then
    export RUSTUP_TOOLCHAIN=nightly
fi
# Where the compiler comes without the sanitizer, as Debian's does, do without.
sanitizer=address
ls "$(rustc --print target-libdir)"/librustc-*asan.a >/dev/null 2>&1 || sanitizer=none

say "building with $(rustc --version), sanitizer $sanitizer"
for target; do
    cargo fuzz build --sanitizer "$sanitizer" "$target"
done

found=
for target; do
    say "fuzz $target, $seconds s"
    corpus=fuzz/corpus/$target
    mkdir -p "$corpus"
    # Only read. Not all have any: some formats are soon met by chance.
    seeds=
    [ ! -d "fuzz/seeds/$target" ] || seeds=fuzz/seeds/$target
    # shellcheck disable=SC2086
    cargo fuzz run --sanitizer "$sanitizer" "$target" "$corpus" $seeds -- \
        -max_total_time="$seconds" -timeout=10 -max_len=16384 -print_funcs=0 \
        -print_final_stats=1 || found="$found $target"
done
[ -z "$found" ] || fail "found something in:$found (see above, and fuzz/artifacts)"
say "fuzz: nothing found in $*"
