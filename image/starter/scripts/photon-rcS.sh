#!/bin/sh
# Runs once, before the console: mounts what /etc/fstab lists beside the root,
# counts the boot, and prints the file systems of the root.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
hostname "$(cat /etc/hostname)"

# options LIST: prints the options of fstab that are for mount(2).
options() {
	for o in $(echo "$1" | tr , ' '); do
		case $o in
		defaults | nofail | pri=* | x-*) ;;
		*) printf ,%s "$o" ;;
		esac
	done
}

while read -r spec where type opts _; do
	case $spec:$where in
	:* | "#"* | *:/) continue ;;
	esac
	if [ ! -b "$spec" ]; then
		echo "fstab: there is no $spec for $where"
	elif [ "$type" = swap ]; then
		swapon "$spec" # Debian's busybox knows no priorities
	else
		mkdir -p "$where"
		mount -t "$type" -o "rw$(options "$opts")" "$spec" "$where"
	fi
done </etc/fstab

# mounted FOLDER: device, type and ro or rw of what is mounted there.
mounted() {
	found=
	while read -r dev dir type opts _; do
		[ "$dir" != "$1" ] || found="$dev $type ${opts%%,*}"
	done </proc/mounts
	echo "$found"
}

while read -r dev _ size _; do
	[ "$dev" = Filename ] || echo "swap on $dev, $((size / 1024)) MiB"
done </proc/swaps
for dir in /media/plugin-data /media/scratch /media/rpi; do
	what=$(mounted $dir)
	[ -z "$what" ] || echo "$dir mounted: $what"
done
for dir in /var/lib/docker /etc/rancher /var/lib/kubelet /var/lib/rancher; do
	if [ -L $dir ] && [ -d $dir ]; then
		echo "$dir -> $(readlink -f $dir)"
	elif [ -L $dir ]; then
		echo "$dir leads nowhere"
	fi
done

boots=$(($(cat /var/lib/boots 2>/dev/null) + 1))
(echo $boots >/var/lib/boots) 2>/dev/null || boots=unknown
sync

. /etc/os-release
set -- $(mounted /)
root=$2
if [ "$2" = overlay ]; then
	set -- $(mounted /media/root-ro) $(mounted /media/root-rw)
	upper=$4
	[ "$5" != tmpfs ] || upper=tmpfs
else
	upper=none
fi
echo "imgtool photon starter ready: root $root on $1 ($2 $3), upper $upper, boot $boots, build $BUILD_ID"
