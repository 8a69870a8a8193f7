# The disk of the board: whether it was just flashed, and the partitions that the image
# leaves to the device.

# disk_of PARTITION: the disk it is on, such as vda.
disk_of() {
	basename "$(readlink -f "/sys/class/block/${1#/dev/}/..")"
}

# parts DISK: the names of its partitions by the nodes, such as vda1 boot-a.
parts() {
	for part in /sys/class/block/"$1"/*/partition; do
		part=${part%/partition}
		[ ! -f "$part/uevent" ] || echo "${part##*/} $(sed -n 's/^PARTNAME=//p' "$part/uevent")"
	done
}

# freshly_flashed DISK: the image has no boot-b, and the first boot makes one.
freshly_flashed() {
	! parts "$1" | grep -q ' boot-b$'
}

# make_parts DISK: with the definitions of the image. Nothing of the disk is mounted.
make_parts() {
	[ -n "$(ls /etc/repart.d)" ] || return 0
	systemd-repart --dry-run=no --empty=allow --discard=no --definitions=/etc/repart.d --pretty=no --no-legend "/dev/$1" || {
		echo "initrd: the partitions that are missing on /dev/$1 could not be made"
		return 1
	}
	# It tells the kernel of the new ones without their names.
	blockdev --rereadpt "/dev/$1"
}

# label_parts DISK: the nodes by their names, as udev has them.
label_parts() {
	mkdir -p /dev/disk/by-partlabel
	parts "$1" | while read -r node name; do
		[ -z "$name" ] || ln -sf "../../$node" "/dev/disk/by-partlabel/$name"
	done
}

# sticks_settle: waits until every stick that is plugged in has its disk, some seconds at
# most.
sticks_settle() {
	n=0
	while [ $n -lt 50 ]; do
		waiting=no
		for class in /sys/bus/usb/devices/*/bInterfaceClass; do
			[ -f "$class" ] && [ "$(cat "$class")" = 08 ] || continue
			[ -n "$(ls -d "${class%/*}"/host*/target*/*/block/* 2>/dev/null)" ] || waiting=yes
		done
		[ $waiting = yes ] || return
		sleep 0.1
		n=$((n + 1))
	done
}

# mount_data DIR: mounts the data partition. If it does not mount, it is checked; if it is
# blank, a new file system is made. Otherwise it is left unchanged, and first-boot takes no
# configuration until the partition is repaired.
mount_data() {
	data=/dev/disk/by-partlabel/data
	[ -b $data ] || {
		echo "initrd: there is no partition named data"
		return 1
	}
	mkdir -p "$1"
	! mount -t f2fs -o noatime $data "$1" || return 0
	if blank $data; then
		echo "initrd: $(readlink -f $data) is empty: formatting /data again"
		make_data "$1" && return 0
	else
		echo "initrd: $(readlink -f $data) does not mount: checking it"
		fsck.f2fs -f -y $data
		! mount -t f2fs -o noatime $data "$1" || return 0
	fi
	echo "initrd: /data cannot be mounted; to start over, write zeros to the first 64 KiB of $(readlink -f $data)"
	return 1
}

# blank PARTITION: its first 64 KiB are zeros, so it has no file system.
blank() {
	[ "$(head -c 65536 "$1" | tr -d '\0' | wc -c)" = 0 ]
}

# make_data DIR: makes the file system and its directories, as the definition of the
# partition says, and mounts it.
make_data() {
	definition=$(grep -l '^Label=data$' /etc/repart.d/*.conf) || return 1
	mkfs.f2fs -q -f -l data $data && mount -t f2fs -o noatime $data "$1" || return 1
	for dir in $(sed -n 's/^MakeDirectories=//p' "$definition"); do
		mkdir -p "$1$dir"
	done
}
