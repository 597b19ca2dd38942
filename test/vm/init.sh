#!/bin/busybox sh
# The first process: loads modules and moves to a root that is no initramfs,
# since containers cannot pivot away from that.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r m; do
	$b insmod "/modules/$m" || echo "guest: module $m does not load"
done </modules/order
$b mkdir /new
$b mount -t tmpfs -o size=80%,mode=755 root /new
$b mkdir -p /new/proc /new/sys /new/dev /new/tmp /new/run /new/var /new/etc /new/root /new/bin
$b mv /bin/busybox /bin/proa /bin/guest /new/bin/
b=/new/bin/busybox
$b mv /image.tar /new/root/
for d in proc sys dev; do $b mount --move /$d /new/$d; done
exec $b switch_root /new /bin/busybox sh /bin/guest
