# shellcheck shell=sh
# enter.sh LAYERS COMMAND...: runs a command as root of a template's root file system, with the
# host's network, in the directory of a build; what the command changes is left in `upper`.
#
# In mount and pid namespaces of its own, so nothing is mounted anywhere else, and nothing of what
# is mounted here ends in `upper`.
set -eu
layers=$1
shift
mkdir -m 755 -p upper work root tmp
mount -t overlay overlay -o "lowerdir=$layers,upperdir=upper,workdir=work" root
cd root
mount --bind ../tmp tmp
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
mkdir -m 1777 dev/shm
for device in null zero random urandom; do
    : >dev/$device
    mount --bind /dev/$device dev/$device
done
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf; do
    [ ! -e $file ] || mount --bind $file .$file
done
roots=etc/ssl/certs/ca-certificates.crt
[ ! -e "${CA:=/$roots}" ] || mount --bind "$CA" $roots
export HOME=/tmp PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
export SSL_CERT_FILE=/$roots PIP_CERT=/$roots
exec chroot . "$@"
