#!/bin/sh
# Everything CI runs, from formatting to the official SDK against the release binary.
#
# Installs what is missing (Debian) and stops at the first step that fails. Takes root, as
# sandboxes do, and more than 4 GiB of free disk. From nothing this is a matter of some forty
# minutes on two cores, later of half as many.
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
    need chromium chromium
    need dnsmasq dnsmasq-base
    need jq jq
    need shellcheck shellcheck
    need ip iproute2
    need xz xz-utils
    debian rustc-web cargo-web rust-web-src rust-web-clippy
    need readelf binutils
    if ! has cargo-deny && [ ! -x "$target/tools/bin/cargo-deny" ]; then
        # Unoptimised: it runs for seconds, and takes minutes to build.
        cargo install --debug --locked --version 0.20.2 --root "$target/tools" \
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

# have_node: the SDK and the CLI want a newer node than Debian's; npm has one.
have_node() {
    case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
    node=$target/tools/node/node_modules/node-linux-$arch/bin
    [ -x "$node/node" ] || npm install --silent --no-audit --no-fund \
        --prefix "$target/tools/node" "node-linux-$arch@24.21.0"
    PATH=$(cd "$node" && pwd):$PATH
}

# packages DIRECTORY: what its package-lock.json says, once.
packages() {
    wanted=$(cksum <"$1/package-lock.json")
    if [ "$(cat "$1/node_modules/made-from" 2>/dev/null)" != "$wanted" ]; then
        (cd "$1" && npm ci --silent --no-audit --no-fund --ignore-scripts)
        printf '%s\n' "$wanted" >"$1/node_modules/made-from"
    fi
}

# tests VENV REQUIREMENTS DIRECTORY PYTEST-ARG...
tests() {
    python=$1
    venv "$python" "$2"
    shift 2
    COPPICE_BIN=$binary "$python/bin/python" -m pytest "$@"
}

newest() { tests tests/.venv tests/python/requirements.txt "$@"; }

js() {
    packages tests/js
    COPPICE_BIN=$binary node tests/js/run.js
}

cli() {
    packages tests/cli
    newest tests/cli --compat cli
}

[ "$(id -u)" = 0 ] || fail "sandboxes take root: run this as root, e.g. with sudo -E"
mkdir -p "$target"

step "what is needed" have_tools
step "lint, by mise" with_mise run lint
step "unit tests" cargo test --locked --workspace
step "dependencies" cargo deny --locked check bans licenses sources
step "FreeBSD: the headers" sh tools/freebsd-abi.sh
step "FreeBSD: types and lints" sh tools/freebsd-check.sh
# That they link is asked here, not how fast they are.
step "FreeBSD: the binaries" env CARGO_PROFILE_RELEASE_OPT_LEVEL=0 sh tools/freebsd-build.sh
step "release build" cargo build --locked --release --package coppice --package bench
binary=$(cd "$target/release" && pwd)/coppice
# What the suites below found to work, for the last step.
rm -rf target/e2e/compat
step "the newest E2B SDK" newest tests/python --compat python
step "an older E2B SDK" tests tests/.venv-old tests/python/requirements-old.txt \
    tests/python -m sdk --compat python-old
step "the newest E2B SDK by E2B_DOMAIN over TLS" newest tests/python --tls
step "a newer node" have_node
step "the JavaScript SDK, in node, in Chromium and over TLS" js
step "the E2B CLI" cli
step "docs/e2b.md" tests/.venv/bin/python tests/compat/table.py --check
step "the gateway against its own document" tests tests/.venv-openapi \
    tests/openapi/requirements.txt tests/openapi
step "load" newest tests/load
step "the benchmark, in small" sh tools/bench.sh all --quick --out "$target/bench"

printf '\n'
say "all of it: ok, $(($(date +%s) - began)) s"
