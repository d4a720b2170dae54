#!/bin/sh
# The first process of a test host, in namespaces of its own. Waits for its network, lays a file
# system of its own over the Debian root, enters it, and becomes the SSH server.
#
# From the environment: AREA (an empty directory to mount on), ROOT, NAME, ADDRESS (with its prefix
# length), GATEWAY, DISK (size of what it may write), FILES (a directory that is laid over the root),
# PYTHON (a folder of this computer that is /opt/python on the host, read only; may be empty).
set -eu

read -r _ # the interface is there
ip link set lo up
ip addr add "$ADDRESS" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
hostname "$NAME"

mount --make-rprivate /
mount -t tmpfs -o "size=$DISK,mode=755" tmpfs "$AREA"
mkdir "$AREA/upper" "$AREA/work" "$AREA/root"
mount -t overlay overlay \
    -o "lowerdir=$FILES:$ROOT,upperdir=$AREA/upper,workdir=$AREA/work" "$AREA/root"
cd "$AREA/root"

if [ -n "$PYTHON" ]; then
    mkdir opt/python
    mount --bind "$PYTHON" opt/python
    mount -o remount,bind,ro opt/python
fi

mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/sshd run/lock run/outside
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty kmsg; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

pivot_root . run/outside
cd /
umount -l /run/outside
rmdir /run/outside
touch /etc/born
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 /usr/sbin/sshd -D -e
