# Functions of the initrds of all starters. init, the program to hand over to, is /sbin/init
# unless the kernel's command line has another.
init=/sbin/init

start() {
	export PATH=/bin
	mount -t devtmpfs dev /dev
	mount -t proc proc /proc
	mount -t sysfs sys /sys
	mount -t tmpfs -o mode=0755 run /run
	while read -r module; do
		insmod "$module" 2>/dev/null
	done </modules
}

# die reboots, because another slot may work, unless a key is pressed for a shell.
die() {
	echo "initrd: $*"
	echo "initrd: rebooting in 5 seconds; press Enter for a shell"
	if read -r -t 5 _; then
		echo "initrd: leave it to reboot"
		setsid cttyhack sh
	fi
	reboot -f
}

# wait_for DISK SECONDS
wait_for() {
	n=0
	while [ ! -b "$1" ] && [ $n -lt $(($2 * 10)) ]; do
		sleep 0.1
		n=$((n + 1))
	done
	[ -b "$1" ] || {
		echo "initrd: $1 did not appear in $2 seconds"
		return 1
	}
}

# hand_over goes on in the file system at /sysroot.
hand_over() {
	for dir in dev proc sys run; do
		mount --move /$dir /sysroot/$dir
	done
	exec switch_root /sysroot "$init"
}
