#!/bin/sh
# First program of the initrd: mounts the root file system read-only, has
# overlayroot put an overlay on it and hands over to its init.
. /functions
start

root= mode=ro rootmnt=/sysroot
for arg in $(cat /proc/cmdline); do
	case $arg in
	root=*) root=${arg#*=} ;;
	init=*) init=${arg#*=} ;;
	ro | rw) mode=$arg ;;
	esac
done
[ -n "$root" ] || die "root= is missing on the kernel's command line"

# QEMU has neither eMMC nor card for us: its virtio disk gets the names of the
# disk in root=.
case $root in
/dev/mmcblk[0-9]p[0-9]*)
	if [ ! -b "$root" ] && [ -b /dev/vda ]; then
		disk=${root%p*}
		for part in /dev/vda[0-9]*; do
			ln -s "${part#/dev/}" "${disk}p${part#/dev/vda}"
		done
		echo "initrd: /dev/vda is $disk"
	fi
	;;
esac
wait_for "$root" 30 || die "there is no root file system"
mount -t ext4 -o ro "$root" $rootmnt || die "$root: no ext4"

overlaid=no
. /scripts/init-bottom/overlayroot
if [ $overlaid = no ] && [ $mode = rw ]; then
	mount -o remount,rw $rootmnt || die "$root cannot be written to"
fi
hand_over
