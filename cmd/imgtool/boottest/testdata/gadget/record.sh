#!/bin/busybox sh
# What the machine of record_test.go does: it shows each kind of disk QEMU has, and
# writes down what the kernel says of them.
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /tmp /run /mnt
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r m; do
	insmod "$m" || echo "no module $m"
done </modules.order
for try in $(seq 100); do
	[ -e /dev/sdb ] && [ -e /dev/mmcblk0 ] && [ -e /dev/nvme0n1 ] && break
	sleep 0.2
done
# Somebody uses one of them.
mount -t ext4 /dev/vda /mnt
mkswap /dev/nvme0n1 >/dev/null
swapon /dev/nvme0n1
/bin/disk.test -test.run TestRecord -record /tmp/machine >/dev/null
echo "machine begins"
cat /tmp/machine
echo "machine ends"
echo "done "
poweroff -f
