# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Becomes a systemd in namespaces of its own. Its files are those of the host, but what is written goes to a folder in memory.
# $1: an empty folder; $2: a folder with the programs that it has in /usr/bin.
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cp "$2"/vhost-device-* "$1/root/usr/bin/"
cd "$1/root"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /sys sys
mount --rbind /dev dev
# Nothing that the host would start.
rm -rf etc/systemd/system etc/vhost-device
mkdir -p etc/systemd/system etc/sysusers.d etc/vhost-device
ln -s /usr/lib/systemd/system/sockets.target etc/systemd/system/default.target
exec env -i container=lab PATH=/usr/bin:/bin:/usr/sbin:/sbin chroot . /lib/systemd/systemd --show-status=0
