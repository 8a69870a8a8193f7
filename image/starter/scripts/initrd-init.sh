#!/bin/sh
# First program of the initrd: makes the partitions that are missing, finds the slot
# named on the command line, puts an overlay on it, mounts the data and hands over to
# the root file system's init.
. /functions
. /disk
start

lowerdev= lowerfstype=squashfs roothash= hash_offset=
for arg in $(cat /proc/cmdline); do
	case $arg in
	atomixos.lowerdev=*) lowerdev=${arg#*=} ;;
	atomixos.lowerfstype=*) lowerfstype=${arg#*=} ;;
	roothash=*) roothash=${arg#*=} ;;
	systemd.verity_root_options=hash-offset=*)
		hash_offset=${arg##*hash-offset=}
		hash_offset=${hash_offset%%,*}
		;;
	init=*) init=${arg#*=} ;;
	esac
done
[ -n "$lowerdev" ] || die "atomixos.lowerdev= is missing on the kernel's command line"
wait_for "$lowerdev" 30 || die "there is no root file system"

disk=$(disk_of "$lowerdev")
fresh=no
! freshly_flashed "$disk" || fresh=yes
make_parts "$disk"
label_parts "$disk"

mkdir -p /run/rootfs-base /run/overlay-root /sysroot
base=$lowerdev
if [ -n "$roothash" ]; then
	base=/dev/mapper/root
	mkdir -p /run/cryptsetup
	veritysetup open "$lowerdev" root "$lowerdev" "$roothash" --hash-offset="$hash_offset" --panic-on-corruption || die "$lowerdev: no dm-verity"
	echo "initrd: $lowerdev is checked by dm-verity"
fi
mount -t "$lowerfstype" -o ro "$base" /run/rootfs-base || die "$lowerdev: no $lowerfstype"
mount -t tmpfs -o mode=0755 overlay-root /run/overlay-root
mkdir -p /run/overlay-root/upper /run/overlay-root/work
mount -t overlay -o lowerdir=/run/rootfs-base,upperdir=/run/overlay-root/upper,workdir=/run/overlay-root/work overlay /sysroot ||
	die "no overlay on $lowerdev"

# Of this boot alone: the overlay is in memory.
if [ $fresh = yes ]; then
	mkdir -p /sysroot/etc/atomixos
	: >/sysroot/etc/atomixos/fresh-flash
fi
mount_data /sysroot/data
sticks_settle
hand_over
