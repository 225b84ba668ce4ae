#!/bin/sh
# Becomes Debian's systemd, as process 1 of namespaces that unshare(1) has just made.
#
# The root is this machine's with an overlay in memory: what is written is gone with the namespaces.
# STAGE: an empty directory; REPOSITORY is seen at /media; UNIT: what is started.
set -eu
stage=$1 repository=$2 unit=$3

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$stage"
mkdir "$stage/upper" "$stage/work" "$stage/root"
mount -t overlay -o "lowerdir=/,upperdir=$stage/upper,workdir=$stage/work" overlay "$stage/root"
mount --bind "$repository" "$stage/root/media"
cd "$stage/root"

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,rw,bind proc/sys/net
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty fuse; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t mqueue mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for number in 0 1 2; do
    ln -s "fd/$number" "dev/$(echo stdin stdout stderr | cut -d' ' -f $((number + 1)))"
done
for directory in run home; do mount -t tmpfs -o mode=755 tmpfs "$directory"; done
for directory in tmp var/tmp dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$directory"; done

# Of what this machine's owner has enabled nothing is started.
rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires
# Settings of the kernel are not this host's alone, and its clock and disks are nobody's here.
for unit_left_out in \
    dev-hugepages.mount sys-fs-fuse-connections.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount systemd-modules-load.service systemd-random-seed.service \
    systemd-remount-fs.service systemd-sysctl.service systemd-timesyncd.service \
    systemd-udevd.service systemd-update-utmp.service; do
    ln -sf /dev/null "etc/systemd/system/$unit_left_out"
done
mkdir -p etc/systemd/logind.conf.d
printf '[Login]\nUserStopDelaySec=1s\n' >etc/systemd/logind.conf.d/test.conf
rm -f etc/machine-id
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
ssh-keygen -A -f . >/dev/null
cat >"etc/systemd/system/$unit" <<END
[Unit]
Requires=basic.target
After=basic.target
Wants=dbus.socket systemd-logind.service systemd-user-sessions.service
Wants=ssh.service cron.service atd.service
AllowIsolate=yes
END

pivot_root . srv
umount -l /srv
exec env -i container=remotegpu-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd "--unit=$unit" --show-status=no
