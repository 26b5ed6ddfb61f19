#!/bin/sh
# The archiver of what tools/freebsd-cc.sh compiles.
set -eu
exec "$ZIG_PYTHON" -m ziglang ar "$@"
