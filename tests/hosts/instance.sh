#!/bin/sh
# The first process of an EC2-like instance, in namespaces of its own: starts the metadata service and
# boots the Debian root with systemd in a container of systemd-nspawn, which has cloud-init find its
# data as on EC2. Ends when the instance powers itself off.
#
# From the environment: AREA, ROOT, NAME, ADDRESS, GATEWAY, DISK, FILES as in init.sh; METADATA (the
# directory that the metadata service serves), PYTHON and IMDS (the program that serves it).
set -eu

read -r _ # the interface is there
ip link set lo up
ip addr add 169.254.169.254/32 dev lo
ip addr add "$ADDRESS" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
"$PYTHON" -I -S "$IMDS" 169.254.169.254 "$METADATA" &

mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o "size=$DISK,mode=755" tmpfs "$AREA"
mkdir "$AREA/upper" "$AREA/work" "$AREA/root"
mount -t overlay overlay \
    -o "lowerdir=$FILES:$ROOT,upperdir=$AREA/upper,workdir=$AREA/work" "$AREA/root"

# What nspawn takes for granted.
mount -t tmpfs -o mode=755 tmpfs /run/systemd 2>/dev/null || {
    mkdir -p /run/systemd
    mount -t tmpfs -o mode=755 tmpfs /run/systemd
}
mkdir -p /run/systemd/system
umount -R -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup

touch "$AREA/root/etc/born"
unshare --cgroup systemd-nspawn --quiet --register=no --keep-unit --resolv-conf=off \
    --console=pipe --directory="$AREA/root" --machine="$NAME" --boot </dev/null
