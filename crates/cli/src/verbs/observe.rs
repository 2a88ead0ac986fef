//! What the observation service knows: states, statistics and chains.

use api::ext::v1::{
    GetObservationRequest, ListObservationsRequest, ListObservationsResponse, Observation, State,
    WatchObservationsRequest, WatchObservationsResponse, watch_observations_response::Event,
};
use api::kinds::Kind;
use prost_reflect::DynamicMessage;

use super::Cx;
use crate::client::{Client, PAGE_SIZE, decoded, dynamic, is_unimplemented, method};
use crate::failure::{Failure, Result};
use crate::output::{self, Align, Format, Table};

const GET: &str = "/opi_ext.storage.v1.ObservationService/GetObservation";
const LIST: &str = "/opi_ext.storage.v1.ObservationService/ListObservations";
const WATCH: &str = "/opi_ext.storage.v1.ObservationService/WatchObservations";

/// What is known about one resource; `None` from servers without the service.
///
/// # Errors
/// What the server answered.
pub(super) async fn get(client: &Client, name: &str) -> Result<Option<Observation>> {
    let request = GetObservationRequest {
        name: name.to_owned(),
    };
    match client.typed(GET, &request).await {
        Ok(seen) => Ok(Some(seen)),
        Err(failure) if is_unimplemented(&failure) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What is known about all resources of a collection, or with `""` of all.
///
/// # Errors
/// What the server answered.
pub(super) async fn list(client: &Client, collection: &str) -> Result<Vec<Observation>> {
    let mut request = ListObservationsRequest {
        kind: collection.to_owned(),
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    let mut found = Vec::new();
    loop {
        let page: ListObservationsResponse = client.typed(LIST, &request).await?;
        let done = page.observations.is_empty() || page.next_page_token.is_empty();
        found.extend(page.observations);
        if done {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// Shows changes of state until interrupted.
///
/// # Errors
/// What the server answered, or that it ended the stream.
pub(super) async fn watch(
    cx: &Cx<'_>,
    client: &Client,
    kind: &Kind,
    names: Vec<String>,
) -> Result<()> {
    let request = WatchObservationsRequest {
        names,
        kind: kind.collection.clone(),
    };
    let method = method(WATCH)?;
    let request = dynamic(method.descriptor.input(), &request);
    let mut stream = client.stream(method, request).await?;
    let mut synced = false;
    while let Some(message) = stream.message().await? {
        let news: WatchObservationsResponse = decoded(&message)?;
        if news.event() == Event::Synced {
            synced = true;
        }
        // What was there when the watch began has just been listed.
        let Some(seen) = news.observation.as_ref().filter(|_| synced) else {
            continue;
        };
        let text = match cx.format {
            Some(Format::Json | Format::Yaml) => {
                output::document(&message, cx.format)?.unwrap_or_default()
            }
            Some(Format::Name) => format!("{}\n", seen.name),
            _ if news.event() == Event::Gone => format!("{} gone\n", seen.name),
            _ if seen.reason.is_empty() => {
                format!("{} {}\n", seen.name, state_word(seen.state()))
            }
            _ => format!(
                "{} {}: {}\n",
                seen.name,
                state_word(seen.state()),
                seen.reason
            ),
        };
        cx.print(&text)?;
    }
    Err(Failure::new("the server ended the watch"))
}

/// The observations as one document.
///
/// # Errors
/// They cannot be written in the format asked for.
pub(super) fn print_list(cx: &Cx<'_>, found: &[Observation]) -> Result<()> {
    let answer = ListObservationsResponse {
        observations: found.to_vec(),
        next_page_token: String::new(),
    };
    let message = dynamic(method(LIST)?.descriptor.output(), &answer);
    cx.print(&output::document(&message, cx.format)?.unwrap_or_default())
}

/// An observation as it travels, for documents.
///
/// # Errors
/// The descriptors lack the method, which only a defect can cause.
pub(super) fn message(seen: &Observation) -> Result<DynamicMessage> {
    Ok(dynamic(method(GET)?.descriptor.output(), seen))
}

/// A state in one word.
pub(super) fn state_word(state: State) -> String {
    let name = state.as_str_name();
    name.strip_prefix("STATE_").unwrap_or(name).to_owned()
}

/// The statistics of a resource as a table.
pub(super) fn stats_table(seen: &Observation) -> Table {
    let columns = [
        "OPERATION",
        "COUNT",
        "BYTES",
        "ERRORS",
        "AVG",
        "P50",
        "P99",
        "MAX",
    ];
    let align = |i: usize| if i == 0 { Align::Left } else { Align::Right };
    let mut table = Table::new(columns.iter().enumerate().map(|(i, c)| (*c, align(i))));
    let Some(stats) = &seen.stats else {
        return table;
    };
    let rows = [
        ("read", &stats.read),
        ("write", &stats.write),
        ("flush", &stats.flush),
        ("unmap", &stats.unmap),
        ("write zeroes", &stats.write_zeroes),
        ("compare", &stats.compare),
    ];
    for (name, op) in rows {
        let op = op.clone().unwrap_or_default();
        let latency = op.latency.clone().unwrap_or_default();
        let timed: u64 = latency.buckets.iter().map(|b| b.count).sum();
        // Faster than the clock can tell is not the same as nothing.
        let show = |ns: u64| match (timed, ns) {
            (1.., 0) => "0us".to_owned(),
            _ => api::units::latency(ns),
        };
        table.row([
            name.to_owned(),
            op.ops.to_string(),
            op.bytes.to_string(),
            errors(&op).to_string(),
            show(latency.sum_ns.checked_div(timed).unwrap_or(0)),
            show(percentile(&latency, 0.50)),
            show(percentile(&latency, 0.99)),
            show(latency.max_ns),
        ]);
    }
    table
}

/// All failures of one operation.
pub(super) fn errors(op: &api::ext::v1::OpStats) -> u64 {
    let e = op.errors.unwrap_or_default();
    [
        e.out_of_range,
        e.misaligned,
        e.unsupported,
        e.medium,
        e.no_space,
        e.miscompare,
        e.denied,
        e.transport,
        e.offline,
        e.aborted,
        e.busy,
    ]
    .iter()
    .sum()
}

/// The latency that `part` of all operations kept below, from the buckets; 0 without operations.
pub(super) fn percentile(latency: &api::ext::v1::LatencyHistogram, part: f64) -> u64 {
    let total: u64 = latency.buckets.iter().map(|b| b.count).sum();
    let wanted = (total as f64 * part).ceil() as u64;
    let mut passed = 0;
    for bucket in &latency.buckets {
        passed += bucket.count;
        if total > 0 && passed >= wanted {
            // The last bucket may reach further than anything measured.
            return bucket.upper_bound_ns.min(latency.max_ns);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ext::v1::{LatencyHistogram, latency_histogram::Bucket};

    #[test]
    fn percentiles_come_from_the_buckets() {
        let bucket = |upper_bound_ns, count| Bucket {
            upper_bound_ns,
            count,
        };
        let latency = LatencyHistogram {
            buckets: vec![bucket(1000, 98), bucket(2000, 1), bucket(9000, 1)],
            sum_ns: 0,
            min_ns: 1,
            max_ns: 8500,
        };
        assert_eq!(percentile(&latency, 0.5), 1000);
        assert_eq!(percentile(&latency, 0.99), 2000);
        assert_eq!(percentile(&latency, 1.0), 8500);
        assert_eq!(percentile(&LatencyHistogram::default(), 0.99), 0);
    }
}
