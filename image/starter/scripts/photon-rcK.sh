#!/bin/sh
# Runs once, before the power is cut. An overlay keeps its upper layer busy, which
# is only left clean when it is read-only.
export PATH=/bin:/sbin
swapoff -a
sync
mount -o remount,ro /
mount -o remount,ro /media/root-rw 2>/dev/null
umount -a -r 2>/dev/null
