#!/bin/busybox sh
# The first process of the laboratory's dom0: lays the packages over the host's own tree, and goes on from there. What is written stays in memory.
export PATH=/bin
/bin/busybox --install -s /bin
fail() { echo "xen-lab: $*"; poweroff -f; }
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev || fail "no proc, sysfs or devtmpfs"
for module in $(cat /modules/order); do
    insmod "/modules/$module" || fail "module $module"
done
options=trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro
mount -t 9p -o "$options" packages /packages || fail "the packages by 9p"
mount -t 9p -o "$options" host /host || fail "the host's tree by 9p"
mount -t tmpfs -o size=50% changes /changes && mkdir /changes/upper /changes/work || fail "memory for changes"
mount -t overlay -o lowerdir=/packages:/host,upperdir=/changes/upper,workdir=/changes/work,xino=off overlay /root || fail "the overlay"
for folder in proc sys dev; do mount --move /$folder /root/$folder; done
script=$(sed 's/.*xen_lab=\([^ ]*\).*/\1/' /root/proc/cmdline)
exec switch_root /root /bin/bash "$script"
