#!/bin/sh
# Compares every number and prototype of rctl-sys/src/abi.rs with the headers of FreeBSD 14 and 15,
# and links every function: a wrong layout fails here, without a FreeBSD machine.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

need readelf binutils
out=${CARGO_TARGET_DIR:-target}/freebsd
zig_for_freebsd "$out/zig"
abi=$out/abi
mkdir -p "$abi"

cargo run --locked --quiet --package rctl-sys --example abi >"$abi/abi.c"
count=$(grep -c '^_Static_assert' "$abi/abi.c")

# compile TARGET ARG...: for FreeBSD, without what zig adds where nothing is optimised.
compile() {
    target=$1
    shift
    "$ZIG_PYTHON" -m ziglang cc -target "$target" -std=gnu17 -Wall -Werror \
        -fno-sanitize=undefined "$@"
}

# newer_headers DIRECTORY: out of a wheel of a newer zig.
newer_headers() {
    wanted=$(cat rctl-sys/abi/requirements.txt)
    [ "$(cat "$1/made-from" 2>/dev/null)" != "$wanted" ] || return 0
    say "fetching the headers of FreeBSD 15"
    rm -rf "$1"
    mkdir -p "$1"
    "$ZIG_PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$1" --requirement rctl-sys/abi/requirements.txt
    "$ZIG_PYTHON" - "$1" <<'PYTHON'
import glob, sys, zipfile

(wheel,) = glob.glob(sys.argv[1] + "/*.whl")
inside = "ziglang/lib/libc/include/"
wanted = (inside + "generic-freebsd/", inside + "x86_64-freebsd-none/")
with zipfile.ZipFile(wheel) as files:
    files.extractall(sys.argv[1], [name for name in files.namelist() if name.startswith(wanted)])
PYTHON
    rm "$1"/*.whl
    printf '%s\n' "$wanted" >"$1/made-from"
}

newer_headers "$abi/15"
include=$abi/15/ziglang/lib/libc/include
compile x86_64-freebsd.14.3 -c "$abi/abi.c" -o "$abi/abi.o"
compile x86_64-freebsd.15.0 -nostdlibinc -isystem "$include/x86_64-freebsd-none" \
    -isystem "$include/generic-freebsd" -c "$abi/abi.c" -o "$abi/abi.o"

# That a wrong number is found: with every one of them wrong, every one has to be.
sed -E '/^_Static_assert/s/\) == \((-?[0-9]+)\)/) == (\1 + 1)/' "$abi/abi.c" >"$abi/wrong.c"
compile x86_64-freebsd.14.3 -ferror-limit=0 -c "$abi/wrong.c" -o "$abi/wrong.o" 2>"$abi/wrong.txt" || :
found=$(grep -c 'error: static assertion failed' "$abi/wrong.txt" || :)
[ "$found" = "$count" ] || fail "of $count wrong numbers $found were found, see $abi/wrong.txt"

compile x86_64-freebsd.14.0 "$abi/abi.c" -o "$abi/abi"
symbols=$(readelf --dyn-syms --wide "$abi/abi")
# __libc_start1 belongs to the start files of the release that is linked against.
newer=$(printf '%s\n' "$symbols" | grep -E '@FBSD_1\.([7-9]|[1-9][0-9])' | grep -v __libc_start1 || :)
[ -z "$newer" ] || fail "newer than FreeBSD 13.2:
$newer"
functions=$(grep -c ' (\*use_' "$abi/abi.c")
say "$count numbers and $functions functions are as FreeBSD 14 and 15 have them"
