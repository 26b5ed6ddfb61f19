#!/bin/sh
# Builds the gateway of the commit before this one (or of this one, when there are changes that are
# not committed) and prints where it is, for tests/python/test_previous.py.
#
# Unoptimised, with the dependencies of `cargo test` where they are the same, and only when there is
# none of these sources yet. Prints nothing where the repository has no commit before.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/previous"
target=$(cd "$target" && pwd)
sources='Cargo.toml Cargo.lock envd gateway rctl-sys'

# One word per path is meant.
# shellcheck disable=SC2086
if git diff --quiet HEAD -- $sources; then commit=HEAD~1; else commit=HEAD; fi
if ! git rev-parse --quiet --verify "$commit^{commit}" >/dev/null; then
    say "no commit before this one is here: nothing to take over from" >&2
    exit 0
fi
key=$(for path in $sources; do git rev-parse "$commit:$path"; done | git hash-object --stdin)
binary=$target/previous/$key/coppice
if [ ! -x "$binary" ]; then
    need_rust
    say "building the gateway of $(git log -1 --format='%h %s' "$commit")" >&2
    tree=$target/previous/tree
    rm -rf "$tree"
    mkdir -p "$tree" "$(dirname "$binary")"
    git archive "$commit" | tar -x -C "$tree"
    # In our own target directory, for the sake of the dependencies in it.
    (cd "$tree" && CARGO_TARGET_DIR=$target cargo build --locked --package coppice) >&2
    strip -o "$binary" "$target/debug/coppice"
    rm -rf "$tree"
fi
printf '%s\n' "$binary"
