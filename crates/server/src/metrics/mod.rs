//! `/metrics` in the Prometheus text format 0.0.4: everything that is counted, by resource name.
//!
//! Base units, `_total` for counters, real histograms. A series appears once there is something to
//! say, so that a thousand idle volumes do not make a scrape slow. A state is a state set, as
//! exporters have it: one series for each word, 1 for the one that is true, so that an alert can
//! name any of them.

use api::handler::{Fact, FactValue, Health, Observed};
use blk::{BUCKETS, Op, OpStats, bucket_upper_ns};
use control::{Condition, Sight};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Buckets that are told: one for each doubling of the latency; clients interpolate between them.
const BUCKETS_PER_STEP: usize = 4;

/// One resource as it is now.
pub struct Row {
    /// Its collection, as in `mallocVolumes`.
    pub kind: &'static str,
    /// Its name, as in `mallocVolumes/m0`.
    pub name: String,
    /// What can be seen of it.
    pub observed: Observed,
}

impl From<Sight> for Row {
    fn from(sight: Sight) -> Self {
        let health = match sight.condition {
            Condition::Ready => Health::Online,
            Condition::Offline(reason) | Condition::Failed(reason) => Health::Offline(reason),
            Condition::Pending => Health::Offline("pending".to_owned()),
            Condition::Deleting => Health::Offline("deleting".to_owned()),
        };
        let observed = Observed {
            health,
            stats: sight.stats,
            facts: sight.facts,
        };
        Self {
            kind: &sight.name.kind().collection,
            name: sight.name.to_string(),
            observed,
        }
    }
}

/// What is true of the process as a whole.
pub struct Process {
    /// Version of the program.
    pub version: &'static str,
    /// How reactors wait: `uring` or `epoll`.
    pub io_engine: &'static str,
    /// Reactor threads.
    pub reactors: usize,
    /// Bytes of the page pool, in use or not.
    pub pool_bytes: usize,
}

/// A label value: backslash, quote and line feed are the three that need escaping.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

const fn op_name(op: Op) -> &'static str {
    match op {
        Op::Read => "read",
        Op::Write => "write",
        Op::Flush => "flush",
        Op::Unmap => "unmap",
        Op::WriteZeroes => "write_zeroes",
        Op::Compare => "compare",
    }
}

/// Each operation of each resource that has happened at all, with its labels.
fn busy(rows: &[Row]) -> Vec<(String, &OpStats)> {
    let mut all = Vec::new();
    for row in rows {
        let Some(stats) = &row.observed.stats else {
            continue;
        };
        for op in Op::ALL {
            if stats.op(op).ops > 0 {
                let (kind, name, op_name) = (row.kind, label(&row.name), op_name(op));
                let labels = format!("kind=\"{kind}\",name=\"{name}\",op=\"{op_name}\"");
                all.push((labels, stats.op(op)));
            }
        }
    }
    all
}

fn counters(out: &mut String, busy: &[(String, &OpStats)]) {
    type Pick = fn(&OpStats) -> u64;
    let families: [(&str, &str, Pick); 3] = [
        (
            "opi_io_operations_total",
            "Operations that ended, well or not.",
            |s| s.ops,
        ),
        (
            "opi_io_bytes_total",
            "Bytes moved or covered by operations that ended well.",
            |s| s.bytes,
        ),
        ("opi_io_errors_total", "Operations that failed.", |s| {
            s.errors
        }),
    ];
    for (name, help, pick) in families {
        head(out, name, "counter", help);
        for (labels, stats) in busy {
            let _ = writeln!(out, "{name}{{{labels}}} {}", pick(stats));
        }
    }
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn histograms(out: &mut String, busy: &[(String, &OpStats)]) {
    let name = "opi_io_latency_seconds";
    head(
        out,
        name,
        "histogram",
        "Time from submission to completion.",
    );
    for (labels, stats) in busy {
        let mut below = 0;
        for (bucket, count) in stats.latency.0.iter().enumerate().take(BUCKETS - 1) {
            below += count;
            if bucket % BUCKETS_PER_STEP == 0 {
                let bound = seconds(bucket_upper_ns(bucket));
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
            }
        }
        // One number for both, so that they agree while others count on.
        let all: u64 = stats.latency.0.iter().sum();
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", seconds(stats.ns));
        let _ = writeln!(out, "{name}_count{{{labels}}} {all}");
    }
}

fn gauges(out: &mut String, rows: &[Row]) {
    head(
        out,
        "opi_io_in_flight",
        "gauge",
        "Operations that have started and not ended.",
    );
    for row in rows {
        if let Some(stats) = &row.observed.stats {
            let (kind, name) = (row.kind, label(&row.name));
            let count = stats.in_flight;
            let _ = writeln!(
                out,
                "opi_io_in_flight{{kind=\"{kind}\",name=\"{name}\"}} {count}"
            );
        }
    }
    head(
        out,
        "opi_resource_online",
        "gauge",
        "1 if the resource serves, 0 if it is expected back.",
    );
    for row in rows {
        let (kind, name) = (row.kind, label(&row.name));
        let online = u8::from(row.observed.health == Health::Online);
        let _ = writeln!(
            out,
            "opi_resource_online{{kind=\"{kind}\",name=\"{name}\"}} {online}"
        );
    }
}

/// Facts, family by family: all lines of one stand together.
fn facts(out: &mut String, rows: &[Row]) {
    let mut families: BTreeMap<String, Vec<(&Row, &Fact)>> = BTreeMap::new();
    for row in rows {
        for fact in &row.observed.facts {
            families.entry(family(fact)).or_default().push((row, fact));
        }
    }
    for (name, members) in families {
        let (_, first) = members[0];
        let kind = match first.value {
            FactValue::Counter(_) => "counter",
            FactValue::Gauge(_) | FactValue::State { .. } => "gauge",
        };
        head(out, &name, kind, first.help);
        for (row, fact) in members {
            let mut labels = format!("kind=\"{}\",name=\"{}\"", row.kind, label(&row.name));
            for (key, value) in &fact.labels {
                let _ = write!(labels, ",{key}=\"{}\"", label(value));
            }
            let _ = match fact.value {
                FactValue::Counter(count) => writeln!(out, "{name}{{{labels}}} {count}"),
                FactValue::Gauge(value) => writeln!(out, "{name}{{{labels}}} {value}"),
                FactValue::State { now, all } => all.iter().try_for_each(|state| {
                    let is = u8::from(*state == now);
                    writeln!(out, "{name}{{{labels},state=\"{state}\"}} {is}")
                }),
            };
        }
    }
}

/// The name of the family of a fact: unit last, then `_total` for counters.
fn family(fact: &Fact) -> String {
    let mut name = format!("opi_{}", fact.name);
    if !fact.unit.is_empty() {
        let _ = write!(name, "_{}", fact.unit);
    }
    if let FactValue::Counter(_) = fact.value {
        name.push_str("_total");
    }
    name
}

fn process(out: &mut String, process: &Process) {
    let Process {
        version,
        io_engine,
        reactors,
        pool_bytes,
    } = process;
    head(
        out,
        "opi_build_info",
        "gauge",
        "Always 1; the labels say what runs.",
    );
    let _ = writeln!(
        out,
        "opi_build_info{{version=\"{version}\",io_engine=\"{io_engine}\"}} 1"
    );
    head(out, "opi_reactors", "gauge", "Threads that do I/O.");
    let _ = writeln!(out, "opi_reactors {reactors}");
    head(
        out,
        "opi_page_pool_bytes",
        "gauge",
        "Memory of the page pool, in use or not.",
    );
    let _ = writeln!(out, "opi_page_pool_bytes {pool_bytes}");
    if let Some((cpu, resident)) = own_usage() {
        head(
            out,
            "process_cpu_seconds_total",
            "counter",
            "CPU time of all threads.",
        );
        let _ = writeln!(out, "process_cpu_seconds_total {cpu}");
        head(
            out,
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
        );
        let _ = writeln!(out, "process_resident_memory_bytes {resident}");
    }
}

/// CPU time in seconds and resident bytes, from `/proc/self`.
fn own_usage() -> Option<(f64, u64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name may hold spaces; the fields after it start behind the last bracket.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let pages: u64 = fields.get(21)?.parse().ok()?;
    let hz = rustix::param::clock_ticks_per_second();
    Some((
        ticks as f64 / hz as f64,
        pages * rustix::param::page_size() as u64,
    ))
}

/// The whole page.
pub fn render(rows: &[Row], about: &Process) -> String {
    let mut out = String::new();
    process(&mut out, about);
    let busy = busy(rows);
    counters(&mut out, &busy);
    histograms(&mut out, &busy);
    gauges(&mut out, rows);
    facts(&mut out, rows);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use blk::{Nanos, Stats};

    fn facts() -> Vec<Fact> {
        let fact = |name, unit, labels, value| Fact {
            name,
            help: "Said of it.",
            unit,
            labels,
            value,
        };
        let all = &["live", "lost"];
        let state = FactValue::State { now: "lost", all };
        let nsid = vec![("nsid", "1\"".to_owned())];
        vec![
            fact("reconnects", "", vec![], FactValue::Counter(3)),
            fact("delay", "seconds", vec![], FactValue::Gauge(0.05)),
            fact("path_state", "", nsid, state),
        ]
    }

    fn page() -> String {
        let stats = Stats::default();
        let counters = stats.open();
        for us in [3, 3, 900] {
            counters.start();
            counters.end(Op::Read, 4096, Ok(()), Nanos::from_micros(us));
        }
        counters.start();
        counters.end(
            Op::Write,
            512,
            Err(blk::IoError::Medium),
            Nanos::from_micros(1),
        );
        counters.start();
        let observed = Observed {
            health: Health::Online,
            stats: Some(stats.tally()),
            facts: facts(),
        };
        let row = Row {
            kind: "mallocVolumes",
            name: "mallocVolumes/\"q\\".to_owned(),
            observed,
        };
        let gone = Health::Offline("no file".to_owned());
        let observed = Observed {
            health: gone,
            stats: Some(Stats::default().tally()),
            facts: facts(),
        };
        let idle = Row {
            kind: "aioVolumes",
            name: "aioVolumes/a".to_owned(),
            observed,
        };
        let about = Process {
            version: "1",
            io_engine: "uring",
            reactors: 2,
            pool_bytes: 4096,
        };
        render(&[row, idle], &about)
    }

    #[test]
    fn counters_gauges_and_histograms_say_what_was_counted() {
        let page = page();
        let labels = "kind=\"mallocVolumes\",name=\"mallocVolumes/\\\"q\\\\\",op=\"read\"";
        for line in [
            format!("opi_io_operations_total{{{labels}}} 3"),
            format!("opi_io_bytes_total{{{labels}}} 12288"),
            format!("opi_io_latency_seconds_bucket{{{labels},le=\"0.000004096\"}} 2"),
            format!("opi_io_latency_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
            format!("opi_io_latency_seconds_sum{{{labels}}} 0.000906"),
            "opi_resource_online{kind=\"aioVolumes\",name=\"aioVolumes/a\"} 0".to_owned(),
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        assert!(page.contains("op=\"write\"} 1\n") && !page.contains("op=\"flush\""));
    }

    #[test]
    fn facts_are_families_of_their_own() {
        let page = page();
        let a = "kind=\"aioVolumes\",name=\"aioVolumes/a\"";
        let state = format!("opi_path_state{{{a},nsid=\"1\\\"\",state=");
        for line in [
            "# TYPE opi_reconnects_total counter".to_owned(),
            format!("opi_reconnects_total{{{a}}} 3"),
            format!("opi_delay_seconds{{{a}}} 0.05"),
            format!("{state}\"live\"}} 0"),
            format!("{state}\"lost\"}} 1"),
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        // Two resources have it, and it has one head.
        assert_eq!(page.matches("# TYPE opi_reconnects_total ").count(), 1);
    }

    #[test]
    fn every_series_has_a_type_and_buckets_never_shrink() {
        let page = page();
        let mut last = 0;
        for line in page.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| name.strip_suffix(s))
                .unwrap_or(name);
            assert!(page.contains(&format!("# TYPE {family} ")), "{line}");
            if name.ends_with("_bucket") && line.contains("op=\"read\"") {
                let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
                assert!(count >= last, "{line}");
                last = count;
            }
        }
    }

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let (cpu, resident) = own_usage().unwrap();
        assert!(cpu >= 0.0 && resident > 1 << 20);
    }
}
