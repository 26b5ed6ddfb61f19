#!/bin/sh
# Random operations of many clients on one gateway, which is killed and started again meanwhile:
# `sh tools/soak.sh [--seconds N] [--seed N]`. Three minutes; an hour is `--seconds 3600`.
#
# Builds the release binary, unless COPPICE_BIN names one, and installs what is missing (Debian).
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

target=${CARGO_TARGET_DIR:-target}
python=tests/.venv

[ "$(id -u)" = 0 ] || fail "sandboxes take root: run this as root, e.g. with sudo -E"
need nft nftables
need ip iproute2
need mmdebstrap mmdebstrap
venv "$python" tests/python/requirements.txt
if [ -z "${COPPICE_BIN:-}" ]; then
    need_rust
    say "building (the first time takes minutes)"
    cargo build --locked --release --package coppice
    COPPICE_BIN=$(cd "$target/release" && pwd)/coppice
fi
export COPPICE_BIN
"$python/bin/python" -m pytest --quiet tests/soak
exec "$python/bin/python" tests/soak/soak.py --log target/soak/coppice.log "$@"
