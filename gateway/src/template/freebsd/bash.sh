#!/bin/sh
# This root has no bash. SDKs start every command with `bash -l -c`, and terminals with `bash -i -l`,
# so sh(1) stands in: it knows no -l, and a login shell reads its profiles first.
login=no
interactive=
while :; do
    case ${1-} in
        -l | --login) login=yes ;;
        -i) interactive=-i ;;
        *) break ;;
    esac
    shift
done
if [ $login = yes ]; then
    # Exported, as the shell that is to have it is another.
    set -a
    for profile in /etc/profile "${HOME:-/}/.profile"; do
        # shellcheck disable=SC1090
        [ ! -r "$profile" ] || . "$profile"
    done
    set +a
fi
exec /bin/sh $interactive "$@"
