# Shell functions at hand in every step; sent along with it, so a change needs no new image.

# until SECONDS COMMAND...: repeats a command until it succeeds.
until_ok() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "not in time: $*"; return 1; }
        sleep 0.1
    done
}

# subsystem_of NQN: the folder in sysfs of a connected subsystem.
subsystem_of() {
    local s
    for s in /sys/class/nvme-subsystem/nvme-subsys*; do
        [ "$(cat "$s/subsysnqn" 2>/dev/null)" = "$1" ] && { echo "$s"; return 0; }
    done
    return 1
}

# controller_of NQN: the device of the first controller of a subsystem.
controller_of() {
    local s c
    s=$(subsystem_of "$1") || return 1
    for c in "$s"/nvme[0-9]*; do
        c=${c##*/}
        [[ $c =~ ^nvme[0-9]+$ ]] && [ -e "/dev/$c" ] && { echo "/dev/$c"; return 0; }
    done
    return 1
}

# disk_of NQN NSID: the block device of a namespace, as multipathing names it.
disk_of() {
    local s d
    s=$(subsystem_of "$1") || return 1
    for d in "$s"/nvme*n*; do
        [[ ${d##*/} =~ ^nvme[0-9]+n[0-9]+$ ]] || continue
        [ "$(cat "$d/nsid" 2>/dev/null)" = "$2" ] && [ -b "/dev/${d##*/}" ] &&
            { echo "/dev/${d##*/}"; return 0; }
    done
    return 1
}

# wait_disk NQN NSID: the same, waiting for it to appear.
wait_disk() {
    until_ok 30 disk_of "$1" "$2" >/dev/null || { echo "no disk for $1 $2"; nvme list-subsys; return 1; } >&2
    disk_of "$1" "$2"
}

# no_disk NQN NSID: waits until a namespace is gone.
no_disk() { until_ok 30 not disk_of "$1" "$2"; }

not() { ! "$@" >/dev/null 2>&1; }

# path_to NQN ADDRESS: the folder in sysfs of the controller that is reached at an address.
path_to() {
    local s c
    s=$(subsystem_of "$1") || return 1
    for c in "$s"/nvme[0-9]*; do
        [[ ${c##*/} =~ ^nvme[0-9]+$ ]] && grep -q "traddr=$2," "$c/address" &&
            { echo "$c"; return 0; }
    done
    return 1
}

# ana_state_is NQN NSID ADDRESS STATE: whether the path at an address is live, and the kernel sees
# a namespace through it in this state.
ana_state_is() {
    local c n
    c=$(path_to "$1" "$3") && [ "$(cat "$c/state")" = live ] || return 1
    for n in "$c"/nvme*c*n*; do
        [ "$(cat "$n/nsid" 2>/dev/null)" = "$2" ] && [ "$(cat "$n/ana_state")" = "$4" ] && return 0
    done
    return 1
}
