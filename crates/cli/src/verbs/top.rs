//! `opi top`: live rates and latencies.

use api::ext::v1::{LatencyHistogram, Observation, OpStats, latency_histogram::Bucket};
use clap::ArgMatches;
use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::{Cx, observe};
use crate::client::Client;
use crate::failure::Result;
use crate::output::{self, Align, Format, Table};
use crate::words;
use api::units;

/// Clears a terminal and goes to its top left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What one resource did per second between two looks.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Rate {
    name: String,
    state: String,
    reads_per_second: f64,
    writes_per_second: f64,
    read_bytes_per_second: f64,
    write_bytes_per_second: f64,
    errors_per_second: f64,
    in_flight: u64,
    latency_avg_ns: u64,
    latency_p99_ns: u64,
}

/// `opi top`.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn top(cx: &Cx<'_>, matches: &ArgMatches) -> Result<()> {
    let collection = match matches.get_one::<String>("resource") {
        Some(word) => words::resolve(word)?.collection.as_str(),
        None => "",
    };
    let interval: Duration = matches.get_one("interval").copied().unwrap_or_default();
    let once = matches.get_flag("once");
    let client = Client::connect(cx.target).await?;
    let mut before = (Instant::now(), observe::list(&client, collection).await?);
    loop {
        tokio::time::sleep(interval).await;
        let now = (Instant::now(), observe::list(&client, collection).await?);
        let rates = rates(&before.1, &now.1, now.0.duration_since(before.0));
        let heading = format!("{}, rates over the last {interval:?}", client.addr());
        cx.print(&text(cx, &rates, &heading, once)?)?;
        if once {
            return Ok(());
        }
        before = now;
    }
}

fn text(cx: &Cx<'_>, rates: &[Rate], heading: &str, once: bool) -> Result<String> {
    match cx.format {
        Some(Format::Json) => return output::json(&rates),
        Some(Format::Yaml) => return output::yaml(&rates),
        Some(Format::Name) => return Ok(rates.iter().map(|r| format!("{}\n", r.name)).collect()),
        _ => {}
    }
    let table = table(rates);
    if once {
        return Ok(table);
    }
    let clear = if std::io::stdout().is_terminal() {
        CLEAR
    } else {
        ""
    };
    Ok(format!("{clear}{heading}\n\n{table}"))
}

fn table(rates: &[Rate]) -> String {
    if rates.is_empty() {
        return "nothing to show\n".to_owned();
    }
    let columns = [
        "NAME",
        "STATE",
        "READ/s",
        "WRITE/s",
        "READ B/s",
        "WRITE B/s",
        "ERR/s",
        "IN-FLIGHT",
        "AVG",
        "P99",
    ];
    let align = |i: usize| if i < 2 { Align::Left } else { Align::Right };
    let mut table = Table::new(columns.iter().enumerate().map(|(i, c)| (*c, align(i))));
    for rate in rates {
        table.row([
            rate.name.clone(),
            rate.state.clone(),
            units::count(rate.reads_per_second),
            units::count(rate.writes_per_second),
            units::size(rate.read_bytes_per_second as u64),
            units::size(rate.write_bytes_per_second as u64),
            units::count(rate.errors_per_second),
            rate.in_flight.to_string(),
            units::latency(rate.latency_avg_ns),
            units::latency(rate.latency_p99_ns),
        ]);
    }
    table.text()
}

/// The rates of everything that does I/O, the busiest first.
fn rates(before: &[Observation], now: &[Observation], time: Duration) -> Vec<Rate> {
    let old: HashMap<&str, &Observation> = before.iter().map(|o| (o.name.as_str(), o)).collect();
    let with_stats = now.iter().filter(|o| o.stats.is_some());
    let mut all: Vec<Rate> = with_stats
        .map(|seen| rate(old.get(seen.name.as_str()).copied(), seen, time))
        .collect();
    let total = |r: &Rate| r.reads_per_second + r.writes_per_second;
    all.sort_by(|a, b| {
        total(b)
            .total_cmp(&total(a))
            .then_with(|| a.name.cmp(&b.name))
    });
    all
}

fn rate(old: Option<&Observation>, seen: &Observation, time: Duration) -> Rate {
    let stats = seen.stats.clone().unwrap_or_default();
    let old = old.and_then(|o| o.stats.clone()).unwrap_or_default();
    let seconds = time.as_secs_f64().max(1e-9);
    let ops = |op: &Option<OpStats>| op.as_ref().map_or(0, |o| o.ops);
    let bytes = |op: &Option<OpStats>| op.as_ref().map_or(0, |o| o.bytes);
    let failed = |op: &Option<OpStats>| op.as_ref().map_or(0, observe::errors);
    // Counters start again at zero when a resource is made anew.
    let per_second = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
    // How long the longest took since the last look is not known, so buckets end at their bounds.
    let mut latency = LatencyHistogram {
        max_ns: u64::MAX,
        ..Default::default()
    };
    for (new, old) in [(&stats.read, &old.read), (&stats.write, &old.write)] {
        add_difference(&mut latency, new.as_ref(), old.as_ref());
    }
    let timed: u64 = latency.buckets.iter().map(|b| b.count).sum();
    Rate {
        name: seen.name.clone(),
        state: observe::state_word(seen.state()),
        reads_per_second: per_second(ops(&stats.read), ops(&old.read)),
        writes_per_second: per_second(ops(&stats.write), ops(&old.write)),
        read_bytes_per_second: per_second(bytes(&stats.read), bytes(&old.read)),
        write_bytes_per_second: per_second(bytes(&stats.write), bytes(&old.write)),
        errors_per_second: per_second(
            failed(&stats.read) + failed(&stats.write) + failed(&stats.flush),
            failed(&old.read) + failed(&old.write) + failed(&old.flush),
        ),
        in_flight: stats.in_flight,
        latency_avg_ns: latency.sum_ns.checked_div(timed).unwrap_or(0),
        latency_p99_ns: observe::percentile(&latency, 0.99),
    }
}

/// Adds what was counted between two looks at one operation.
fn add_difference(to: &mut LatencyHistogram, new: Option<&OpStats>, old: Option<&OpStats>) {
    let Some(new) = new.and_then(|o| o.latency.as_ref()) else {
        return;
    };
    let none = LatencyHistogram::default();
    let old = old.and_then(|o| o.latency.as_ref()).unwrap_or(&none);
    to.sum_ns += new.sum_ns.saturating_sub(old.sum_ns);
    let before: HashMap<u64, u64> = old
        .buckets
        .iter()
        .map(|b| (b.upper_bound_ns, b.count))
        .collect();
    for bucket in &new.buckets {
        let more = bucket
            .count
            .saturating_sub(before.get(&bucket.upper_bound_ns).copied().unwrap_or(0));
        if more == 0 {
            continue;
        }
        match to
            .buckets
            .binary_search_by_key(&bucket.upper_bound_ns, |b| b.upper_bound_ns)
        {
            Ok(i) => to.buckets[i].count += more,
            Err(i) => {
                let bucket = Bucket {
                    upper_bound_ns: bucket.upper_bound_ns,
                    count: more,
                };
                to.buckets.insert(i, bucket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ext::v1::{IoStats, State};

    fn seen(name: &str, ops: u64) -> Observation {
        let latency = LatencyHistogram {
            buckets: vec![Bucket {
                upper_bound_ns: 2000,
                count: ops,
            }],
            sum_ns: ops * 1500,
            ..Default::default()
        };
        let read = OpStats {
            ops,
            bytes: ops * 4096,
            latency: Some(latency),
            ..Default::default()
        };
        Observation {
            name: name.to_owned(),
            state: State::Ready.into(),
            stats: Some(IoStats {
                read: Some(read),
                in_flight: 3,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn rates_are_differences_over_time_the_busiest_first() {
        let before = [seen("mallocVolumes/a", 100), seen("mallocVolumes/b", 100)];
        let now = [seen("mallocVolumes/a", 100), seen("mallocVolumes/b", 2100)];
        let rates = rates(&before, &now, Duration::from_secs(2));
        assert_eq!(rates[0].name, "mallocVolumes/b");
        assert_eq!(rates[0].reads_per_second, 1000.0);
        assert_eq!(rates[0].read_bytes_per_second, 4_096_000.0);
        assert_eq!(
            (rates[0].latency_avg_ns, rates[0].latency_p99_ns),
            (1500, 2000)
        );
        assert_eq!(rates[1].reads_per_second, 0.0);
        let text = table(&rates);
        assert!(text.contains("mallocVolumes/b   READY     1.0k"), "{text}");
    }

    #[test]
    fn a_resource_made_anew_counts_from_zero() {
        let rates = rates(
            &[seen("x/a", 50)],
            &[seen("x/a", 10)],
            Duration::from_secs(1),
        );
        assert_eq!(rates[0].reads_per_second, 0.0);
    }

    #[test]
    fn what_does_no_io_is_left_out() {
        let quiet = Observation {
            name: "x/a".to_owned(),
            ..Default::default()
        };
        assert!(rates(&[], &[quiet], Duration::from_secs(1)).is_empty());
        assert_eq!(table(&[]), "nothing to show\n");
    }
}
