#!/bin/sh
# Opens sandboxes and runs a small notebook in each: `sh tools/demo-notebook.sh [HOW MANY]`.
#
# Ten by default, side by side, in the gateway that the settings of an SDK lead to: those that
# run.sh prints. Takes the SDK of the python3 at hand, or installs one below target.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

# Without an address the SDK would go to E2B itself.
if [ -z "${E2B_API_URL:-}${E2B_DOMAIN:-}" ] || [ -z "${E2B_API_KEY:-}" ]; then
    fail "no gateway: start one with \`sh tools/run.sh\`, and paste the settings that it prints (E2B_API_URL or E2B_DOMAIN, and E2B_API_KEY)"
fi

python=python3
if ! "$python" -c 'import e2b_code_interpreter' 2>/dev/null; then
    venv "${CARGO_TARGET_DIR:-target}/demo" tools/demo/requirements.txt
    python=${CARGO_TARGET_DIR:-target}/demo/bin/python
fi
exec "$python" tools/demo/notebook.py "$@"
