//! Both protocols over real sockets, with and without TLS.

use std::path::{Path, PathBuf};

use api::codec::DynamicCodec;
use api::fields::to_dynamic;
use api::kinds;
use api::storage::v1::NullVolume;
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::*;
use crate::calls::fake::Fake;

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
    health: HealthReporter,
}

async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Running {
    let dispatch = Dispatch::new(Arc::new(Fake::default()));
    let more = Router::new().route("/metrics", axum::routing::get(|| async { "metrics" }));
    let (router, health) = app(dispatch, more).await;
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = listen::bind(any, "grpc_addr").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = async move {
        let names = host::Names::new(vec!["xpu.example".to_owned()]);
        let stop = async { drop(stopped.await) };
        listen::serve(vec![listener], tls, &names, router, stop).await;
    };
    Running {
        address,
        stop,
        done: tokio::spawn(serving),
        health,
    }
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.done.await.unwrap();
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }
}

/// Calls a unary method with a request in JSON.
async fn unary(channel: &Channel, path: &'static str, text: &str) -> tonic::Result<DynamicMessage> {
    let method = kinds::method_by_path(path).unwrap();
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    let request = DynamicMessage::deserialize(method.descriptor.input(), json).unwrap();
    let codec = DynamicCodec::new(method.descriptor.output());
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    let reply = grpc
        .unary(tonic::Request::new(request), path, codec)
        .await?;
    Ok(reply.into_inner())
}

const CREATE: &str = "/opi_api.storage.v1.NullVolumeService/CreateNullVolume";
const GET: &str = "/opi_api.storage.v1.NullVolumeService/GetNullVolume";

/// One HTTP/1 exchange on a connection of its own.
async fn http1(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn get(address: SocketAddr, path: &str) -> String {
    http1(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
    )
    .await
}

#[tokio::test]
async fn grpc_and_rest_share_a_port() {
    let server = start(None).await;
    let channel = server.channel().await;
    let text = r#"{"nullVolume": {"blockSize": 512}, "nullVolumeId": "n"}"#;
    let reply = unary(&channel, CREATE, text).await.unwrap();
    let expected = NullVolume {
        name: "made/n".to_owned(),
        block_size: 512,
        ..Default::default()
    };
    assert_eq!(reply, to_dynamic(&expected));
    let text = get(server.address, "/v1/nullVolumes/n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(
        text.contains(r#"{"name":"nullVolumes/n","blockSize":"0""#),
        "{text}"
    );
    assert!(
        get(server.address, "/metrics")
            .await
            .ends_with("\r\n\r\nmetrics")
    );
    let post = "POST /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let text = http1(server.address, post).await;
    assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
    assert!(text.contains("allow: GET"), "{text}");
    assert!(
        text.contains(r#""message":"/metrics has no POST""#),
        "{text}"
    );
    drop(channel);
    server.stop().await;
}

#[tokio::test]
async fn a_loopback_listener_answers_to_its_own_names_only() {
    let server = start(None).await;
    let ask = |target: &'static str, host: &'static str| {
        let address = server.address;
        async move {
            let head = format!("GET {target} HTTP/1.1\r\n{host}connection: close\r\n\r\n");
            http1(address, &head).await
        }
    };
    for host in ["host: xpu.example:1\r\n", "host: 127.0.0.1\r\n", ""] {
        let text = ask("/v1/nullVolumes/n", host).await;
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    }
    for path in ["/v1/nullVolumes/n", "/metrics", "/docs", "/nowhere"] {
        let text = ask(path, "host: evil.example\r\n").await;
        assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
        assert!(
            text.contains("`evil.example` is not a name of this server")
                && text.contains("--allowed-hosts"),
            "{text}"
        );
    }
    let text = ask("http://evil.example/metrics", "host: localhost\r\n").await;
    assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
    // The same by gRPC, where the name is the authority.
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let evil = endpoint.origin("http://evil.example".parse().unwrap());
    let channel = evil.connect().await.unwrap();
    let error = unary(&channel, GET, r#"{"name": "a"}"#).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    assert!(error.message().contains("evil.example"), "{error:?}");
    drop(channel);
    server.stop().await;
}

#[tokio::test]
async fn grpc_errors_carry_their_details() {
    let server = start(None).await;
    let channel = server.channel().await;
    let error = unary(&channel, GET, r#"{"name": "nullVolumes/error"}"#)
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    let status = api::rpc::Status::decode(error.details()).unwrap();
    let urls: Vec<_> = status.details.iter().map(|d| &*d.type_url).collect();
    assert!(
        urls.contains(&"type.googleapis.com/google.rpc.ResourceInfo"),
        "{urls:?}"
    );
    let error = unary(&channel, GET, r#"{"name": "panic"}"#)
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::Internal);
    server.stop().await;
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented_and_garbage_is_invalid() {
    let server = start(None).await;
    let channel = server.channel().await;
    let method = kinds::method_by_path(GET).unwrap();
    let call = |path: &'static str, request: DynamicMessage| {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        let codec = DynamicCodec::new(method.descriptor.output());
        async move {
            grpc.ready().await.unwrap();
            let path = http::uri::PathAndQuery::from_static(path);
            grpc.unary(tonic::Request::new(request), path, codec)
                .await
                .unwrap_err()
        }
    };
    let empty = DynamicMessage::new(method.descriptor.input());
    let error = call("/opi_api.storage.v1.NoService/Get", empty).await;
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    // A name that is not UTF-8, sent as a wrapper around raw bytes.
    let bytes = api::pool()
        .get_message_by_name("google.protobuf.BytesValue")
        .unwrap();
    let mut garbage = DynamicMessage::new(bytes);
    garbage.set_field_by_name("value", Value::Bytes(vec![0xff].into()));
    let error = call(GET, garbage).await;
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    let status = api::rpc::Status::decode(error.details()).unwrap();
    let urls: Vec<_> = status.details.iter().map(|d| &*d.type_url).collect();
    assert!(
        urls.contains(&"type.googleapis.com/google.rpc.ErrorInfo"),
        "{urls:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_watch_streams_over_grpc() {
    let server = start(None).await;
    let path = "/opi_ext.storage.v1.ObservationService/WatchObservations";
    let method = kinds::method_by_path(path).unwrap();
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.unwrap();
    let mut request = DynamicMessage::new(method.descriptor.input());
    request.set_field_by_name("kind", Value::String("broken".to_owned()));
    let path = http::uri::PathAndQuery::from_static(path);
    let codec = DynamicCodec::new(method.descriptor.output());
    let reply = grpc
        .server_streaming(tonic::Request::new(request), path, codec)
        .await;
    let mut replies = reply.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_some());
    assert!(replies.message().await.unwrap().is_some());
    assert_eq!(
        replies.message().await.unwrap_err().code(),
        tonic::Code::Unavailable
    );
    drop((replies, grpc));
    server.stop().await;
}

#[tokio::test]
async fn a_grpc_request_whose_body_never_ends_is_over_at_its_deadline() {
    let server = start(None).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let shake = hyper::client::conn::http2::handshake(executor, io).await;
    let (mut sender, connection) = shake.unwrap();
    let connection = tokio::spawn(connection);
    let first = bytes::Bytes::from_static(&[0, 0, 0, 0, 9, 10]);
    let first = tokio_stream::iter([Ok::<_, std::io::Error>(first)]);
    let body = Body::from_stream(tokio_stream::StreamExt::chain(
        first,
        tokio_stream::pending(),
    ));
    let request = Request::post(format!("http://localhost{GET}"))
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "50m")
        .body(body)
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4");
    let why = answer.headers()["grpc-message"].to_str().unwrap();
    assert!(why.contains("body"), "{why}");
    drop((sender, answer));
    connection.abort();
    server.stop().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_reflection::pb::{v1, v1alpha};
    let server = start(None).await;
    let channel = server.channel().await;
    let mut health = HealthClient::new(channel.clone());
    let reply = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(reply.into_inner().status, ServingStatus::NotServing as i32);
    server
        .health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let reply = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.status, ServingStatus::Serving as i32);

    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = v1::ServerReflectionRequest {
        message_request: Some(list),
        ..Default::default()
    };
    let reply = client
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .unwrap();
    let reply = reply.into_inner().message().await.unwrap().unwrap();
    assert!(format!("{reply:?}").contains("opi_api.inventory.v1.InventoryService"));

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let file = v1alpha::server_reflection_request::MessageRequest::FileByFilename("no".to_owned());
    let ask = v1alpha::ServerReflectionRequest {
        message_request: Some(file),
        ..Default::default()
    };
    let reply = client
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .unwrap();
    let reply = reply.into_inner().message().await.unwrap().unwrap();
    assert!(format!("{reply:?}").contains("no file is called no"));
    drop((health, client));
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_closes_the_port() {
    let server = start(None).await;
    let address = server.address;
    let channel = server.channel().await;
    let idle = TcpStream::connect(address).await.unwrap();
    unary(&channel, GET, r#"{"name": "a"}"#).await.unwrap();
    drop(idle);
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let server = start(None).await;
    let error = listen::bind(server.address, "http_addr").await.unwrap_err();
    assert_eq!(error.field.as_deref(), Some("http_addr"));
    assert!(
        error.message.contains(&server.address.to_string()),
        "{}",
        error.message
    );
    server.stop().await;
}

/// A certificate authority with a server and a client certificate, as PEM files.
struct Pki {
    folder: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text);
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        write("ca.pem", ca.pem()).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        for name in ["localhost", "client"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            let cert = params.signed_by(&key, &issuer).unwrap();
            write(&format!("{name}.pem"), cert.pem()).unwrap();
            write(&format!("{name}.key"), key.serialize_pem()).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn server(&self, client_ca: Option<&Path>) -> Result<Arc<rustls::ServerConfig>, api::Error> {
        tls::server_config(
            &self.path("localhost.pem"),
            &self.path("localhost.key"),
            client_ca,
        )
    }

    async fn connect(&self, server: &Running, identity: bool) -> Result<Channel, String> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.text("ca.pem")))
            .domain_name("localhost");
        if identity {
            tls = tls.identity(Identity::from_pem(
                self.text("client.pem"),
                self.text("client.key"),
            ));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
        let endpoint = endpoint.tls_config(tls).unwrap();
        endpoint.connect().await.map_err(|e| e.to_string())
    }
}

#[tokio::test]
async fn tls_serves_those_who_trust_it() {
    let pki = Pki::new();
    let server = start(Some(pki.server(None).unwrap())).await;
    let channel = pki.connect(&server, false).await.unwrap();
    unary(&channel, GET, r#"{"name": "a"}"#).await.unwrap();
    // Plain text gets no answer, and nothing breaks.
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    unary(&channel, GET, r#"{"name": "a"}"#).await.unwrap();
    drop(channel);
    server.stop().await;
}

#[tokio::test]
async fn mutual_tls_refuses_a_client_without_certificate() {
    let pki = Pki::new();
    let server = start(Some(pki.server(Some(&pki.path("ca.pem"))).unwrap())).await;
    let channel = pki.connect(&server, true).await.unwrap();
    unary(&channel, GET, r#"{"name": "a"}"#).await.unwrap();
    drop(channel);
    // With TLS 1.3 the client learns of it only when it reads.
    if let Ok(channel) = pki.connect(&server, false).await {
        let mut grpc = tonic::client::Grpc::new(channel);
        assert!(
            grpc.ready().await.is_err() || {
                let method = kinds::method_by_path(GET).unwrap();
                let request = DynamicMessage::new(method.descriptor.input());
                let codec = DynamicCodec::new(method.descriptor.output());
                let path = http::uri::PathAndQuery::from_static(GET);
                grpc.unary(tonic::Request::new(request), path, codec)
                    .await
                    .is_err()
            }
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn mutual_tls_refuses_a_certificate_of_another_authority_and_plain_text() {
    let (pki, other) = (Pki::new(), Pki::new());
    let server = start(Some(pki.server(Some(&pki.path("ca.pem"))).unwrap())).await;
    // Trusts the server, and shows a certificate that the server's authority did not sign.
    let identity = Identity::from_pem(other.text("client.pem"), other.text("client.key"));
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pki.text("ca.pem")))
        .domain_name("localhost")
        .identity(identity);
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap();
    // With TLS 1.3 the client learns of it only when it reads.
    if let Ok(channel) = endpoint.connect().await {
        assert!(unary_or_not_ready(&channel).await.is_err());
    }
    let plain = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    if let Ok(channel) = plain.connect().await {
        assert!(unary_or_not_ready(&channel).await.is_err());
    }
    // Those who were refused are no trouble for those who are known.
    let channel = pki.connect(&server, true).await.unwrap();
    unary(&channel, GET, r#"{"name": "a"}"#).await.unwrap();
    drop(channel);
    server.stop().await;
}

/// Calls a method on a connection that may turn out to be none.
async fn unary_or_not_ready(channel: &Channel) -> Result<(), String> {
    let method = kinds::method_by_path(GET).unwrap();
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| e.to_string())?;
    let request = tonic::Request::new(DynamicMessage::new(method.descriptor.input()));
    let codec = DynamicCodec::new(method.descriptor.output());
    let path = http::uri::PathAndQuery::from_static(GET);
    let reply = grpc.unary(request, path, codec).await;
    reply.map(drop).map_err(|e| e.to_string())
}

#[test]
fn wrong_tls_files_are_named() {
    let pki = Pki::new();
    let none = pki.path("none.pem");
    let (cert, key) = (pki.path("localhost.pem"), pki.path("localhost.key"));
    let field = |cert: &Path, key: &Path, ca: Option<&Path>| {
        tls::server_config(cert, key, ca)
            .map(|_| ())
            .unwrap_err()
            .field
            .unwrap()
    };
    assert_eq!(field(&none, &key, None), "tls_cert");
    assert_eq!(field(&key, &key, None), "tls_cert");
    assert_eq!(field(&cert, &none, None), "tls_key");
    assert_eq!(field(&cert, &pki.path("client.key"), None), "tls_key");
    assert_eq!(field(&cert, &key, Some(&none)), "tls_client_ca");
}
