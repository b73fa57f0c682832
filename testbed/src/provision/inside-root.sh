#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# Runs a program inside a Debian root, in a mount namespace of its own made by unshare(1).
#   inside-root.sh ROOT rw|ro FOLDER {SOURCE NAME rw|ro}... -- PROGRAM ARGUMENT...
# Each SOURCE appears as /host/NAME. With "ro" the root itself stays as it was built.
set -eu
root=$1 access=$2 folder=$3
shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
if [ "$1" != -- ]; then
    mount -t tmpfs tmpfs "$root/host"
fi
while [ "$1" != -- ]; do
    mkdir -p "$root/host/$2"
    mount --rbind "$1" "$root/host/$2"
    if [ "$3" = ro ]; then
        mount -o remount,bind,ro "$root/host/$2"
    fi
    shift 3
done
shift
if [ "$access" = ro ]; then
    mount -o remount,bind,ro "$root"
fi
exec chroot "$root" /usr/bin/env -C "$folder" "$@"
