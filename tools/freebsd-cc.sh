#!/bin/sh
# C compiler and linker for FreeBSD: zig's. rustc links with it, and the cc crate compiles the C
# and assembler parts of dependencies. See `zig_for_freebsd` in tools/lib.sh, which sets ZIG_PYTHON.
set -eu

compiles=
for arg; do
    shift
    case $arg in
        # Named by the libc crate; zig has no stubs of them, and no symbol of theirs is used.
        -lkvm | -lmemstat | -lprocstat | -ldevstat) ;;
        -m64 | -Wl,-O1) ;;
        # In words zig does not know; its own are below.
        --target=*) ;;
        -c | -E | -S)
            compiles=yes
            set -- "$@" "$arg"
            ;;
        *) set -- "$@" "$arg" ;;
    esac
done
if [ -n "$compiles" ]; then
    # zig's default where nothing is optimised, with a run-time library that nobody links.
    set -- "$@" -fno-sanitize=undefined
else
    set -- "$@" "$(dirname "$0")/freebsd-13.s"
fi
exec "$ZIG_PYTHON" -m ziglang cc -target x86_64-freebsd.14.0 "$@"
