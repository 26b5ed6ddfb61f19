# shellcheck shell=sh
# Run in the finished root: makes the layer small, quick to import from, and the same each time.
set -eu
packages=/usr/local/lib/python3.11/dist-packages
find $packages -depth -type d -name tests -exec rm -rf {} +
# Python compares times, and those of a build say nothing.
find $packages -name '*.py' -exec touch --no-dereference --date=@1577836800 {} +
find $packages -name __pycache__ -prune -exec rm -rf {} +
python3 -m compileall -q -j 0 --invalidation-mode timestamp $packages
# Whoever installs packages, they land where every user and every kernel finds them.
find /usr/local -type d -exec chmod a+w {} +
