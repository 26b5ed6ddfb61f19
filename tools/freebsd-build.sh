#!/bin/sh
# Builds and links the real binaries for FreeBSD, on Linux: the gateway, and the tests of its
# backend, which need nothing beside them. Checks that they ask for nothing that FreeBSD 13.2 has
# not, and puts them into target/freebsd/dist.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

target=x86_64-unknown-freebsd
out=${CARGO_TARGET_DIR:-target}/freebsd
binaries="coppice coppice-backend-tests"

# What is in every FreeBSD's base system.
base='libc\.so\.7|libm\.so\.5|libthr\.so\.3|libgcc_s\.so\.1|libutil\.so\.9|librt\.so\.1|libexecinfo\.so\.1'

# Bytes of either, unoptimised; a dependency that nobody meant to have would show.
most=$((56 << 20))

debian rustc-web cargo-web rust-web-src
need readelf binutils
zig_for_freebsd "$out/zig"

# Source and compiler have to match, so no other toolchain may win. That it links is what is asked
# here: a binary to run can have `CARGO_PROFILE_RELEASE_LTO=thin` in front, for twice the time.
PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 \
    CARGO_PROFILE_RELEASE_LTO="${CARGO_PROFILE_RELEASE_LTO:-off}" \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS="${CARGO_PROFILE_RELEASE_CODEGEN_UNITS:-16}" \
    cargo build --locked --release --package coppice --features backend-tests --bins \
    -Zbuild-std=std,panic_abort --target "$target" --target-dir "$out"

# check FILE: whether FreeBSD 13.2 and later, as installed, can run it.
check() {
    # The ABI tag, by which the kernel knows it.
    readelf --notes --wide "$1" | grep -q 'FreeBSD .*NT_VERSION' || fail "$1 is not for FreeBSD"
    readelf --program-headers --wide "$1" | grep -q 'interpreter: /libexec/ld-elf.so.1]' ||
        fail "$1 is not linked to be run by FreeBSD's ld-elf.so.1"
    others=$(readelf --dynamic --wide "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
        grep -vxE "$base" || true)
    [ -z "$others" ] || fail "$1 needs what the base system has not: $others"
    symbols=$(readelf --dyn-syms --wide "$1")
    case $symbols in
        *@FBSD_1.*) ;;
        *) fail "$1 has no symbols of FreeBSD's libc" ;;
    esac
    # __libc_start1 belongs to the start files of the release that is linked against.
    newer=$(printf '%s\n' "$symbols" | grep -E '@FBSD_1\.([7-9]|[1-9][0-9])' |
        grep -v __libc_start1 || true)
    [ -z "$newer" ] || fail "$1 asks for what is newer than FreeBSD 13.2:
$newer"
    ! readelf --section-headers --wide "$1" | grep -qE ' \.(symtab|debug_info) ' ||
        fail "$1 is not stripped"
}

rm -rf "$out/dist"
mkdir -p "$out/dist"
for name in $binaries; do
    file=$out/dist/$name
    cp "$out/$target/release/$name" "$file"
    check "$file"
    size=$(wc -c <"$file")
    [ "$size" -le "$most" ] || fail "$file has $size bytes, more than $most"
    say "$file ($size bytes)"
done
