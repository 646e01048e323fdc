#!/bin/sh
# What udhcpc does with the answer of a network's gateway.
case $1 in
deconfig)
	ip addr flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/$mask" dev "$interface"
	[ -n "$router" ] && ip route add default via "${router%% *}" 2>/dev/null
	{
		[ -n "$domain" ] && echo "search $domain"
		for server in $dns; do echo "nameserver $server"; done
	} > /etc/resolv.conf
	[ -n "$hostname" ] && echo "$hostname" > /proc/sys/kernel/hostname
	;;
esac
:
