//! How much memory volumes may hold: a setting, or a share of what there is.

use std::fs::read_to_string;
use std::path::Path;

/// The share of the available memory that volumes may hold, in quarters. The rest is for the
/// buffers of commands, the tables of connections, and everybody else on the machine.
const QUARTERS: u64 = 3;

/// Sets the budget of the volumes; 0 stands for a share of what is available now.
pub(super) fn set_budget(mib_max: u64) {
    let available = available(Path::new("/"));
    let bytes = match (mib_max, available) {
        (0, Some(bytes)) => bytes / 4 * QUARTERS,
        (0, None) => {
            tracing::warn!("the available memory is not known; set memory-mib-max to bound it");
            u64::MAX
        }
        (mib, _) => mib.saturating_mul(1 << 20),
    };
    if let Some(available) = available.filter(|&available| bytes > available && mib_max > 0) {
        let mib_available = available >> 20;
        tracing::warn!(
            mib_max,
            mib_available,
            "memory-mib-max is more than what is available now"
        );
    }
    tracing::debug!(mib = bytes >> 20, "memory for volumes");
    blk::VOLUME_MEMORY.resize(bytes);
}

/// Bytes that the process may come to use: what the kernel calls available, and no more than the
/// limits of its control groups. `root` is `/` but in tests.
fn available(root: &Path) -> Option<u64> {
    let info = read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| limit(root, line));
    Some(limits.fold(kib.saturating_mul(1024), u64::min))
}

/// The least memory limit of a control group, as `/proc/self/cgroup` names it, and of those above
/// it.
fn limit(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|one| one == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    let group = Path::new(group.trim_start_matches('/'));
    // "max", and what is not there, is no limit.
    let read = |above: &Path| read_to_string(root.join(mount).join(above).join(file)).ok();
    let limits = group.ancestors().filter_map(read);
    limits.filter_map(|text| text.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       9000000 kB\nMemFree: 5 kB\nMemAvailable:    8000000 kB\n",
    );

    #[test]
    fn what_the_kernel_calls_available_counts_and_no_knowledge_is_none() {
        assert_eq!(available(machine(&[]).path()), None);
        let plain = machine(&[MEMINFO]);
        assert_eq!(available(plain.path()), Some(8_000_000 * 1024));
    }

    #[test]
    fn the_least_limit_on_the_way_up_the_control_groups_counts() {
        let second = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "1073741824\n"),
        ]);
        assert_eq!(available(second.path()), Some(1 << 30));
        let first = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "5:pids:/c\n4:cpu,memory:/c\n0::/\n"),
            ("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1048576\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        assert_eq!(available(first.path()), Some(1 << 20));
    }
}
