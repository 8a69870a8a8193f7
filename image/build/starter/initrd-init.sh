#!/bin/sh
# First program of the initrd: finds the slot named on the command line, puts an
# overlay on it and hands over to the root file system's init.
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755 run /run

die() {
	echo "initrd: $*"
	echo "initrd: here is a shell; leave it to reboot"
	setsid cttyhack sh
	reboot -f
}

while read -r module; do
	insmod "$module" 2>/dev/null
done </modules

lowerdev= lowerfstype=squashfs init=/sbin/init
for arg in $(cat /proc/cmdline); do
	case $arg in
	atomixos.lowerdev=*) lowerdev=${arg#*=} ;;
	atomixos.lowerfstype=*) lowerfstype=${arg#*=} ;;
	init=*) init=${arg#*=} ;;
	esac
done
[ -n "$lowerdev" ] || die "atomixos.lowerdev= is missing on the kernel's command line"

n=0
while [ ! -b "$lowerdev" ] && [ $n -lt 300 ]; do
	sleep 0.1
	n=$((n + 1))
done
[ -b "$lowerdev" ] || die "$lowerdev did not appear in 30 seconds"

mkdir -p /run/rootfs-base /run/overlay-root /sysroot
mount -t "$lowerfstype" -o ro "$lowerdev" /run/rootfs-base || die "$lowerdev: no $lowerfstype"
mount -t tmpfs -o mode=0755 overlay-root /run/overlay-root
mkdir -p /run/overlay-root/upper /run/overlay-root/work
mount -t overlay -o lowerdir=/run/rootfs-base,upperdir=/run/overlay-root/upper,workdir=/run/overlay-root/work overlay /sysroot ||
	die "no overlay on $lowerdev"
for dir in dev proc sys run; do
	mount --move /$dir /sysroot/$dir
done
exec switch_root /sysroot "$init"
