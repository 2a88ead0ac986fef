//! Processor time of processes, and binding threads to processors.

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Nanoseconds of a clock tick in `/proc/<pid>/stat`: USER_HZ is 100 on every Linux ABI.
const TICK_NS: u64 = 10_000_000;

/// Time that all threads of a process were on a processor; `None` if there is no such process.
pub(crate) fn used_by(pid: u32) -> Option<Duration> {
    by_scheduler(pid).or_else(|| by_ticks(pid))
}

/// The same for this process, with the threads that have ended.
pub(crate) fn used_here() -> Option<Duration> {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).ok()
}

/// The scheduler's own account, in nanoseconds, of the threads there are now.
fn by_scheduler(pid: u32) -> Option<Duration> {
    let mut total = 0_u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end between the listing and the reading.
        let Ok(text) = std::fs::read_to_string(task.ok()?.path().join("schedstat")) else {
            continue;
        };
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (total > 0).then(|| Duration::from_nanos(total))
}

fn by_ticks(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold anything, but ends in the last bracket.
    let (_, fields) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |i: usize| fields.get(i)?.parse::<u64>().ok();
    // Fields 14 and 15 of the line: utime and stime.
    Some(Duration::from_nanos((ticks(11)? + ticks(12)?) * TICK_NS))
}

/// Binds the calling thread to one processor.
///
/// # Errors
/// There is no such processor, or this process may not use it.
pub(crate) fn bind(processor: usize) -> Result<(), String> {
    if processor >= CpuSet::MAX_CPU {
        return Err(format!("processor {processor} does not exist"));
    }
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).map_err(|e| format!("cannot use processor {processor}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_some_time_and_a_missing_one_none() {
        assert!(used_here().is_some());
        assert!(by_ticks(std::process::id()).is_some());
        // The kernel gives out no process number this high.
        assert!(used_by(u32::MAX).is_none());
    }

    #[test]
    fn a_processor_that_does_not_exist_is_refused() {
        assert!(bind(1_000_000).unwrap_err().contains("1000000"));
    }
}
