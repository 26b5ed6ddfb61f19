#!/bin/sh
# Builds Coppice and its benchmark, and measures: `sh tools/bench.sh [WHAT] [flags of bench]`.
#
# Installs what is missing (Debian), the peers included. Without WHAT: everything but the hour
# of churn. `sh tools/bench.sh --help` has all there is, docs/bench.md how to read it.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

target=${CARGO_TARGET_DIR:-target}

# have_nginx: sets BENCH_NGINX. Where there is none, Debian's is unpacked rather than installed: its
# package would start a web server on port 80.
have_nginx() {
    has nginx && return 0
    unpacked=$target/tools/nginx
    BENCH_NGINX=$unpacked/usr/sbin/nginx
    export BENCH_NGINX
    [ -x "$BENCH_NGINX" ] && return 0
    say "unpacking nginx"
    mkdir -p "$unpacked"
    (
        cd "$unpacked"
        apt-get -q download nginx || {
            as_root apt-get -o DPkg::Lock::Timeout=300 -q update
            apt-get -q download nginx
        }
        dpkg -x nginx_*.deb .
        rm nginx_*.deb
    )
}

need_rust
need git git

case ${1:-} in '' | --[!h]*) set -- all "$@" ;; esac
if [ "$1" = table ]; then
    cargo build --locked --release --package bench
    exec "$target/release/bench" "$@"
fi

[ "$(uname -s)" = Linux ] || fail "only Linux is measured so far"
need curl curl
need mmdebstrap mmdebstrap
need nft nftables
need npm npm
need runc runc
need bwrap bubblewrap
need nsenter util-linux
have_nginx

say "building (the first time takes minutes)"
cargo build --locked --release --package coppice --package bench --package metrics-scraper
COPPICE_BIN=${COPPICE_BIN:-$target/release/coppice}
export COPPICE_BIN
[ "$(id -u)" = 0 ] && exec "$target/release/bench" "$@"
has sudo || fail "sandboxes take root: run this as root, or install sudo"
exec sudo -E "$target/release/bench" "$@"
