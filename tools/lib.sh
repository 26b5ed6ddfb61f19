# shellcheck shell=sh
# What run.sh, test.sh and the FreeBSD scripts share: saying what happens, and having what is
# needed. Sourced from the repository's root. Installs nothing that is there already, so a second
# run makes no call to a package manager.

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

on_freebsd() { [ "$(uname -s)" = FreeBSD ]; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        fail "this takes root: run it as root, or install sudo"
    fi
}

# debian PACKAGE...: installs those that are missing.
debian() {
    missing=
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    has apt-get || fail "no apt-get here; please install:$missing"
    say "installing$missing"
    update_apt
    # One word per package is meant.
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=300 -q -y install --no-install-recommends $missing
}

update_apt() {
    [ -n "${apt_updated:-}" ] || as_root apt-get -o DPkg::Lock::Timeout=300 -q update
    apt_updated=yes
}

# freebsd PACKAGE...: installs those that are missing, pkg(8) included, which base only fetches.
freebsd() {
    [ -x /usr/local/sbin/pkg ] || as_root env ASSUME_ALWAYS_YES=yes /usr/sbin/pkg bootstrap
    missing=
    for package; do
        pkg info -e "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # One word per package is meant.
    # shellcheck disable=SC2086
    as_root pkg install -y $missing
}

# need COMMAND PACKAGE [PACKAGE OF FREEBSD]: installs the package only where nothing else provides
# the command.
need() {
    if has "$1"; then
        return 0
    elif on_freebsd; then
        freebsd "${3:-$2}"
    else
        debian "$2"
    fi
}

# The oldest Rust this workspace builds with, e.g. 1.95.
rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

# new_enough CARGO: whether it runs, and is at least rust_wanted.
new_enough() {
    version=$("$1" --version 2>/dev/null | cut -d ' ' -f 2)
    [ -n "$version" ] &&
        [ "$(printf '%s\n%s\n' "$(rust_wanted)" "$version" | sort -V | head -n 1)" = "$(rust_wanted)" ]
}

# A C compiler links, git is what cargo and the tests use, and cargo is the user's own where it is
# new enough, else the system's.
need_rust() {
    PATH=$PATH:${HOME:-/root}/.cargo/bin:/usr/sbin:/sbin
    if on_freebsd; then
        # Its C compiler is in base.
        PATH=$PATH:/usr/local/bin:/usr/local/sbin
        freebsd ca_root_nss
        if has cargo && new_enough cargo; then
            return 0
        fi
        freebsd rust
        new_enough /usr/local/bin/cargo ||
            fail "Rust $(rust_wanted) or newer is needed; pkg's is $(/usr/local/bin/cargo --version): another repository (latest for quarterly) may have it"
        PATH=/usr/local/bin:$PATH
        return 0
    fi
    need cc gcc
    [ -e /usr/include/stdlib.h ] || debian libc6-dev
    debian ca-certificates
    if has cargo && new_enough cargo; then
        return 0
    fi
    debian rustc-web cargo-web
    new_enough /usr/bin/cargo ||
        fail "Rust $(rust_wanted) or newer is needed; Debian's is $(/usr/bin/cargo --version)"
    PATH=/usr/bin:$PATH
}

# zig_for_freebsd DIRECTORY: a C compiler and linker for FreeBSD below it, and the variables by
# which cargo finds them.
zig_for_freebsd() {
    venv "$1" tools/requirements.txt
    ZIG_PYTHON=$(cd "$1/bin" && pwd)/python
    CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER=$PWD/tools/freebsd-cc.sh
    CC_x86_64_unknown_freebsd=$PWD/tools/freebsd-cc.sh
    AR_x86_64_unknown_freebsd=$PWD/tools/freebsd-ar.sh
    export ZIG_PYTHON CARGO_TARGET_X86_64_UNKNOWN_FREEBSD_LINKER
    export CC_x86_64_unknown_freebsd AR_x86_64_unknown_freebsd
}

# venv DIRECTORY REQUIREMENTS: a Python environment with exactly these packages; made anew when the
# file, or one of the other suites that it may include, has changed.
venv() {
    wanted=$(cat "$2" tests/*/requirements*.txt | cksum)
    if [ -x "$1/bin/python" ] && [ "$(cat "$1/made-from" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    need python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || debian python3-venv
    say "installing the packages of $2 into $1"
    rm -rf "$1"
    mkdir -p "$1"
    python3 -m venv "$1" || return
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$2" || return
    printf '%s\n' "$wanted" >"$1/made-from"
}

# have_node: what is of JavaScript wants a newer node than Debian's; npm has one.
have_node() {
    case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
    tools=${CARGO_TARGET_DIR:-target}/tools
    node=$tools/node/node_modules/node-linux-$arch/bin
    [ -x "$node/node" ] || npm install --silent --no-audit --no-fund \
        --prefix "$tools/node" "node-linux-$arch@24.21.0"
    PATH=$(cd "$node" && pwd):$PATH
}

# have_prometheus: Debian's, unpacked and not installed, as its package would start a server on the
# machine's port 9090.
have_prometheus() {
    if has prometheus && has promtool; then
        return 0
    fi
    tools=${CARGO_TARGET_DIR:-target}/tools/prometheus
    if [ ! -x "$tools/usr/bin/promtool" ]; then
        has apt-get || fail "no apt-get here; please install prometheus"
        say "unpacking prometheus"
        update_apt
        mkdir -p "$tools"
        (
            cd "$tools" &&
                apt-get -q download prometheus &&
                dpkg-deb -x prometheus_*.deb . &&
                rm prometheus_*.deb
        )
    fi
    PATH=$PATH:$(cd "$tools/usr/bin" && pwd)
}

# have_postgres: Debian's, without the server that its package would start on the machine's port 5432.
have_postgres() {
    set -- /usr/lib/postgresql/*/bin/postgres
    [ ! -x "$1" ] || return 0
    debian postgresql-common
    as_root sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' \
        /etc/postgresql-common/createcluster.conf
    debian postgresql
}
