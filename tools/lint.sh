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
cargo clippy --locked --workspace --all-targets -- -D warnings
shellcheck tools/*.sh example/*.sh gateway/src/template/interpreter/*.sh .ci/run
