# A reduced version of Ubuntu's package overlayroot: mounts an overlay over the root file
# system at $rootmnt as configured in its /etc/overlayroot.conf, and sets overlaid.
# recurse= and swap= are for the rest of the fstab, which is left alone here.
overlayroot=
[ ! -r $rootmnt/etc/overlayroot.conf ] || . $rootmnt/etc/overlayroot.conf

dev= timeout=1
for option in $(echo "${overlayroot#*:}" | tr , ' '); do
	case $option in
	dev=*) dev=${option#*=} ;;
	timeout=*) timeout=${option#*=} ;;
	esac
done

lower=/media/root-ro upper=/media/root-rw
mkdir -p $lower $upper
case ${overlayroot%%:*} in
"" | disabled) ;;
tmpfs) mount -t tmpfs -o mode=0755 tmpfs-root $upper && overlaid=yes ;;
device) wait_for "$dev" "$timeout" && mount -t ext4 "$dev" $upper && overlaid=yes ;;
*) echo "initrd: overlayroot=$overlayroot is not known" ;;
esac

if [ $overlaid = yes ]; then
	mount --move $rootmnt $lower
	mkdir -p $upper/overlay $upper/overlay-workdir
	mount -t overlay -o lowerdir=$lower,upperdir=$upper/overlay,workdir=$upper/overlay-workdir overlayroot $rootmnt ||
		die "no overlay on $root"
	for dir in $lower $upper; do
		mkdir -p $rootmnt$dir
		mount --move $dir $rootmnt$dir
	done
elif [ -n "${overlayroot#disabled}" ]; then
	echo "initrd: the root has no overlay"
fi
