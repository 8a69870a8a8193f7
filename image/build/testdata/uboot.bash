# U-Boot's commands for boot.scr, whose syntax bash shares with U-Boot's shell. The disk
# is disk.img; the files of partition N are in part/N; memory at ADDRESS is mem.ADDRESS.
# What was done to the disk is in the file trace.
set -f # U-Boot does not expand names of files
ENV=
setenv() {
	local name=$1
	shift
	if [ $# = 0 ]; then unset "$name"; else printf -v "$name" %s "$*"; fi
	case " $ENV " in *" $name "*) ;; *) ENV="$ENV $name" ;; esac
}
test() {
	if [ "$1" = ! ]; then
		shift
		! test "$@"
	elif [ "$1" = -e ]; then
		[ -e "part/${3#*:}/$4" ]
	else
		builtin test "$@"
	fi
}
load() {
	[ -e "part/${2#*:}/$4" ] || { echo "Failed to load '$4'"; return 1; }
	loaded=part/${2#*:}/$4
	filesize=1f
}
source() { . "./$loaded"; }
run() { eval "${!1}"; }
disk() {
	case $1 in
	dev) ;;
	read) dd status=none if=disk.img of="mem.$2" bs=512 skip=$(($3)) count=$(($4)) ;;
	write)
		[ ! -e protected ] || return 1
		echo "write $3 $4" >>trace
		dd status=none if="mem.$2" of=disk.img bs=512 seek=$(($3)) count=$(($4)) conv=notrunc
		;;
	esac
}
mmc() { disk "$@"; }
virtio() { disk "$@"; }
itest.l() { [ "$(od -An -tu4 -N4 "mem.${1#\*}" | tr -d ' ')" "$2" "$3" ]; }
env() {
	local action=$1 name value addr
	case $action in
	import) # -c ADDRESS SIZE NAME...
		addr=$3
		echo "$PWD/mem.$addr 0 $4" >mem.config
		shift 4
		fw_printenv -c mem.config >mem.vars 2>/dev/null || { echo "bad CRC"; return 1; }
		unset "$@"
		while IFS='=' read -r name value; do
			case " $* " in *" $name "*) setenv "$name" "$value" ;; esac
		done <mem.vars
		;;
	export) # -c -s SIZE ADDRESS NAME...
		local size=$4
		addr=$5
		shift 5
		for name; do [ -z "${!name+x}" ] || echo "$name=${!name}"; done >mem.vars
		mkenvimage -p 0 -s "$size" -o "mem.$addr" mem.vars
		;;
	esac
}
saveenv() {
	[ ! -e noenv ] || { echo "MMC: no card present"; return 1; }
	echo saveenv >>trace
	local name
	for name in $ENV; do [ -z "${!name+x}" ] || echo "$name=${!name}"; done >env.vars
	mkenvimage -p 0 -s 0x8000 -o env.bin env.vars
	dd status=none if=env.bin of=disk.img bs=512 seek=8128 conv=notrunc
}
sleep() { :; }
booti() { echo "BOOT $bootargs"; exit; }
reset() { echo RESET; exit; }
setenv kernel_addr_r 0x02080000
setenv ramdisk_addr_r 0x06000000
setenv fdt_addr_r 0x01f00000
setenv scriptaddr 0x00500000
