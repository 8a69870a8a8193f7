#!/bin/sh
# First program of the initrd: finds the slot named on the command line, puts an
# overlay on it and hands over to the root file system's init.
. /functions
start

lowerdev= lowerfstype=squashfs
for arg in $(cat /proc/cmdline); do
	case $arg in
	atomixos.lowerdev=*) lowerdev=${arg#*=} ;;
	atomixos.lowerfstype=*) lowerfstype=${arg#*=} ;;
	init=*) init=${arg#*=} ;;
	esac
done
[ -n "$lowerdev" ] || die "atomixos.lowerdev= is missing on the kernel's command line"
wait_for "$lowerdev" 30 || die "there is no root file system"

mkdir -p /run/rootfs-base /run/overlay-root /sysroot
mount -t "$lowerfstype" -o ro "$lowerdev" /run/rootfs-base || die "$lowerdev: no $lowerfstype"
mount -t tmpfs -o mode=0755 overlay-root /run/overlay-root
mkdir -p /run/overlay-root/upper /run/overlay-root/work
mount -t overlay -o lowerdir=/run/rootfs-base,upperdir=/run/overlay-root/upper,workdir=/run/overlay-root/work overlay /sysroot ||
	die "no overlay on $lowerdev"
hand_over
