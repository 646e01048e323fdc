#!/bin/sh
# The first process of asyncvmm's guests (initramfs and root disk): mounts, drivers, the run agent
# (specs/run-protocol.md), then an init with a shell on the console. Every command here costs the guest
# a million instructions, so what the shell can do itself is done by the shell.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
[ -d /dev/pts ] || { mount -t devtmpfs dev /dev; mkdir -p /dev/pts /dev/shm; }
mount -a 2>/dev/null
agent=/sbin/asyncvmm-agent
read -r command_line < /proc/cmdline
for word in $command_line; do
	case $word in
	asyncvmm.run=1) only_run=1 ;;
	asyncvmm.overlay=1) overlay=1 ;;
	root=/dev/*) root=${word#root=} ;;
	rootfstype=*) type=${word#*=} ;;
	ro | rw) mode=$word ;;
	esac
done

if [ -s /lib/modules/asyncvmm.order ]; then
	read -r order < /lib/modules/asyncvmm.order
	$agent + $order
fi

if [ -n "$root" ] && [ ! -e /etc/asyncvmm-root ]; then
	tries=0
	while [ ! -b "$root" ] && [ $tries -lt 50 ]; do
		sleep 0.1
		tries=$((tries + 1))
	done
	if mount -t "${type:-ext4}" -o "${mode:-ro}" "$root" /mnt; then
		mount --move /dev /mnt/dev && mount --move /proc /mnt/proc && mount --move /sys /mnt/sys
		umount /dev/pts /run 2>/dev/null
		exec switch_root /mnt /sbin/init
	fi
	echo "asyncvmm: $root cannot be mounted; this is the shell of the initramfs" > /dev/console
fi

# A root disk that is shared and read-only: what the guest writes goes to its own memory.
if [ -n "$overlay" ] && [ -e /etc/asyncvmm-root ] && [ ! -d /run/overlay ]; then
	mkdir /run/overlay
	mount -t tmpfs -o size=80% tmpfs /run/overlay
	mkdir /run/overlay/upper /run/overlay/work
	if mount -t overlay -o lowerdir=/,upperdir=/run/overlay/upper,workdir=/run/overlay/work \
		overlay /mnt; then
		for place in /dev /proc /sys /run; do mount --rbind $place /mnt$place; done
		exec chroot /mnt /sbin/init
	fi
	echo 'asyncvmm: no overlay; the root is read-only' > /dev/console
fi

echo asyncvmm > /proc/sys/kernel/hostname
ip link set lo up
for card in /sys/class/net/eth*; do
	[ -e "$card" ] || break
	card=${card##*/}
	ip link set "$card" up
	busybox udhcpc -i "$card" -f -n -q -t 3 -T 1 -A 1 -s /sbin/asyncvmm-network > /dev/null 2>&1
done

console=
read -r consoles < /sys/class/tty/console/active
for word in $consoles; do console=$word; done

# The ports of a virtio-console appear a moment after its driver.
tries=0
for device in /sys/bus/virtio/drivers/virtio_console/virtio*; do
	[ -e "$device" ] && tries=50
done
while :; do
	for port in /sys/class/virtio-ports/*; do
		name=
		[ -e "$port/name" ] && read -r name < "$port/name"
		[ "$name" = asyncvmm.run ] && break 2
	done
	port=
	[ $tries -gt 0 ] || break
	tries=$((tries - 1))
	sleep 0.02
done
cd /root
agent_line=
if [ -n "$port" ]; then
	[ -n "$only_run" ] && exec $agent "/dev/${port##*/}" "/dev/$console"
	agent_line="::respawn:$agent /dev/${port##*/} /dev/$console"
fi

shell=/bin/sh
[ -x /bin/bash ] && shell=/bin/bash
cat > /run/inittab << END
${console:-console}::respawn:-$shell
$agent_line
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/sync
::shutdown:/bin/sh -c 'mount -o remount,ro / 2>/dev/null'
END
exec busybox init
