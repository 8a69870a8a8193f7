#!/bin/busybox sh
# What the machine of gadget_test.go does: it is a person's computer and the
# Rock64 at its cable at once. Every "status" line is read by the test.
/bin/busybox --install -s /bin
mkdir -p /proc /sys
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r m; do
	insmod $m || echo "no module $m"
done </modules.order
mount -t configfs config /sys/kernel/config

# The identity is that of U-Boot's "ums 0 mmc 0" on a Rock64.
mkdir /sys/kernel/config/usb_gadget/rock64
cd /sys/kernel/config/usb_gadget/rock64
echo 0x2207 >idVendor
echo 0x320c >idProduct
mkdir strings/0x409 configs/c.1 functions/mass_storage.0
echo Rockchip >strings/0x409/manufacturer
echo "USB download gadget" >strings/0x409/product
echo rock64-0001 >strings/0x409/serialnumber
lun=functions/mass_storage.0/lun.0
echo 1 >$lun/removable
echo "Linux   UMS disk 0      ffff" >$lun/inquiry_string
echo /dev/vda >$lun/file
ln -s functions/mass_storage.0 configs/c.1
cd /

plug() { ls /sys/class/udc >/sys/kernel/config/usb_gadget/rock64/UDC; }
pull() { echo >/sys/kernel/config/usb_gadget/rock64/UDC; }


# run NAME COMMAND... says how a command ended, and that its output is no terminal.
run() {
	name=$1
	shift
	{
		echo "$name: $*"
		"$@" 2>&1
		echo "status $name $?, $(cut -d ' ' -f 1 /proc/uptime) s after power-on"
	} | cat
}

table() {
	if [ "$(dd if=/dev/vda bs=8 skip=64 count=1 2>/dev/null)" = "EFI PART" ]; then echo "table $1: there"; else echo "table $1: none"; fi
}

# disk NAME prints the disk of a model once it is there.
disk() {
	for d in $(seq 150); do
		for d in /sys/block/sd*; do
			grep -q "$1" "$d/device/model" 2>/dev/null && basename "$d" && return
		done
		sleep 0.2
	done
	echo "no $1" >&2
}

# pull_midway pulls the cable when MiB were written to the board.
pull_midway() {
	d=$(disk "UMS disk")
	while w=$(cut -c 1- /sys/block/$d/stat 2>/dev/null) && set -- $w && [ "$7" -lt $((24 * 2048)) ]; do
		sleep 0.1
	done
	pull
	echo "the cable is out after $7 sectors"
}

disk HARDDISK >/dev/null # the stick comes first
run disks-before imgtool disks
table before

# The board comes while imgtool waits for it, and goes in the middle.
(sleep 1; plug; pull_midway) &
run pulled imgtool flash --yes --board rock64 --image /x.img.zst --timeout 60s
table pulled

(sleep 1; plug; sleep 4; imgtool disks) &
run flash imgtool flash --yes --board rock64 --image /x.img.zst --timeout 60s
table flashed
run disks-after imgtool disks

sync
echo "done, $(cut -d ' ' -f 1 /proc/uptime) s after power-on"
poweroff -f
