#!/bin/sh
# Runs once, before the console: brings the network up, and says which slot and build
# it is, and which seeds the device would find.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
hostname "$(cat /etc/hostname)"
slot=unknown
for arg in $(cat /proc/cmdline); do
	case $arg in
	rauc.slot=boot.0) slot=a ;;
	rauc.slot=boot.1) slot=b ;;
	esac
done
fresh=no
[ ! -e /etc/atomixos/fresh-flash ] || fresh=yes
echo "fresh flash: $fresh"
while read -r dev dir type _; do
	[ "$dir" != /data ] || echo "/data mounted: $type on $dev, $(($(stat -f -c '%b * %S' /data) / 1048576)) MiB"
done </proc/mounts
. /etc/os-release
root=$(while read -r _ dir type _; do [ "$dir" = / ] && echo "$type"; done </proc/mounts)

# look DEVICE NAME: says what seed the FAT of a partition has.
look() {
	if ! mount -t vfat -o ro "$1" /mnt 2>/dev/null; then
		[ "$2" != boot-a ] || echo "imgtool starter: boot-a on $1 has no FAT"
		return
	fi
	if [ -f /mnt/config.toml ]; then
		sum=$(sha256sum </mnt/config.toml)
		echo "imgtool starter: seed on $2: $(wc -c </mnt/config.toml) bytes, SHA-256 ${sum%% *}"
	elif [ "$2" = boot-a ]; then
		echo "imgtool starter: no seed on boot-a"
	fi
	umount /mnt
}
for part in /sys/class/block/*/partition; do
	dir=${part%/partition}
	name=$(sed -n 's/^PARTNAME=//p' "$dir/uevent")
	case $name in
	boot-b | rootfs-a | rootfs-b | data) ;;
	*) look "/dev/${dir##*/}" "$name" ;;
	esac
done
if [ ! -x /sbin/first-boot ]; then
	echo "imgtool starter: nothing here takes a configuration: first-boot is a part of imgtool when make builds it"
	mark-good
fi
ip link set lo up
for eth in /sys/class/net/eth*; do
	[ ! -e "$eth" ] || ip link set "${eth##*/}" up
done
[ ! -e /sys/class/net/eth0 ] || udhcpc -q -t 20 -T 2 -i eth0 -s /etc/udhcpc.sh >/dev/console 2>&1 &
echo "imgtool starter ready: slot $slot, build $BUILD_ID, root $root"
