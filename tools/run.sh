#!/bin/sh
# Builds Coppice and serves: `sh tools/run.sh [flags of coppice serve]`.
#
# Installs what is missing (Debian, FreeBSD), so the first run takes minutes and the next one
# seconds. Prints the settings of an SDK as soon as a sandbox can be made. Ctrl-C stops the gateway;
# sandboxes run on, and the next start finds them.
set -eu
cd "$(dirname "$0")/.."
. tools/lib.sh

# listen ARG...: the address `serve` will listen on; empty where only it knows.
listen() {
    found=${COPPICE_LISTEN:-}
    [ -n "$found" ] || [ -n "${COPPICE_CONFIG:-}" ] || found=127.0.0.1:3000
    config=
    given=
    while [ $# -gt 0 ]; do
        case $1 in
            --listen) given=${2:-} ;;
            --listen=*) given=${1#*=} ;;
            --config | --config=*) config=yes ;;
        esac
        shift
    done
    if [ -n "$given" ]; then
        found=$given
    elif [ -n "$config" ] && [ -z "${COPPICE_LISTEN:-}" ]; then
        found=
    fi
    printf '%s\n' "$found"
}

# taken ADDRESS: whether anything at all is listening there.
taken() {
    status=0
    curl --silent --output /dev/null --noproxy '*' --max-time 2 "http://$1/" || status=$?
    # Refused, or no address at all, which the gateway explains better.
    case $status in 3 | 6 | 7) return 1 ;; esac
}

# announce URL PID: waits until a sandbox can be made, then says how to.
announce() {
    until curl --silent --fail --output /dev/null --noproxy '*' --max-time 2 "$1/health"; do
        [ -d "/proc/$2" ] || ps -p "$2" >/dev/null 2>&1 || return 0
        sleep 0.3
    done
    key=e2b_0000000000000000000000000000000000000000
    case "${COPPICE_API_KEYS:-}$3" in
        *?*) key='<one of your keys>' ;;
    esac
    cat <<END

==> ready. In another terminal:

export E2B_API_URL=$1
export E2B_SANDBOX_URL=$1
export E2B_VOLUME_API_URL=$1
export E2B_API_KEY=$key
export NO_PROXY=127.0.0.1,localhost

then, after \`pip install e2b\`:

from e2b import Sandbox
sandbox = Sandbox.create()
print(sandbox.commands.run("uname -a && id && python3 --version").stdout)
sandbox.kill()

and after \`pip install e2b-code-interpreter\`, once its template is built (until then a create
answers 503, and the log above tells how far it is):

from e2b_code_interpreter import Sandbox
with Sandbox.create() as sandbox:
    print(sandbox.run_code("import pandas; int(pandas.Series([1, 2, 3]).sum())").text)

END
}

# given NAME VARIABLE DEFAULT ARG...: what a setting of `serve` is, but for one in a file.
given() {
    name=$1
    eval "value=\${$2:-$3}"
    shift 3
    while [ $# -gt 0 ]; do
        case $1 in
            "--$name") value=${2:-} ;;
            "--$name="*) value=${1#*=} ;;
        esac
        shift
    done
    printf '%s\n' "$value"
}

# What FreeBSD has to have been told, and what of it can be done without.
check_freebsd() {
    [ "$(sysctl -n kern.racct.enable 2>/dev/null)" = 1 ] || fail "sandboxes take resource limits, \
which FreeBSD turns on at boot: echo kern.racct.enable=1 >> /boot/loader.conf && shutdown -r now"
    if [ -z "$(given network COPPICE_NETWORK '' "$@")$(given config COPPICE_CONFIG '' "$@")" ] &&
        ! as_root pfctl -s info 2>/dev/null | grep -q '^Status: Enabled'; then
        say "pf(4) is off, so sandboxes have no network; docs/freebsd.md tells how to turn it on"
        COPPICE_NETWORK=none
        export COPPICE_NETWORK
    fi
}

# freebsd_base BINARY DATA-DIR: the template that all others are built on, from this release.
freebsd_base() {
    [ ! -e "$2/templates/base.json" ] || return 0
    release=$(uname -r | sed 's/-p[0-9]*$//')
    archive=${CARGO_TARGET_DIR:-target}/base-$release.txz
    if [ ! -e "$archive" ]; then
        say "fetching base.txz of FreeBSD $release"
        fetch -o "$archive.part" \
            "https://download.freebsd.org/releases/$(uname -m)/$(uname -p)/$release/base.txz" ||
            fail "there is none of $release: name a root file system yourself, see docs/freebsd.md"
        mv "$archive.part" "$archive"
    fi
    as_root "$1" template build base --from "$archive" --data-dir "$2"
}

case $(uname -s) in
    Linux | FreeBSD) ;;
    *) fail "this runs on Linux and FreeBSD" ;;
esac
need_rust
need curl curl
need git git
if on_freebsd; then
    check_freebsd "$@"
else
    need mmdebstrap mmdebstrap
    need nft nftables
    # Fetches Node for the template; only the first build of a template needs it.
    need npm npm
fi

address=$(listen "$@")
if [ -n "$address" ]; then
    # An SDK on this machine reaches a gateway that listens everywhere by loopback.
    case $address in
        0.0.0.0:*) address=127.0.0.1:${address##*:} ;;
        '[::]':*) address="[::1]:${address##*:}" ;;
    esac
    if taken "$address"; then
        fail "something is listening on $address already; stop it, or choose another address: sh tools/run.sh --listen 127.0.0.1:3001"
    fi
fi

say "building (the first time takes minutes)"
cargo build --locked --release --package coppice
binary=${CARGO_TARGET_DIR:-target}/release/coppice

if [ -n "$address" ]; then
    keys=
    for arg; do
        case $arg in --api-keys-file*) keys=given ;; esac
    done
    # `exec` below keeps this process's number. Twice forked, so that no zombie stays with it.
    (announce "http://$address" "$$" "$keys${COPPICE_API_KEYS_FILE:-}" &)
fi

if on_freebsd; then
    freebsd_base "$binary" "$(given data-dir COPPICE_DATA_DIR var "$@")"
fi
say "starting the gateway; the first start builds the template \`base\`, which takes a minute or two,"
say "and then \`code-interpreter-v1\`, some minutes more, while sandboxes can be made already"
if [ "$(id -u)" = 0 ]; then
    exec "$binary" serve "$@"
fi
has sudo || fail "sandboxes take root: run this as root, or install sudo"
exec sudo -E "$binary" serve "$@"
