#!/bin/bash
# First process of a test guest: set the system up, then serve commands from the harness.
#
# Commands arrive on a virtio serial port as "RUN id seconds bytes" and a newline, followed by
# that many bytes of script. The answer is "DONE id status bytes" and a newline, followed by that
# many bytes of output. One command runs at a time; what it leaves in the background lives on.
/usr/bin/busybox mkdir -p /bb && /usr/bin/busybox --install -s /bb
export PATH=/usr/sbin:/usr/bin:/bb HOME=/root TERM=dumb LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
modprobe -a virtio_net virtio_console configfs
mount -t configfs configfs /sys/kernel/config

# The command line carries what differs from guest to guest: lab.id, lab.ip4, lab.ip6.
for word in $(cat /proc/cmdline); do
    case $word in
    lab.id=*) id=${word#*=} ;;
    lab.ip4=*) ip4=${word#*=} ;;
    lab.ip6=*) ip6=${word#*=} ;;
    esac
done
hostname "guest$id"
mkdir -p /etc/nvme
printf '00000000-0000-4000-8000-%012d\n' "$id" >/etc/nvme/hostid
printf 'nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-%012d\n' "$id" >/etc/nvme/hostnqn
ip link set lo up
ip link set eth0 up
ip addr add "$ip4" dev eth0
ip -6 addr add "$ip6" dev eth0 nodad

# The port's device appears a moment after its driver.
port=
for _ in $(seq 100); do
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name" 2>/dev/null)" = lab ] && port=/dev/$(basename "$(dirname "$name")")
    done
    [ -n "$port" ] && [ -e "$port" ] && break
    sleep 0.1
done
exec 3<>"$port"
echo "READY 0 0 0" >&3

while read -r verb id seconds bytes <&3; do
    [ "$verb" = RUN ] || continue
    IFS= read -r -N "$bytes" script <&3
    printf '%s' "$script" >/run/step.sh
    timeout -k 5 "$seconds" bash /run/step.sh >/run/step.out 2>&1 </dev/null
    status=$?
    bytes=$(stat -c %s /run/step.out)
    echo "lab: step $id ended with $status" >/dev/kmsg
    { echo "DONE $id $status $bytes"; head -c "$bytes" /run/step.out; } >&3
done
echo "lab: the command port closed"
echo o >/proc/sysrq-trigger
sleep 5
