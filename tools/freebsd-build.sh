#!/bin/sh
# Builds and links the real binary for FreeBSD, on Linux, and checks that it asks for nothing that
# FreeBSD 13.2 has not.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

target=x86_64-unknown-freebsd
out=${CARGO_TARGET_DIR:-target}/freebsd

debian rustc-web cargo-web rust-web-src
need readelf binutils
venv "$out/zig" tools/requirements.txt

# Source and compiler have to match, so no other toolchain may win.
PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 \
    ZIG_PYTHON="$(cd "$out/zig/bin" && pwd)/python" \
    CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER="$PWD/tools/freebsd-cc.sh" \
    cargo build --locked --release --package coppice -Zbuild-std=std,panic_abort \
    --target "$target" --target-dir "$out"

binary=$out/$target/release/coppice
symbols=$(readelf --dyn-syms --wide "$binary")
case $symbols in
    *@FBSD_1.*) ;;
    *) fail "$binary has no symbols of FreeBSD's libc" ;;
esac
# __libc_start1 belongs to the start files of the release that is linked against.
newer=$(printf '%s\n' "$symbols" | grep -E '@FBSD_1\.([7-9]|[1-9][0-9])' | grep -v __libc_start1 || true)
[ -z "$newer" ] || fail "newer than FreeBSD 13.2:
$newer"
say "$binary ($(wc -c <"$binary") bytes)"
