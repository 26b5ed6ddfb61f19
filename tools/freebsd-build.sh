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
zig_for_freebsd "$out/zig"

# Source and compiler have to match, so no other toolchain may win. That it links is what is asked
# here: a binary to run can have `CARGO_PROFILE_RELEASE_LTO=thin` in front, for twice the time.
PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 \
    CARGO_PROFILE_RELEASE_LTO="${CARGO_PROFILE_RELEASE_LTO:-off}" \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS="${CARGO_PROFILE_RELEASE_CODEGEN_UNITS:-16}" \
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
