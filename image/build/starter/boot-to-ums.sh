#!/bin/sh
# boot_to_ums: reboots into U-Boot's USB mass storage, so that a computer sees the disk as
# a USB disk. It works with a U-Boot that has the command ums and an environment Linux can
# write, such as AtomixOS's own; Debian's for the Rock64 has no such command, and its boot
# script says so and boots on.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
part=
for arg in $(cat /proc/cmdline); do
	case $arg in
	atomixos.lowerdev=*) part=${arg##*/} ;;
	esac
done
disk=$(basename "$(readlink -f "/sys/class/block/$part/..")")
echo "/dev/$disk 0x3F8000 0x8000" >/etc/fw_env.config
fw_printenv BOOT_ORDER >/dev/null 2>&1 || {
	echo "boot_to_ums: U-Boot has saved no environment on /dev/$disk, so it cannot be asked; hold the recovery button instead"
	exit 1
}
fw_setenv START_UMS 1 && sync || {
	echo "boot_to_ums: the environment of U-Boot on /dev/$disk cannot be written"
	exit 1
}
echo "boot_to_ums: rebooting; connect the OTG port to a computer"
reboot
