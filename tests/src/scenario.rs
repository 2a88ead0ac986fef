//! What a Linux host does with a disk, as scripts for a [`Guest`](crate::Guest).
//!
//! They run against the Linux kernel's own target as well, so that a script that can only
//! succeed, or can only fail, is noticed.

/// The port of NVMe/TCP, for I/O and, here, for discovery as well.
pub const PORT: u16 = 4420;

/// Loads what a host needs.
pub const LOAD: &str = "modprobe -a nvme_tcp ext4";

/// Which digests a connection asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digests {
    /// Neither.
    None,
    /// Of headers only.
    Header,
    /// Of data only.
    Data,
    /// Both.
    Both,
}

impl Digests {
    /// Every combination.
    pub const ALL: [Digests; 4] = [Digests::None, Digests::Header, Digests::Data, Digests::Both];

    fn flags(self) -> &'static str {
        match self {
            Digests::None => "",
            Digests::Header => "--hdr-digest",
            Digests::Data => "--data-digest",
            Digests::Both => "--hdr-digest --data-digest",
        }
    }
}

/// Prints the discovery log page.
#[must_use]
pub fn discover(address: &str) -> String {
    format!("set -e; {LOAD}; nvme discover -t tcp -a {address} -s {PORT}")
}

/// Prints the discovery log page and keeps the connection, to be told of changes.
#[must_use]
pub fn discover_and_stay(address: &str) -> String {
    format!("set -e; {LOAD}; nvme discover -t tcp -a {address} -s {PORT} --persistent")
}

/// Prints the discovery log page as the connection of [`discover_and_stay`] has it.
pub const DISCOVER_AGAIN: &str = "set -e
discovery=$(controller_of nqn.2014-08.org.nvmexpress.discovery)
nvme discover -d ${discovery##*/}";

/// Has the kernel note the asynchronous events that controllers send.
pub const TRACE_EVENTS: &str = "set -e
modprobe nvme_tcp
mount -t tracefs trace /sys/kernel/tracing
echo 1 >/sys/kernel/tracing/events/nvme/nvme_async_event/enable";

/// Succeeds once the kernel has noted a change of the discovery log page (NVMe Base 2.1, figure
/// 151: notice F0h, log page 70h).
pub const DISCOVERY_CHANGED: &str = "grep -q NVME_AEN=0x70f002 /sys/kernel/tracing/trace";

/// Connects to one subsystem and waits for its first controller.
///
/// Reconnecting is tried every second and not given up for ten minutes, as one does for a disk
/// that is mounted.
#[must_use]
pub fn connect(address: &str, nqn: &str, digests: Digests) -> String {
    let digests = digests.flags();
    format!(
        "set -e; {LOAD}
nvme connect -t tcp -a {address} -s {PORT} -n {nqn} \
  --reconnect-delay=1 --ctrl-loss-tmo=600 {digests}
until_ok 20 controller_of {nqn}"
    )
}

/// Connects to everything discovery names.
#[must_use]
pub fn connect_all(address: &str) -> String {
    format!(
        "set -e; {LOAD}
nvme connect-all -t tcp -a {address} -s {PORT} --reconnect-delay=1 --ctrl-loss-tmo=600
nvme list-subsys"
    )
}

/// Disconnects from one subsystem.
#[must_use]
pub fn disconnect(nqn: &str) -> String {
    format!("set -e; nvme disconnect -n {nqn}; until_ok 20 not controller_of {nqn}")
}

/// Writes to a namespace past the page cache and reads it back, in small and in large requests.
#[must_use]
pub fn compare_data(nqn: &str, nsid: u32) -> String {
    format!(
        "set -e; disk=$(wait_disk {nqn} {nsid})
dd if=/dev/urandom of=/run/wrote bs=1M count=4 2>/dev/null
for size in 4k 32k 1M; do
  dd if=/run/wrote of=$disk bs=$size oflag=direct conv=fsync 2>/dev/null
  dd if=$disk of=/run/read bs=$size count=4M iflag=direct,count_bytes 2>/dev/null
  cmp /run/wrote /run/read
done
rm /run/wrote /run/read; echo same"
    )
}

/// Makes ext4 on a namespace, mounts it on `/mnt`, and writes files with their checksums.
#[must_use]
pub fn make_file_system(nqn: &str, nsid: u32) -> String {
    format!(
        "set -e; disk=$(wait_disk {nqn} {nsid})
mkfs.ext4 -q $disk
mount $disk /mnt
mkdir /mnt/first
for i in $(seq 40); do
  dd if=/dev/urandom of=/mnt/first/$i bs=$((i * 3001)) count=5 2>/dev/null
done
(cd /mnt/first && sha256sum * >/mnt/first.sums)
sync; echo written"
    )
}

/// Compares the files of [`make_file_system`] on `/mnt` with their checksums, from the disk.
pub const CHECK_FIRST_FILES: &str = "set -e
echo 3 >/proc/sys/vm/drop_caches
cd /mnt/first
sha256sum --quiet -c /mnt/first.sums
wc -l </mnt/first.sums";

/// Starts writing more files with checksums to `/mnt` in the background, one after the other
/// and each made durable before its checksum is noted, until `/run/stop` appears.
pub const START_WRITING: &str = "set -e
mkdir -p /mnt/second; rm -f /run/stop /run/second.sums; touch /run/second.sums
(
  n=0
  while [ ! -e /run/stop ]; do
    n=$((n + 1))
    dd if=/dev/urandom of=/run/piece bs=40k count=3 2>/dev/null
    sum=$(sha256sum </run/piece)
    dd if=/run/piece of=/mnt/second/$n bs=8k conv=fsync 2>/run/writer.err ||
      { echo failed >/run/writer; exit 1; }
    echo \"${sum%-}$n\" >>/run/second.sums
  done
  echo ended >/run/writer
) >/dev/null 2>&1 &
until_ok 20 test -s /run/second.sums
echo started";

/// Prints how many files the writer has made durable.
pub const COUNT_WRITTEN: &str = "wc -l </run/second.sums";

/// Ends the writer and compares every file it noted, from the disk.
pub const STOP_WRITING: &str = "set -e
touch /run/stop
until_ok 60 test -e /run/writer
grep -q ended /run/writer || { cat /run/writer.err; exit 1; }
echo 3 >/proc/sys/vm/drop_caches
cd /mnt/second
sha256sum --quiet -c /run/second.sums
wc -l </run/second.sums";

/// Unmounts and has the file system checked from end to end.
#[must_use]
pub fn check_file_system(nqn: &str, nsid: u32) -> String {
    format!("set -e; umount /mnt; disk=$(wait_disk {nqn} {nsid}); e2fsck -fn $disk")
}

/// fio's jobs are processes that write to a pipe of its main one, which may have closed it already
/// when a slow guest gets to it; a job that dies of that says nothing about the disk.
const FIO_SIGNALS: &str = "trap '' PIPE";

/// fio with four jobs at depth 32, random writes of mixed sizes, everything verified.
#[must_use]
pub fn fio_verify(nqn: &str, nsid: u32) -> String {
    format!(
        "set -e; disk=$(wait_disk {nqn} {nsid})
cd /run; {FIO_SIGNALS}
fio --name=verify --filename=$disk --direct=1 --ioengine=libaio --iodepth=32 --numjobs=4 \
  --rw=randwrite --bssplit=4k/70:16k/20:128k/10 --size=4M --offset_increment=16M \
  --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_backlog=512 --randseed=77 \
  --group_reporting --eta=never"
    )
}

/// Starts writing and verifying in the background, over and over, until `/run/stop` appears.
#[must_use]
pub fn start_verifying(nqn: &str, nsid: u32) -> String {
    format!(
        "set -e; disk=$(wait_disk {nqn} {nsid})
cd /run; rm -f stop verified rounds; touch rounds
(
  {FIO_SIGNALS}
  while [ ! -e /run/stop ]; do
    fio --name=verify --filename=$disk --direct=1 --ioengine=libaio --iodepth=16 --numjobs=2 \
      --rw=randwrite --bssplit=4k/70:16k/20:128k/10 --size=2M --offset_increment=16M \
      --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_backlog=128 \
      --randseed=$((77 + $(wc -l </run/rounds))) --group_reporting --eta=never >/run/fio.log 2>&1 ||
      {{ echo failed >/run/verified; exit 1; }}
    echo round >>/run/rounds
  done
  echo ended >/run/verified
) >/dev/null 2>&1 &
until_ok 60 test -s /run/rounds
echo started"
    )
}

/// Waits until [`start_verifying`] has gone round once more from here.
pub const VERIFIED_MORE: &str = "rounds() { wc -l </run/rounds; }
before=$(rounds)
more() { [ $(rounds) -gt $((before + 1)) ] || [ -e /run/verified ]; }
until_ok 100 more
[ ! -e /run/verified ] || { cat /run/fio.log; false; }";

/// Ends [`start_verifying`], and fails if anything was wrong.
pub const STOP_VERIFYING: &str = "touch /run/stop
until_ok 150 test -s /run/verified
grep -qx ended /run/verified || { cat /run/fio.log; false; }";

/// Commands of `nvme` about a controller and a namespace that every target must answer.
#[must_use]
pub fn admin_commands(nqn: &str, nsid: u32) -> String {
    format!(
        "disk=$(wait_disk {nqn} {nsid}) && ctrl=$(controller_of {nqn}) || exit 1
failed=0
try() {{ echo \"# $*\"; \"$@\" || {{ echo \"! status $?: $*\"; failed=1; }}; }}
try nvme id-ctrl $ctrl
try nvme id-ns $disk
try nvme ns-descs $disk
try nvme list-ns $ctrl
try nvme list
try nvme list-subsys
try nvme smart-log $ctrl
try nvme error-log $ctrl
try nvme ana-log $ctrl
try nvme fw-log $ctrl
try nvme effects-log $ctrl
try nvme changed-ns-list-log $ctrl
try nvme get-feature $ctrl -f 7 -H
try nvme get-feature $ctrl -f 0xb -H
try nvme get-feature $ctrl -f 0xf
try nvme show-regs $ctrl
exit $failed"
    )
}

/// Makes this guest a target, with the Linux kernel's own nvmet: one subsystem, one namespace of
/// 128 MiB, on every address.
#[must_use]
pub fn reference_target(nqn: &str) -> String {
    format!(
        "set -e; modprobe null_blk nr_devices=0; modprobe -a nvmet nvmet_tcp
disk=/sys/kernel/config/nullb/nullb0; mkdir $disk
echo 128 >$disk/size; echo 1 >$disk/memory_backed; echo 1 >$disk/discard
echo 4096 >$disk/blocksize; echo 1 >$disk/power
sub=/sys/kernel/config/nvmet/subsystems/{nqn}; mkdir $sub
echo 1 >$sub/attr_allow_any_host
mkdir $sub/namespaces/1; echo -n /dev/nullb0 >$sub/namespaces/1/device_path
echo 1 >$sub/namespaces/1/enable
for family in ipv4 ipv6; do
  port=/sys/kernel/config/nvmet/ports/${{family#ipv}}; mkdir $port
  echo tcp >$port/addr_trtype; echo $family >$port/addr_adrfam; echo {PORT} >$port/addr_trsvcid
  case $family in
  ipv4) ip -4 -o addr show dev eth0 ;;
  ipv6) ip -6 -o addr show dev eth0 scope global ;;
  esac | awk '{{print $4}}' | cut -d/ -f1 | head -1 >$port/addr_traddr
  ln -s $sub $port/subsystems/
done"
    )
}

/// Adds a second, empty subsystem to [`reference_target`], on IPv4 only, and refers whoever asks
/// there for what is offered to the IPv6 port and to an address that nobody has.
#[must_use]
pub fn reference_referral(nqn: &str, ipv6: &str, nobody: &str) -> String {
    format!(
        "set -e; sub=/sys/kernel/config/nvmet/subsystems/{nqn}; mkdir $sub
echo 1 >$sub/attr_allow_any_host
ln -s $sub /sys/kernel/config/nvmet/ports/4/subsystems/
refer() {{
  referral=/sys/kernel/config/nvmet/ports/4/referrals/$1; mkdir $referral
  echo tcp >$referral/addr_trtype; echo $2 >$referral/addr_adrfam
  echo $3 >$referral/addr_traddr; echo {PORT} >$referral/addr_trsvcid
  echo 1 >$referral/enable
}}
refer six ipv6 {ipv6}
refer nobody ipv4 {nobody}"
    )
}
