#!/bin/sh
# What can be said about the code without running it: formatting, lints, shell scripts.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

need_rust
need rustfmt rustfmt-web
need cargo-clippy rust-web-clippy
need shellcheck shellcheck

cargo fmt --all --check
cargo fmt --all --check --manifest-path fuzz/Cargo.toml
cargo clippy --locked --workspace --all-targets -- -D warnings
# Of its own, so with the dependencies that were checked just now, and without libFuzzer's C++.
cargo clippy --locked --manifest-path fuzz/Cargo.toml --no-default-features \
    --target-dir "${CARGO_TARGET_DIR:-target}" -- -D warnings
shellcheck tools/*.sh fuzz/*.sh example/*.sh gateway/src/template/interpreter/*.sh \
    gateway/src/template/freebsd/*.sh deploy/rc.d/coppice .ci/run
