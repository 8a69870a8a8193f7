#!/bin/sh
# boot_to_ums: reboots into U-Boot's USB mass storage, so that a computer sees the disk as
# a USB disk. It works where U-Boot has its environment on this disk, and the command ums.
# Debian's U-Boot for the Rock64 has neither.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
part= tries=
for arg in $(cat /proc/cmdline); do
	case $arg in
	atomixos.lowerdev=*) part=${arg##*/} ;;
	imgtool.tries=*) tries=yes ;;
	esac
done
disk=$(basename "$(readlink -f "/sys/class/block/$part/..")")
echo "/dev/$disk 0x3F8000 0x8000" >/etc/fw_env.config
if [ -n "$tries" ] || ! fw_printenv BOOT_ORDER >/dev/null 2>&1; then
	echo "boot_to_ums: not possible: U-Boot has no environment on /dev/$disk that could ask for it"
	exit 1
fi
fw_setenv START_UMS 1 && sync || {
	echo "boot_to_ums: U-Boot's environment on /dev/$disk cannot be written"
	exit 1
}
echo "boot_to_ums: rebooting; connect the OTG port to a computer"
reboot
