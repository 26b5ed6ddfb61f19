#!/bin/sh
# Everything CI runs, from formatting to the official SDK against the release binary.
#
# Installs what is missing (Debian) and stops at the first step that fails. Takes root, as
# sandboxes do. From nothing this is a matter of some twenty minutes on two cores, later of a few.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

target=${CARGO_TARGET_DIR:-target}
began=$(date +%s)

# step NAME COMMAND...: `set -e` stays in force inside the command, so its end is told by a trap.
step=
trap '[ $? = 0 ] || [ -z "$step" ] || printf "error: failed: %s\n" "$step" >&2' EXIT
step() {
    step=$1
    shift
    step_began=$(date +%s)
    printf '\n'
    say "$step"
    "$@" </dev/null
    say "$step: ok, $(($(date +%s) - step_began)) s"
}

have_tools() {
    need_rust
    need rustfmt rustfmt-web
    need cargo-clippy rust-web-clippy
    need curl curl
    need git git
    need mmdebstrap mmdebstrap
    need nft nftables
    need npm npm
    need shellcheck shellcheck
    need ip iproute2
    debian rustc-web cargo-web rust-web-src rust-web-clippy
    need readelf binutils
    if ! has cargo-deny && [ ! -x "$target/tools/bin/cargo-deny" ]; then
        cargo install --locked --version 0.20.2 --root "$target/tools" \
            --target-dir "$target/tools/build" cargo-deny
        rm -rf "$target/tools/build"
    fi
    PATH=$PATH:$(cd "$target" && pwd)/tools/bin
}

# with_mise ARG...: mise, as its users have it, in a place of our own.
with_mise() {
    case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
    mise=$target/tools/mise/node_modules/.bin/mise
    [ -x "$mise" ] || npm install --silent --no-audit --no-fund --prefix "$target/tools/mise" \
        "@jdxcode/mise-linux-$arch@2026.9.15"
    MISE_TRUSTED_CONFIG_PATHS=$PWD "$mise" "$@"
}

# sdk VENV REQUIREMENTS PYTEST-ARG...
sdk() {
    python=$1
    venv "$python" "tests/python/$2"
    shift 2
    COPPICE_BIN=$(cd "$target/release" && pwd)/coppice \
        "$python/bin/python" -m pytest tests/python "$@"
}

[ "$(id -u)" = 0 ] || fail "sandboxes take root: run this as root, e.g. with sudo -E"
mkdir -p "$target"

step "what is needed" have_tools
step "lint, by mise" with_mise run lint
step "unit tests" cargo test --locked --workspace
step "dependencies" cargo deny --locked check bans licenses sources
step "FreeBSD: types and lints" sh tools/freebsd-check.sh
step "FreeBSD: a binary" sh tools/freebsd-build.sh
step "release build" cargo build --locked --release --package coppice
step "the newest E2B SDK" sdk tests/.venv requirements.txt
step "an older E2B SDK" sdk tests/.venv-old requirements-old.txt -m sdk

printf '\n'
say "all of it: ok, $(($(date +%s) - began)) s"
