#!/bin/sh
# The linker for FreeBSD: zig's, less what it does not know and nothing uses. Called by rustc for
# tools/freebsd-build.sh, which sets ZIG_PYTHON.
set -eu

for arg; do
    shift
    case $arg in
        # Named by the libc crate; zig has no stubs of them, and no symbol of theirs is used.
        -lkvm | -lmemstat | -lprocstat | -ldevstat) ;;
        -m64 | -Wl,-O1) ;;
        *) set -- "$@" "$arg" ;;
    esac
done
exec "$ZIG_PYTHON" -m ziglang cc -target x86_64-freebsd.14.0 "$@" "$(dirname "$0")/freebsd-13.s"
