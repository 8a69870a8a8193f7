#!/bin/sh
# Runs once, before the console.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
hostname "$(cat /etc/hostname)"
slot=unknown
for arg in $(cat /proc/cmdline); do
	case $arg in
	rauc.slot=boot.0) slot=a ;;
	rauc.slot=boot.1) slot=b ;;
	esac
done
. /etc/os-release
root=$(while read -r _ dir type _; do [ "$dir" = / ] && echo "$type"; done </proc/mounts)
echo "imgtool starter ready: slot $slot, build $BUILD_ID, root $root"
