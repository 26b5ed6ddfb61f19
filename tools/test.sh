#!/bin/sh
# Everything CI runs, from formatting to the official SDK against the release binary.
#
# Installs what is missing (Debian) and stops at the first step that fails (twice, if it is a suite).
# Takes root, as sandboxes do, and more than 4 GiB of free disk. From nothing this is a matter of some
# thirty minutes on two cores, later of half as many. Most suites wait for most of their time, so two
# of them run at once, and what compiles runs beside what waits.
#
# `sh tools/test.sh FUNCTION ARG...` runs one of its parts as it is run here, e.g. `js`.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

target=${CARGO_TARGET_DIR:-target}
began=$(date +%s)
# What runs beside the rest says here how it went.
logs=$target/test
asides=

# step NAME COMMAND...: `set -e` stays in force inside the command, so its end is told by a trap.
step=
ended() {
    code=$?
    [ "$code" = 0 ] || [ -z "$step" ] || printf 'error: failed: %s\n' "$step" >&2
    for pid in $asides; do
        # Of one that has ended by itself there is no such group. (No `--`, which dash takes for one.)
        kill -INT "-$pid" 2>/dev/null || continue
        { sleep 60 && kill -KILL "-$pid"; } >/dev/null 2>&1 &
        wait "$pid" || :
        kill "$!" 2>/dev/null || :
    done
}
trap ended EXIT
trap 'exit 130' INT TERM
step() {
    step=$1
    shift
    step_began=$(date +%s)
    printf '\n'
    say "$step"
    "$@" </dev/null
    say "$step: ok, $(($(date +%s) - step_began)) s"
}

# beside NAME COMMAND...: starts it in a process group of its own, to go on beside the steps that
# follow; `joined NAME` waits for it, shows what it said, and is as good as it was. A shell has what
# it starts so ignore Ctrl-C, by which we end it.
beside() {
    log=$logs/$1
    shift
    env --default-signal=INT setsid "$@" >"$log.log" 2>&1 </dev/null &
    asides="$asides $!"
    echo "$!" >"$log.pid"
}

# aside NAME FUNCTION ARG...: the same of a part of this script, in most of the time that the others
# leave over. Not of class idle: what holds a lock of the kernel then keeps tests waiting for seconds.
aside() {
    name=$1
    shift
    beside "$name" nice -n 19 sh tools/test.sh "$@"
}

joined() {
    pid=$(cat "$logs/$1.pid")
    code=0
    wait "$pid" || code=$?
    asides=$(printf '%s' "$asides" | sed "s/ $pid\\b//")
    cat "$logs/$1.log"
    return "$code"
}

# alone COMMAND...: where the network and the claims of gateways are its own, so that a suite sees
# nothing of what another, or any gateway of this machine, has under way. No way leads out of there.
alone() {
    # shellcheck disable=SC2016 # For that shell to expand.
    unshare --mount --net --propagation private sh -euc '
        ip link set lo up
        # Which may be a link to a place below /run.
        resolvers=$(readlink -m /etc/resolv.conf)
        told=$(cat "$resolvers" 2>/dev/null || :)
        mount -t tmpfs tmpfs /run
        # As ip makes it at the first namespace, which would count as left over.
        mkdir /run/netns
        mount --bind /run/netns /run/netns
        mount --make-shared /run/netns
        if [ ! -e "$resolvers" ]; then
            mkdir -p "${resolvers%/*}"
            printf "%s\n" "$told" >"$resolvers"
        fi
        exec "$@"' sh "$@"
}

# twice COMMAND...: where the first time fails a second one, with AGAIN=1. What passes only then is
# named at the end: it is a defect, of the code or of the test, but no reason to call all else one.
# `set -e` does not reach into the command.
twice() {
    AGAIN=
    "$@" && return
    printf 'error: failed: %s; once more\n' "$step" >&2
    AGAIN=1
    "$@" || return
    printf ', %s' "$step" >>"$logs/flaky"
}

# At once, as most of the time that apt takes for one package is not for that package.
have_tools() {
    need_rust
    wanted="rustc-web cargo-web rust-web-src rust-web-clippy"
    for both in rustfmt:rustfmt-web cargo-clippy:rust-web-clippy curl:curl git:git \
        mmdebstrap:mmdebstrap nft:nftables npm:npm chromium:chromium dnsmasq:dnsmasq-base jq:jq \
        mkfs.btrfs:btrfs-progs mkfs.ext4:e2fsprogs shellcheck:shellcheck ip:iproute2 xz:xz-utils \
        readelf:binutils runc:runc bwrap:bubblewrap g++:g++ pebble:pebble openssl:openssl haproxy:haproxy; do
        has "${both%%:*}" || wanted="$wanted ${both#*:}"
    done
    # One word per package is meant.
    # shellcheck disable=SC2086
    debian $wanted
    have_prometheus
    have_postgres
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

# packages DIRECTORY: what its package-lock.json says, once.
packages() {
    wanted=$(cksum <"$1/package-lock.json")
    if [ "$(cat "$1/node_modules/made-from" 2>/dev/null)" != "$wanted" ]; then
        (cd "$1" && npm ci --silent --no-audit --no-fund --ignore-scripts) || return
        printf '%s\n' "$wanted" >"$1/node_modules/made-from"
    fi
}

# tests NAME VENV REQUIREMENTS PYTEST-ARG...: a second time only what has failed the first, which is
# remembered by that name.
tests() {
    cache=$PWD/target/e2e/cache/$1
    # What another run has left says nothing of this one.
    [ -n "${AGAIN:-}" ] || rm -rf "$cache"
    python=$2
    venv "$python" "$3" || return
    shift 3
    alone "$python/bin/python" -m pytest -o cache_dir="$cache" ${AGAIN:+--last-failed} "$@"
}

newest() {
    name=$1
    shift
    tests "$name" tests/.venv tests/python/requirements.txt "$@"
}

older() { tests older tests/.venv-old tests/python/requirements-old.txt "$@"; }

openapi() { tests openapi tests/.venv-openapi tests/openapi/requirements.txt tests/openapi; }

js() {
    have_node || return
    packages tests/js || return
    alone node tests/js/run.js
}

cli() {
    have_node || return
    packages tests/cli || return
    newest cli tests/cli --compat cli
}

# The templates that all suites share are built as users build them: by a gateway at its first start,
# and by the command. Of the debug binary, and where there is a way out.
first_templates() {
    COPPICE_BIN=$COPPICE_DEBUG_BIN tests/.venv/bin/python -m pytest tests/python/test_templates.py
}

# What the suites install, and those templates.
made_ready() {
    venv tests/.venv tests/python/requirements.txt
    step "the first templates" twice first_templates
    venv tests/.venv-old tests/python/requirements-old.txt
    venv tests/.venv-openapi tests/openapi/requirements.txt
    have_node
    packages tests/js
    packages tests/cli
}

# The gateway of this commit, and of the one before it.
built() {
    cargo build --locked --release --package coppice --package bench --package metrics-scraper
    sh tools/previous.sh
}

dependencies() {
    if ! has cargo-deny; then
        # Unoptimised: it runs for seconds, and takes minutes to build.
        cargo install --debug --locked --version 0.20.2 --root "$target/tools" \
            --target-dir "$target/tools/build" cargo-deny
        rm -rf "$target/tools/build"
    fi
    cargo deny --locked check bans licenses sources
}

# That the binaries link is asked here, not how fast they are.
freebsd_builds() {
    sh tools/freebsd-abi.sh
    sh tools/freebsd-check.sh
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 sh tools/freebsd-build.sh
}

fuzzed() { sh tools/fuzz.sh 30; }

# About half of what the suites take; the others run meanwhile.
other_suites() {
    step "attacks" twice newest attacks tests/attack
    step "an older E2B SDK" twice older tests/python -m sdk --compat python-old
    step "the newest E2B SDK by E2B_DOMAIN over TLS" twice newest tls tests/python --tls
}

everything() {
    rm -f "$logs"/*
    step "what is needed" have_tools
    step "lint, by mise" with_mise run lint
    step "unit tests, built" cargo test --locked --workspace --no-run
    # Walls can be taken down in it. The build of the commit before takes its name.
    ln -f "$target/debug/coppice" "$logs/coppice"
    COPPICE_DEBUG_BIN=$(cd "$logs" && pwd)/coppice
    export COPPICE_DEBUG_BIN
    beside ready sh tools/test.sh made_ready
    aside release built
    step "unit tests" twice cargo test --locked --workspace
    step "release build, and the commit before" joined release
    COPPICE_BIN=$(cd "$target/release" && pwd)/coppice
    COPPICE_PREVIOUS_BIN=$(sh tools/previous.sh)
    export COPPICE_BIN COPPICE_PREVIOUS_BIN
    step "packages and templates" joined ready
    aside dependencies dependencies
    aside fuzzing fuzzed
    aside freebsd freebsd_builds
    # What the suites below found to work, for docs/e2b.md.
    rm -rf target/e2e/compat
    beside others sh tools/test.sh other_suites
    step "the newest E2B SDK" twice newest newest tests/python --compat python
    step "the JavaScript SDK, in node, in Chromium and over TLS" twice js
    step "the E2B CLI" twice cli
    step "the gateway against its own document" twice openapi
    step "the other suites, meanwhile" joined others
    step "docs/e2b.md" tests/.venv/bin/python tests/compat/table.py --check
    step "dependencies" joined dependencies
    step "fuzzing of every parser, for half a minute each" joined fuzzing
    step "FreeBSD: headers, types, lints and binaries" joined freebsd
    step "the site" sh tools/site.sh check target/e2e/recording
    # Alone: how long answers take is asked of them.
    step "load" twice newest load tests/load
    step "soak" alone sh tools/soak.sh --seconds 180
    step "the benchmark, in small" sh tools/bench.sh all --quick --out "$target/bench"
    printf '\n'
    flaky=$(cat "$logs/flaky" 2>/dev/null || :)
    say "all of it: ok, $(($(date +%s) - began)) s${flaky:+; only at the second attempt: ${flaky#, }}"
}

[ "$(id -u)" = 0 ] || fail "sandboxes take root: run this as root, e.g. with sudo -E"
mkdir -p "$target" "$logs"
[ $# -gt 0 ] || set -- everything
"$@"
