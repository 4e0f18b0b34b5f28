#!/bin/sh
# Makes a small root file system from Debian packages, without installing them:
#   rootfs.sh DIRECTORY "PACKAGE..." ["PACKAGE..."]
# The first list comes with the libraries it depends on, the second alone; busybox is added for a shell (the dynamic one: a static glibc resolves no names).
set -eu
root=$1
[ -e "$root.complete" ] && exit 0
rm -rf "$root"
mkdir -p "$root/tmp" "$root/run" "$root/var/log" "$root/etc"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Let apt resolve as if nothing were installed; of that keep the packages themselves and libraries, because what
# their maintainer scripts need (dpkg, perl, debconf) is not needed by what runs.
: > status
# shellcheck disable=SC2086
apt-get install --simulate --no-install-recommends -o Dir::State::status="$work/status" $2 \
    | awk '/^Inst (lib|lua|zlib|nginx|redis)/ { print $2 }' \
    | grep -vE '^lib(perl|debconf|dpkg|apt|pam|audit|krb5|k5|gssapi|bpf|elf|tirpc|xtables|db5)' > packages
# shellcheck disable=SC2086
printf '%s\n' busybox ${3:-} >> packages
xargs apt-get -qq download -o APT::Sandbox::User=root < packages
for deb in ./*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink --exclude=./usr/share/doc \
        --exclude=./usr/share/man --exclude=./usr/share/locale --exclude=./usr/share/lintian
done
chmod 1777 "$root/tmp"
ln -sf busybox "$root/bin/sh"
printf 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nredis:x:100:100::/data:/bin/false\n' \
    > "$root/etc/passwd"
printf 'root:x:0:\nwww-data:x:33:\nredis:x:100:\n' > "$root/etc/group"
touch "$root.complete"
