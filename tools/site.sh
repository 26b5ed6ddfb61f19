#!/bin/sh
# The site: `sh tools/site.sh [build|check [RECORDING...]|dev|month]`. By default it is built, into
# site/dist; to check it is to build it of nothing, of a month, and of data/sample and other
# recordings, and to look at these in Chromium (target/site). `month` tells how long that of a month
# takes, and how large its page is.
#
# Installs pnpm and what the site is made with, from npm, below target and site/node_modules.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

need npm npm
have_node
pnpm=${CARGO_TARGET_DIR:-target}/tools/pnpm/node_modules/.bin/pnpm
[ -x "$pnpm" ] || npm install --silent --no-audit --no-fund \
    --prefix "${CARGO_TARGET_DIR:-target}/tools/pnpm" pnpm@12.21.0
pnpm=$(cd "$(dirname "$pnpm")" && pwd)/pnpm
export CI=1
cd site
"$pnpm" install --frozen-lockfile --reporter silent

# 30 days of samples, one each 30 seconds.
month() {
    month=$(mktemp -d)
    trap 'rm -rf "$month"' EXIT
    node test/month.js "$month"
    began=$(date +%s%3N)
    COPPICE_METRICS_DIR=$month "$pnpm" run build
    took=$(($(date +%s%3N) - began))
    size=$(wc -c <dist/metrics.html)
    say "30 days: $took ms, a page of $size bytes"
    [ "$size" -lt 1000000 ] || fail "a page of 30 days takes more than 1 MB"
}

case ${1:-build} in
check) ;;
month)
    month
    exit
    ;;
*) exec "$pnpm" run "${1:-build}" ;;
esac

need chromium chromium
shift
"$pnpm" run test
COPPICE_METRICS_DIR=/nonexistent "$pnpm" run build
[ "$(grep -o 'No samples under data/metrics/' dist/metrics.html | wc -l)" = 8 ] ||
    fail "a site of no samples does not say so in each chart"
month

COPPICE_METRICS_DIR=../data/sample "$pnpm" run build
"$pnpm" run test:browser
for recording; do
    COPPICE_METRICS_DIR=../$recording "$pnpm" run build
    RECORDING=$recording "$pnpm" run test:recording
done
