#!/bin/sh
# Type-checks and lints the whole workspace, tests included, for FreeBSD. Needs no FreeBSD system:
# Debian packages a compiler together with the matching source of the standard library, and zig
# compiles the C parts of dependencies.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

debian rustc-web cargo-web rust-web-src rust-web-clippy
out=${CARGO_TARGET_DIR:-target}/freebsd
zig_for_freebsd "$out/zig"

# Source and compiler have to match, so no other toolchain may win: by its full name, since `cargo
# clippy` would look into ~/.cargo/bin first.
PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 /usr/bin/cargo-clippy clippy --locked --workspace --all-targets \
    -Zbuild-std --target x86_64-unknown-freebsd --target-dir "$out" \
    -- -D warnings
