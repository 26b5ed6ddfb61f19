#!/bin/sh
# Fifty sandboxes side by side: each is made, runs a piece of one task, and ends.
#
# Pi by throwing darts; every sandbox throws its own. `FANOUT` says how many others than fifty.
set -eu

api() { curl --silent --show-error --fail-with-body --header "X-API-Key: $E2B_API_KEY" "$@"; }

# one SEED: makes a sandbox, prints how many of a hundred thousand darts hit, ends it.
one() {
    made=$(api --json '{"templateID": "code-interpreter-v1", "timeout": 120}' \
        "$E2B_API_URL/v2/sandboxes")
    id=$(printf '%s' "$made" | jq --raw-output .sandboxID)
    token=$(printf '%s' "$made" | jq --raw-output '.envdAccessToken // empty')
    code="import random; r = random.Random($1).random
sum(r() ** 2 + r() ** 2 < 1 for _ in range(100_000))"
    jq --null-input --arg code "$code" '{code: $code}' |
        curl --silent --show-error --fail-with-body \
            --header "E2b-Sandbox-Id: $id" --header "E2b-Sandbox-Port: 49999" \
            --header "X-Access-Token: $token" --json @- "$E2B_SANDBOX_URL/execute" |
        jq --raw-output 'select(.type == "result") | .text'
    api --request DELETE "$E2B_API_URL/sandboxes/$id"
}

count=${FANOUT:-50}
hits=$(mktemp)
trap 'rm -f "$hits"' EXIT
began=$(date +%s%3N)
for seed in $(seq "$count"); do
    one "$seed" >>"$hits" &
done
wait
took=$(($(date +%s%3N) - began))
awk -v wanted="$count" -v took="$took" '
    { hits += $1; sandboxes += 1 }
    END {
        printf "%d sandboxes in %d ms: pi is about %.3f\n", sandboxes, took, 4 * hits / (sandboxes * 100000)
        exit sandboxes != wanted
    }' "$hits"
