//! Statistics as messages: OPI's 32-bit ones, and our own that lose nothing.

use api::ext::v1 as ext;
use api::handler::{Fact, FactValue};
use api::storage::v1::VolumeStats;
use blk::{IoError, Op, OpStats, Tally, bucket_upper_ns};

/// Nanoseconds in one of OPI's latency ticks, for which it names no unit: with microseconds the
/// 31 bits last as long as they can without losing sight of a single fast operation.
const NS_PER_TICK: u64 = 1_000;

/// OPI's counters: 32 bits that stay at their greatest value instead of going round.
pub(super) fn volume_stats(tally: &Tally) -> VolumeStats {
    let [read, write, unmap] = [Op::Read, Op::Write, Op::Unmap].map(|op| tally.op(op));
    VolumeStats {
        read_bytes_count: saturate(read.bytes),
        read_ops_count: saturate(read.ops),
        write_bytes_count: saturate(write.bytes),
        write_ops_count: saturate(write.ops),
        unmap_bytes_count: saturate(unmap.bytes),
        unmap_ops_count: saturate(unmap.ops),
        read_latency_ticks: saturate(read.ns / NS_PER_TICK),
        write_latency_ticks: saturate(write.ns / NS_PER_TICK),
        unmap_latency_ticks: saturate(unmap.ns / NS_PER_TICK),
    }
}

fn saturate(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Everything that was counted.
pub(super) fn io_stats(tally: &Tally) -> ext::IoStats {
    let op = |op: Op| Some(op_stats(tally.op(op)));
    ext::IoStats {
        read: op(Op::Read),
        write: op(Op::Write),
        flush: op(Op::Flush),
        unmap: op(Op::Unmap),
        write_zeroes: op(Op::WriteZeroes),
        compare: op(Op::Compare),
        in_flight: tally.in_flight,
    }
}

/// What else is known of a resource.
pub(super) fn fact(fact: &Fact) -> ext::Fact {
    let labels = fact.labels.iter();
    ext::Fact {
        name: fact.name.to_owned(),
        unit: fact.unit.to_owned(),
        description: fact.help.to_owned(),
        labels: labels
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect(),
        value: Some(match fact.value {
            FactValue::Counter(count) => ext::fact::Value::Counter(count),
            FactValue::Gauge(value) => ext::fact::Value::Gauge(value),
            FactValue::State { now, .. } => ext::fact::Value::State(now.to_owned()),
        }),
    }
}

fn op_stats(stats: &OpStats) -> ext::OpStats {
    let failed = |error: IoError| stats.by_error[error.index()];
    let buckets = stats
        .latency
        .0
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0);
    let buckets = buckets.map(|(index, count)| ext::latency_histogram::Bucket {
        // The last bucket has no bound of its own: its longest latency does.
        upper_bound_ns: match bucket_upper_ns(index) {
            u64::MAX => stats.ns_max,
            // Ours are the first latency above, the message has the longest within.
            above => above - 1,
        },
        count: *count,
    });
    ext::OpStats {
        ops: stats.ops,
        bytes: stats.bytes,
        errors: Some(ext::ErrorCounts {
            out_of_range: failed(IoError::OutOfRange),
            misaligned: failed(IoError::Misaligned),
            unsupported: failed(IoError::Unsupported),
            medium: failed(IoError::Medium),
            no_space: failed(IoError::NoSpace),
            miscompare: failed(IoError::Miscompare),
            denied: failed(IoError::Denied),
            transport: failed(IoError::Transport),
            offline: failed(IoError::Offline),
            aborted: failed(IoError::Aborted),
            busy: failed(IoError::Busy),
        }),
        latency: Some(ext::LatencyHistogram {
            buckets: buckets.collect(),
            sum_ns: stats.ns,
            min_ns: stats.ns_min,
            max_ns: stats.ns_max,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blk::{Nanos, Stats};

    fn tally() -> Tally {
        let stats = Stats::default();
        let counters = stats.open();
        for (result, us) in [
            (Ok(()), 5),
            (Ok(()), 7),
            (Err(IoError::NoSpace), 20_000_000),
        ] {
            counters.start();
            counters.end(Op::Write, 3 << 30, result, Nanos::from_micros(us));
        }
        stats.tally()
    }

    #[test]
    fn thirty_two_bits_stay_at_their_greatest_value() {
        let stats = volume_stats(&tally());
        assert_eq!(stats.write_bytes_count, i32::MAX);
        assert_eq!(stats.write_ops_count, 3);
        assert_eq!(stats.write_latency_ticks, 20_000_012);
        assert_eq!(stats.read_ops_count, 0);
    }

    #[test]
    fn a_fact_has_its_labels_and_the_value_of_its_sort() {
        let state = FactValue::State {
            now: "live",
            all: &["live", "lost"],
        };
        for (value, sent) in [
            (FactValue::Counter(3), ext::fact::Value::Counter(3)),
            (FactValue::Gauge(0.5), ext::fact::Value::Gauge(0.5)),
            (state, ext::fact::Value::State("live".to_owned())),
        ] {
            let told = fact(&Fact {
                name: "queues",
                help: "Queues.",
                unit: "",
                labels: vec![("nsid", "1".to_owned())],
                value,
            });
            assert_eq!((&*told.name, told.value), ("queues", Some(sent)));
            assert_eq!(told.labels["nsid"], "1");
        }
    }

    #[test]
    fn sixty_four_bits_lose_nothing() {
        let write = io_stats(&tally()).write.unwrap();
        assert_eq!((write.ops, write.bytes), (3, 6 << 30));
        assert_eq!(write.errors.unwrap().no_space, 1);
        let latency = write.latency.unwrap();
        assert_eq!((latency.min_ns, latency.max_ns), (5_000, 20_000_000_000));
        assert_eq!(latency.buckets.len(), 3);
        for (bucket, ns) in latency.buckets.iter().zip([5_000, 7_000, 20_000_000_000]) {
            assert!(bucket.upper_bound_ns >= ns, "{bucket:?}");
            assert_eq!(bucket.count, 1);
        }
    }
}
