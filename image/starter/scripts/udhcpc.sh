#!/bin/sh
# What udhcpc does with a lease: it has the interface, and asks for it once.
[ "$1" = bound ] || exit 0
ip address add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface"
for server in $dns; do
	echo "nameserver $server"
done >/etc/resolv.conf
echo "$interface has $ip"
