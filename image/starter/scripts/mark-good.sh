#!/bin/sh
# mark-good: U-Boot boots the slot that runs from now on. With the argument waiting the
# slot only has its tries back, and stays on trial. Nothing is written that is so already,
# and nothing where U-Boot counts no tries.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
slot=A part= tries=
for arg in $(cat /proc/cmdline); do
	case $arg in
	rauc.slot=boot.1) slot=B ;;
	atomixos.lowerdev=*) part=${arg##*/} ;;
	imgtool.tries=*) tries=${arg#*=} ;;
	esac
done
disk=$(basename "$(readlink -f "/sys/class/block/$part/..")")
now() { fw_printenv -n "$1" 2>/dev/null; }
if [ -n "$tries" ]; then
	# The script on the boot partition counts the tries, in a sector for that only.
	echo "/dev/$disk $tries 0x200" >/etc/fw_env.config
	echo "BOOT_ORDER=A B" >/etc/u-boot-initial-env # while nothing was saved
	want=good
	# A good slot stays good, and a slot that was never counted has all its tries.
	[ "$1" != waiting ] || case $(now BOOT_${slot}_LEFT) in
	"" | good) exit 0 ;;
	*) want=3 ;;
	esac
else
	# U-Boot's own method for RAUC counts, if U-Boot's environment is on this disk. It
	# takes a try of a good slot, too.
	echo "/dev/$disk 0x3F8000 0x8000" >/etc/fw_env.config
	[ -n "$(now BOOT_ORDER)" ] || exit 0
	want=3
fi
[ "$(now BOOT_${slot}_LEFT)" != $want ] || exit 0
fw_setenv BOOT_${slot}_LEFT $want && sync || {
	echo "mark-good: the tries of slot $slot cannot be written: BOOT_${slot}_LEFT=$want"
	exit 1
}
