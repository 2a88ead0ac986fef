//! An OPI server in memory: it keeps what it is given, in pages of two.

use api::codec::DynamicCodec;
use api::ext::v1::nvme_discovery_entry::{SecureChannel, SubsystemType};
use api::ext::v1::{
    DiscoverNvmeSubsystemsRequest, DiscoverNvmeSubsystemsResponse, Fact, FailedReferral,
    GetObservationRequest, IoStats, LatencyHistogram, ListObservationsRequest,
    ListObservationsResponse, NvmeDiscoveryEntry, Observation, OpStats, State,
    WatchObservationsRequest, WatchObservationsResponse, fact, latency_histogram::Bucket,
    watch_observations_response::Event,
};
use api::kinds::{Method, Verb, method_by_path};
use api::storage::v1::{NvmeAddressFamily, NvmeTransportType};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tonic::{Request, Response, Status};

/// Resources in one answer to a list, whatever was asked for.
const PAGE: usize = 2;

/// The one address at which something is discovered.
pub(crate) const ARRAY: &str = "192.0.2.7";
/// Where there is no drive.
pub(crate) const NO_DRIVE: &str = "0000:99:00.0";

/// What the server keeps, and the methods that were called.
#[derive(Default)]
struct Kept {
    resources: BTreeMap<String, DynamicMessage>,
    calls: Vec<String>,
    looks: u64,
}

/// A server on a port of its own.
pub(crate) struct Fake {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

impl Fake {
    /// Starts one on a thread of its own, which ends with the test program.
    pub(crate) fn start() -> Self {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let of_thread = Arc::clone(&kept);
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async move {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
                let listener = listener.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let kept = Arc::clone(&of_thread);
                    tokio::spawn(async move {
                        let service = service_fn(move |request| serve(Arc::clone(&kept), request));
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    });
                }
            });
        });
        Self {
            address: receive.recv().unwrap(),
            kept,
        }
    }

    /// Runs a command line against it.
    pub(crate) fn opi(&self, line: &str) -> Result<String, (u8, String)> {
        crate::opi(&format!("{line} --addr {}", self.address))
    }

    /// The same, with what it said before it failed.
    pub(crate) fn run(&self, line: &str) -> (String, Result<(), (u8, String)>) {
        crate::run(&format!("{line} --addr {}", self.address))
    }

    /// The names of the methods called since the last look.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.kept.lock().unwrap().calls)
    }

    /// A resource as JSON.
    pub(crate) fn json(&self, name: &str) -> serde_json::Value {
        serde_json::to_value(&self.kept.lock().unwrap().resources[name]).unwrap()
    }
}

async fn serve(
    kept: Arc<Mutex<Kept>>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<tonic::body::Body>, Infallible> {
    let method = method_by_path(request.uri().path()).expect("the client knows the methods");
    let mut grpc = tonic::server::Grpc::new(DynamicCodec::new(method.descriptor.input()));
    if method.descriptor.is_server_streaming() {
        let news = tower::service_fn(move |request: Request<DynamicMessage>| {
            let news = news(&kept.lock().unwrap(), method, &request.into_inner());
            let news = tokio_stream::iter(news.into_iter().map(Ok::<_, Status>));
            std::future::ready(Ok::<_, Status>(Response::new(news)))
        });
        return Ok(grpc.server_streaming(news, request).await);
    }
    let handler = tower::service_fn(move |request: Request<DynamicMessage>| {
        let answer = answer(&mut kept.lock().unwrap(), method, &request.into_inner());
        std::future::ready(answer.map(Response::new))
    });
    Ok(grpc.unary(handler, request).await)
}

fn text(message: &DynamicMessage, field: Option<&prost_reflect::FieldDescriptor>) -> String {
    let value = field.map(|f| message.get_field(f).into_owned());
    value
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn answer(
    kept: &mut Kept,
    method: &'static Method,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Status> {
    kept.calls.push(method.descriptor.name().to_owned());
    let Some(kind) = method.kind() else {
        return other(kept, method, request);
    };
    let name = text(request, method.fields.name.as_ref());
    let missing = || Status::not_found(format!("{name} does not exist"));
    match method.verb {
        Verb::Create => {
            let field = method.fields.resource.as_ref().unwrap();
            let mut resource = request.get_field(field).as_message().unwrap().clone();
            let address = resource.get_field_by_name("traddr");
            if address.is_some_and(|a| a.as_str() == Some(NO_DRIVE)) {
                return Err(Status::not_found("there is no such device"));
            }
            let parent = text(request, method.fields.parent.as_ref());
            let slash = if parent.is_empty() { "" } else { "/" };
            let id = match text(request, method.fields.id.as_ref()) {
                id if id.is_empty() => "made-up".to_owned(),
                id => id,
            };
            let name = format!("{parent}{slash}{}/{id}", kind.collection);
            resource.set_field_by_name("name", Value::String(name.clone()));
            kept.resources.insert(name, resource.clone());
            Ok(resource)
        }
        Verb::Get => kept.resources.get(&name).cloned().ok_or_else(missing),
        Verb::GetSettings => {
            let owner = name.strip_suffix("/settings").unwrap();
            kept.resources.get(owner).ok_or_else(missing)?;
            let mut settings = empty(method);
            settings.set_field_by_name("name", Value::String(name.clone()));
            Ok(kept.resources.get(&name).cloned().unwrap_or(settings))
        }
        Verb::Update | Verb::UpdateSettings => updated(kept, method, request),
        Verb::Delete => {
            let gone = kept.resources.remove(&name).is_some();
            let missing_ok = method.fields.allow_missing.as_ref();
            let allowed = missing_ok.is_some_and(|f| request.get_field(f).as_bool() == Some(true));
            if gone || allowed {
                Ok(empty(method))
            } else {
                Err(missing())
            }
        }
        Verb::List => Ok(list(kept, method, request)),
        _ => Err(Status::unimplemented(format!(
            "no {}",
            method.descriptor.name()
        ))),
    }
}

/// What was there, or the settings of what is there, with the fields of the mask changed.
fn updated(
    kept: &mut Kept,
    method: &'static Method,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Status> {
    let field = method.fields.resource.as_ref().unwrap();
    let new = request.get_field(field).as_message().unwrap().clone();
    let name = new
        .get_field_by_name("name")
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned();
    let mask = request
        .get_field(method.fields.mask.as_ref().unwrap())
        .into_owned();
    let mask: prost_types::FieldMask = mask.as_message().unwrap().transcode_to().unwrap();
    kept.calls.push(mask.paths.join(","));
    if let Some(owner) = name.strip_suffix("/settings")
        && kept.resources.contains_key(owner)
    {
        let mut settings = empty(method);
        settings.set_field_by_name("name", Value::String(name.clone()));
        kept.resources.entry(name.clone()).or_insert(settings);
    }
    let old = kept.resources.get_mut(&name);
    let old = old.ok_or_else(|| Status::not_found(format!("{name} does not exist")))?;
    let message = old.descriptor();
    let mask = api::mask::Mask::parse(&mask.paths, &message, "update_mask").unwrap();
    mask.apply(&new, old);
    Ok(old.clone())
}

fn empty(method: &Method) -> DynamicMessage {
    DynamicMessage::new(method.descriptor.output())
}

fn list(kept: &Kept, method: &'static Method, request: &DynamicMessage) -> DynamicMessage {
    let kind = method.kind().unwrap();
    let parent = text(request, method.fields.parent.as_ref());
    let inside = |name: &str| {
        let name = api::names::ResourceName::parse(name, "name").unwrap();
        let below =
            kind.parent().is_none() || name.parent().is_some_and(|p| p.to_string() == parent);
        *name.kind() == *kind && below
    };
    let all: Vec<&DynamicMessage> = kept
        .resources
        .iter()
        .filter(|(n, _)| inside(n))
        .map(|(_, r)| r)
        .collect();
    let from: usize = text(request, method.fields.page_token.as_ref())
        .parse()
        .unwrap_or(0);
    let page = all
        .iter()
        .skip(from)
        .take(PAGE)
        .map(|r| Value::Message((*r).clone()))
        .collect();
    let mut answer = empty(method);
    answer.set_field(method.fields.items.as_ref().unwrap(), Value::List(page));
    if from + PAGE < all.len() {
        let token = Value::String((from + PAGE).to_string());
        answer.set_field(method.fields.next_page_token.as_ref().unwrap(), token);
    }
    answer
}

fn other(
    kept: &mut Kept,
    method: &Method,
    request: &DynamicMessage,
) -> Result<DynamicMessage, Status> {
    let encode = |bytes: Vec<u8>| DynamicMessage::decode(method.descriptor.output(), &bytes[..]);
    match method.descriptor.name() {
        "GetObservation" => {
            let request: GetObservationRequest = request.transcode_to().unwrap();
            if !kept.resources.contains_key(&request.name) {
                return Err(Status::not_found(format!(
                    "{} does not exist",
                    request.name
                )));
            }
            Ok(encode(observation(&request.name, 100).encode_to_vec()).unwrap())
        }
        "ListObservations" => {
            let request: ListObservationsRequest = request.transcode_to().unwrap();
            kept.looks += 1000;
            let names = kept.resources.keys().filter(|n| n.contains(&request.kind));
            let observations = names.map(|n| observation(n, kept.looks)).collect();
            let answer = ListObservationsResponse {
                observations,
                ..Default::default()
            };
            Ok(encode(answer.encode_to_vec()).unwrap())
        }
        "DiscoverNvmeSubsystems" => {
            let request: DiscoverNvmeSubsystemsRequest = request.transcode_to().unwrap();
            if request.traddr != ARRAY {
                let text = format!("nothing is discovered at {}", request.traddr);
                return Err(Status::unavailable(text));
            }
            Ok(encode(offered(&request).encode_to_vec()).unwrap())
        }
        name => Err(Status::unimplemented(format!("no {name}"))),
    }
}

/// What the array at [`ARRAY`] offers: on port 4420 two subsystems whose names end alike, the first
/// of them twice; on port 8009 also what cannot be connected.
fn offered(request: &DiscoverNvmeSubsystemsRequest) -> DiscoverNvmeSubsystemsResponse {
    let entry = |address: &str, subnqn: &str| NvmeDiscoveryEntry {
        subtype: SubsystemType::Nvm.into(),
        trtype: NvmeTransportType::Tcp.into(),
        adrfam: NvmeAddressFamily::Ipv4.into(),
        traddr: address.to_owned(),
        trsvcid: "4420".to_owned(),
        subnqn: subnqn.to_owned(),
        cntlid: 65535,
        ..Default::default()
    };
    let first = "nqn.2026-01.org.example:array";
    let mut entries = vec![
        entry(ARRAY, first),
        entry("192.0.3.7", first),
        entry(ARRAY, "nqn.2026-02.org.example:array"),
    ];
    let mut failed_referrals = Vec::new();
    if request.trsvcid == 8009 {
        let referral = NvmeDiscoveryEntry {
            subtype: SubsystemType::Referral.into(),
            ..entry("192.0.4.7", "nqn.2014-08.org.nvmexpress.discovery")
        };
        let rdma = NvmeDiscoveryEntry {
            trtype: NvmeTransportType::Rdma.into(),
            ..entry(ARRAY, first)
        };
        let secured = NvmeDiscoveryEntry {
            secure_channel: SecureChannel::Required.into(),
            ..entry(ARRAY, "nqn.2026-01.org.example:secured")
        };
        entries.splice(0..0, [referral, rdma, secured]);
        if request.follow_referrals {
            failed_referrals.push(FailedReferral {
                traddr: "192.0.4.7".to_owned(),
                trsvcid: "8009".to_owned(),
                reason: "it is silent".to_owned(),
            });
        }
    }
    DiscoverNvmeSubsystemsResponse {
        generation: 5,
        entries,
        failed_referrals,
    }
}

/// A watch: what is there, then a volume that comes, is lost and goes; and the end.
fn news(kept: &Kept, method: &Method, request: &DynamicMessage) -> Vec<DynamicMessage> {
    let request: WatchObservationsRequest = request.transcode_to().unwrap();
    let there = kept.resources.keys().filter(|n| n.contains(&request.kind));
    let mut news: Vec<_> = there
        .map(|name| (Event::Present, Some(observation(name, 0))))
        .collect();
    let comes = observation(&format!("{}/new", request.kind), 0);
    let lost = Observation {
        state: State::Offline.into(),
        reason: "the disk is away".to_owned(),
        ..comes.clone()
    };
    news.extend([
        (Event::Synced, None),
        (Event::Present, Some(comes.clone())),
        (Event::Present, Some(lost)),
        (Event::Gone, Some(comes)),
    ]);
    let messages = news.into_iter().map(|(event, observation)| {
        let news = WatchObservationsResponse {
            event: event.into(),
            observation,
        };
        let mut message = empty(method);
        message.transcode_from(&news).unwrap();
        message
    });
    messages.collect()
}

fn observation(name: &str, reads: u64) -> Observation {
    let latency = LatencyHistogram {
        buckets: vec![Bucket {
            upper_bound_ns: 2000,
            count: reads,
        }],
        sum_ns: reads * 1500,
        min_ns: 1000,
        max_ns: 2000,
    };
    let read = OpStats {
        ops: reads,
        bytes: reads * 4096,
        latency: Some(latency),
        ..Default::default()
    };
    Observation {
        name: name.to_owned(),
        state: State::Ready.into(),
        stats: Some(IoStats {
            read: Some(read),
            ..Default::default()
        }),
        users: vec!["nvmeSubsystems/s/nvmeNamespaces/n".to_owned()],
        facts: vec![Fact {
            name: "nvme_path_ana_state".to_owned(),
            labels: [("nsid".to_owned(), "1".to_owned())].into(),
            value: Some(fact::Value::State("optimized".to_owned())),
            ..Default::default()
        }],
        ..Default::default()
    }
}
