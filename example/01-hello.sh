#!/bin/sh
# A first sandbox without an SDK: made by one request, used by another, ended by a third.
set -eu

api() { curl --silent --show-error --fail-with-body --header "X-API-Key: $E2B_API_KEY" "$@"; }

made=$(api --json '{"templateID": "code-interpreter-v1", "timeout": 60}' "$E2B_API_URL/v2/sandboxes")
id=$(printf '%s' "$made" | jq --raw-output .sandboxID)
token=$(printf '%s' "$made" | jq --raw-output '.envdAccessToken // empty')
trap 'api --request DELETE "$E2B_API_URL/sandboxes/$id"' EXIT

# One JSON object a line: what is printed, results, errors, and the end.
curl --silent --show-error --fail-with-body --no-buffer \
    --header "E2b-Sandbox-Id: $id" --header "E2b-Sandbox-Port: 49999" \
    --header "X-Access-Token: $token" --json '{"code": "sum(range(10))"}' \
    "$E2B_SANDBOX_URL/execute" |
    jq --raw-output 'select(.type == "result") | .text'
