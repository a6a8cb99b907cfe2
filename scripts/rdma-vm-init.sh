#!/bin/busybox sh
# The first process of the virtual machine of rdma-vm.sh: loads the modules, makes the host's files its root, brings up
# two soft-RoCE devices, runs the job and switches the machine off.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
while read -r module; do insmod "/modules/$module" || echo "cannot load $module"; done </modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro,msize=262144 host /host || echo "cannot mount the host's files"
mount -t proc proc /host/proc
mount -t sysfs sysfs /host/sys
mount -t devtmpfs devtmpfs /host/dev
mkdir -p /host/dev/shm
mount -t tmpfs shm /host/dev/shm
mount -t tmpfs run /host/run
cp /job /host/run/job
cat >/host/run/start <<'END'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
for number in 0 1; do
  # Jumbo frames: a packet costs the emulated processor more than its bytes.
  ip link add "rail$number" mtu 9000 type dummy
  ip address add "10.214.$number.1/24" dev "rail$number"
  ip link set "rail$number" up
  rdma link add "rxe$number" type rxe netdev "rail$number"
done
ulimit -l unlimited
bash /run/job
END
echo '### job begins'
chroot /host /bin/sh /run/start
echo "### job ended with $?"
# What the kernel says next would overtake it.
sleep 0.3
echo o >/proc/sysrq-trigger
sleep 10
