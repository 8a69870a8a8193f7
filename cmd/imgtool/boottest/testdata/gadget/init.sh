#!/bin/busybox sh
# What the machine of gadget_test.go does: it is a person's computer, and the
# Rock64 on its cable too. The test reads the lines "status" and "table".
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /tmp
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r m; do
	insmod "$m" || echo "no module $m"
done </modules.order
mount -t configfs config /sys/kernel/config

# The board says of itself what U-Boot's ums command does.
board=/sys/kernel/config/usb_gadget/rock64
lun=$board/functions/mass_storage.0/lun.0
mkdir $board
mkdir $board/strings/0x409 $board/configs/c.1 $board/functions/mass_storage.0
echo 0x2207 >$board/idVendor
echo 0x320c >$board/idProduct
echo Rockchip >$board/strings/0x409/manufacturer
echo "USB download gadget" >$board/strings/0x409/product
echo rock64-0001 >$board/strings/0x409/serialnumber
echo 1 >$lun/removable
echo "Linux   UMS disk 0      ffff" >$lun/inquiry_string
echo /dev/vda >$lun/file
ln -s $board/functions/mass_storage.0 $board/configs/c.1/

plug() {
	echo dummy_udc.0 >$board/UDC
}

# disk MODEL prints the name of a disk, once it is there.
disk() {
	for try in $(seq 150); do
		for d in /sys/block/sd*; do
			grep -q "$1" "$d/device/model" 2>/dev/null && basename "$d" && return
		done
		sleep 0.2
	done
	echo "no $1 after $try tries" >&2
}

uptime() {
	cut -d ' ' -f 1 /proc/uptime
}

# run NAME COMMAND... says how a command ended. What it prints goes through a
# pipe, where progress is a line for each phase.
run() {
	name=$1
	shift
	{
		echo "$name: $*"
		"$@" 2>&1
		echo "status $name $? ($(uptime) s)"
	} | tee "/tmp/$name"
}

# table WHEN says whether the board's eMMC has a partition table.
table() {
	if [ "$(dd if=/dev/vda bs=8 skip=64 count=1 2>/dev/null)" = "EFI PART" ]; then
		echo "table $1: there"
	else
		echo "table $1: none"
	fi
}

# midway NAME waits until an image is half on the disk.
midway() {
	stat=/sys/block/$(disk "UMS disk")/stat
	until grep -q ^writing "/tmp/$1"; do
		grep -q ^status "/tmp/$1" && return
		sleep 0.1
	done
	read -r _ _ _ _ _ _ begin _ <"$stat"
	# 2 MiB, in sectors.
	while read -r _ _ _ _ _ _ now _ <"$stat" && [ "$now" -lt $((begin + 4096)) ]; do
		sleep 0.1
	done
}

# pull_midway NAME pulls the cable when the image is half on the disk.
pull_midway() {
	midway "$1"
	echo >$board/UDC
	echo "the cable is out"
}

# eject_midway NAME takes the medium away then, as when the board gives up.
eject_midway() {
	midway "$1"
	echo 1 >$lun/forced_eject
	echo "the medium is out"
}

disk HARDDISK >/dev/null # the stick comes first
table before

# The board comes while imgtool waits for it. Without --delta no, less is written than midway waits for.
(sleep 1 && plug && pull_midway pulled) &
run pulled imgtool flash --yes --delta no --board rock64 --image /x.img.zst --timeout 60s
table pulled

(sleep 1 && plug && eject_midway ejected) &
run ejected imgtool flash --yes --delta no --board rock64 --image /x.img.zst --timeout 60s
wait
echo >$board/UDC
echo /dev/vda >$lun/file
table ejected

(sleep 1 && plug && disk "UMS disk" >/dev/null && run disks imgtool disks) &
run flashed imgtool flash --yes --board rock64 --image /x.img.zst --timeout 60s
wait
table flashed

sync
echo "done ($(uptime) s)"
poweroff -f
