#!/bin/sh
# For cargo, as RUSTC_WRAPPER: what is ours is built with libFuzzer's counters. What it stands on is
# built as for the tests, and so only once for both. None of these flags is an unstable one.
set -eu
case " $* " in
*" --crate-name coppice "* | *" --crate-name envd "* | *" --crate-name coppice_fuzz "*)
    set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$@"
