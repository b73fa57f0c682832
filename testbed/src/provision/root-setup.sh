#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Runs inside a fresh Debian root: adds backports and sources, and installs what the testbed needs.
#   root-setup.sh SUITE "BUILD PACKAGES" "GUEST PACKAGES"
set -eu
suite=$1 build=$2 guest=$3
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
# The root is never booted itself: no initramfs, no services.
export INITRD=No
mkdir -p /etc/initramfs-tools /host /testbed
echo 'update_initramfs=no' >/etc/initramfs-tools/update-initramfs.conf
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d

# The first archive that the root was made from also serves backports and sources.
line=$(grep -hE "^deb (\[[^]]*\] )?[^ ]+ $suite main" /etc/apt/sources.list | head -n 1)
{
    echo "$line"
    echo "$line" | sed "s/ $suite main.*/ $suite-updates main/"
    echo "$line" | sed "s/ $suite main.*/ $suite-backports main/"
    echo "$line" | sed 's/^deb /deb-src /'
} >/etc/apt/sources.list
apt-get -qq update

install() {
    echo "installing $*"
    apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold install "$@"
}

# The newest kernel of an archive is named by the dependency of its metapackage there.
kernel_of() {
    version=$(apt-cache madison linux-headers-amd64 |
        awk -F'|' -v want="$1/main" '{ gsub(/ /, "", $2); split($3, a, " "); if (a[2] == want) { print $2; exit } }')
    apt-cache show "linux-headers-amd64=$version" | grep '^Depends:' | tr ',' '\n' |
        sed -n 's/.*linux-headers-\([0-9][^ ]*-amd64\).*/\1/p' | head -n 1
}
for archive in "$suite" "$suite-backports"; do
    release=$(kernel_of "$archive")
    test -n "$release" || { echo "no kernel found in $archive" >&2; exit 1; }
    install -t "$archive" "linux-image-$release" "linux-headers-$release"
    test -e "/lib/modules/$release/modules.dep" || depmod "$release"
    for image in "/boot/vmlinuz-$release" "/usr/lib/modules/$release/vmlinuz" "/lib/modules/$release/vmlinuz"; do
        test ! -e "$image" || { cp "$image" "/testbed/vmlinuz-$archive"; break; }
    done
    test -s "/testbed/vmlinuz-$archive"
    echo "$release" >"/testbed/kernel-$archive"
done

install -t "$suite-backports" qemu-system-x86
# shellcheck disable=SC2086 # both are lists
install $build $guest

# The provider's private interface is in the source package only, and must be this version's.
mkdir /testbed/source
cd /testbed/source
echo "fetching the source of rdma-core"
# Only the upstream tarball is needed, so an archive that lacks another part of it will do.
version=$(dpkg-query -W -f '${source:Version}' libibverbs-dev)
apt-get -qq -o APT::Sandbox::User=root source --download-only "rdma-core=$version" || true
tar -xf rdma-core_*.orig.tar.* || { echo "the archive has no source of rdma-core $version" >&2; exit 1; }
mv rdma-core-*/ /testbed/rdma-core
cd /
rm -rf /testbed/source
apt-get clean
