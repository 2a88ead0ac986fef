//! The connection to a server, and calls by descriptor.

use api::codec::DynamicCodec;
use api::kinds::{self, Kind, Method, Verb};
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};

use crate::failure::{Failure, Result, root_cause};

/// How long to wait for a connection: a management address is near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Resources asked for at once: what AIP-158 servers give at most.
pub(crate) const PAGE_SIZE: i32 = 250;
/// Largest answer taken: a full page of the largest resources has less than a tenth of it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where the server is and how to talk to it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `host:port`, or a URL with http or https.
    pub addr: String,
    /// PEM file with the authorities that the server's certificate is checked against.
    pub ca: Option<PathBuf>,
    /// PEM file with the certificate to show to the server.
    pub cert: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    pub key: Option<PathBuf>,
    /// How long one call may take.
    pub timeout: Duration,
}

impl Target {
    fn tls(&self) -> Result<Option<ClientTlsConfig>> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))
        };
        let Some(ca) = &self.ca else {
            if self.cert.is_some() || self.addr.starts_with("https:") {
                let text = "TLS needs --tls-ca: the file of authorities to trust";
                return Err(Failure::usage(text));
            }
            return Ok(None);
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(Some(tls))
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let tls = self.tls()?;
        let url = match (self.addr.contains("://"), &tls) {
            (true, _) => self.addr.clone(),
            (false, Some(_)) => format!("https://{}", self.addr),
            (false, None) => format!("http://{}", self.addr),
        };
        let wrong = |e: &dyn std::fmt::Display| {
            Failure::usage(format!("--addr: `{}` is not an address: {e}", self.addr))
        };
        let endpoint = Endpoint::from_shared(url).map_err(|e| wrong(&e))?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        match tls {
            Some(tls) => endpoint
                .tls_config(tls)
                .map_err(|e| Failure::new(format!("TLS: {}", root_cause(&e)))),
            None => Ok(endpoint),
        }
    }
}

/// A connection to one server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    timeout: Duration,
    addr: String,
    /// What to look at if the server ends the connection instead of answering.
    advice: &'static str,
}

/// What to look at if a server takes the connection and does not answer on it: with TLS 1.3 it
/// says only then whether it likes the client.
const fn advice(target: &Target) -> &'static str {
    match (&target.ca, &target.cert) {
        (None, _) => "if it wants TLS, give --tls-ca, --tls-cert and --tls-key",
        (Some(_), None) => "if it admits known clients only, give --tls-cert and --tls-key",
        (Some(_), Some(_)) => "perhaps it does not know the authority of --tls-cert",
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nothing answers there, or the certificates do not fit.
    pub(crate) async fn connect(target: &Target) -> Result<Self> {
        let channel = target.endpoint()?.connect().await.map_err(|e| {
            let (addr, cause) = (&target.addr, root_cause(&e));
            let trust = match &target.ca {
                Some(ca) => format!(
                    " Is its certificate of an authority in --tls-ca {}?",
                    ca.display()
                ),
                None => String::new(),
            };
            Failure::new(format!(
                "cannot reach the server at {addr}: {cause}; is `opi serve` running? --addr or \
                 OPI_ADDR says where it is.{trust}"
            ))
        })?;
        Ok(Self {
            channel,
            timeout: target.timeout,
            addr: target.addr.clone(),
            advice: advice(target),
        })
    }

    /// Where the server is.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Calls a method.
    ///
    /// # Errors
    /// What the server answered, or that it did not in time.
    pub(crate) async fn call(
        &self,
        method: &Method,
        request: DynamicMessage,
    ) -> Result<DynamicMessage> {
        let mut grpc = self.grpc();
        let mut request = Request::new(request);
        request.set_timeout(self.timeout);
        let codec = DynamicCodec::new(method.descriptor.output());
        let path = path_of(method);
        let call = async {
            grpc.ready().await.map_err(|e| self.cut_off(&e))?;
            let answer = grpc.unary(request, path, codec).await;
            answer.map_err(|status| self.failed(status))
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => {
                let text = format!("no answer within {:?}", self.timeout);
                Err(Status::deadline_exceeded(text).into())
            }
        }
    }

    /// The connection ended under a call.
    fn cut_off(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let (addr, advice) = (&self.addr, self.advice);
        let cause = root_cause(error);
        Failure::new(format!(
            "the server at {addr} ended the connection: {cause}; {advice}"
        ))
    }

    /// A call failed: what the server answered, or that it did not.
    fn failed(&self, status: Status) -> Failure {
        match std::error::Error::source(&status) {
            Some(error) => self.cut_off(error),
            None => status.into(),
        }
    }

    /// Calls a method that answers with a stream. The time limit is for its beginning only.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn stream(
        &self,
        method: &Method,
        request: DynamicMessage,
    ) -> Result<Streaming<DynamicMessage>> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|e| self.cut_off(&e))?;
        let codec = DynamicCodec::new(method.descriptor.output());
        let answer = grpc
            .server_streaming(Request::new(request), path_of(method), codec)
            .await;
        Ok(answer.map_err(|status| self.failed(status))?.into_inner())
    }

    /// Calls a method by its path, with generated types.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn typed<Q, A>(&self, path: &str, request: &Q) -> Result<A>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        let method = method(path)?;
        let answer = self
            .call(method, dynamic(method.descriptor.input(), request))
            .await?;
        decoded(&answer)
    }

    /// One resource.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn get(&self, kind: &Kind, name: &str) -> Result<DynamicMessage> {
        let method = method_of(kind, &Verb::Get)?;
        self.call(method, named(method, name)).await
    }

    /// All resources of a kind, page by page, up to `limit`.
    ///
    /// # Errors
    /// What the server answered.
    pub(crate) async fn list(
        &self,
        kind: &Kind,
        parent: Option<&str>,
        page_size: i32,
        limit: usize,
    ) -> Result<Vec<DynamicMessage>> {
        let method = method_of(kind, &Verb::List)?;
        let fields = &method.fields;
        let mut request = DynamicMessage::new(method.descriptor.input());
        if let Some(field) = &fields.parent {
            let parent = parent.or_else(|| fixed_parent(method)).unwrap_or("-");
            request.set_field(field, Value::String(parent.to_owned()));
        }
        if let Some(field) = &fields.page_size {
            request.set_field(field, Value::I32(page_size));
        }
        let mut items = Vec::new();
        // A server may hand out tokens for ever; a page without anything new is the last.
        let mut seen = HashSet::new();
        loop {
            let answer = self.call(method, request.clone()).await?;
            let page = fields
                .items
                .as_ref()
                .map(|f| answer.get_field(f).into_owned());
            let before = items.len();
            for item in page.as_ref().and_then(Value::as_list).unwrap_or_default() {
                if let Some(item) = item.as_message()
                    && seen.insert(name_of(item))
                {
                    items.push(item.clone());
                }
            }
            let token = fields
                .next_page_token
                .as_ref()
                .map(|f| answer.get_field(f).into_owned());
            let done = items.len() == before || items.len() >= limit;
            match (token.as_ref().and_then(Value::as_str), &fields.page_token) {
                (Some(token), Some(field)) if !token.is_empty() && !done => {
                    request.set_field(field, Value::String(token.to_owned()));
                }
                _ => break,
            }
        }
        items.truncate(limit);
        Ok(items)
    }
}

fn path_of(method: &Method) -> PathAndQuery {
    PathAndQuery::try_from(method.path.as_str()).expect("protobuf names are URL characters")
}

/// The method at a gRPC path.
///
/// # Errors
/// The descriptors have none.
pub(crate) fn method(path: &str) -> Result<&'static Method> {
    kinds::method_by_path(path)
        .ok_or_else(|| Failure::new(format!("this program knows no method {path}")))
}

/// The method of a kind for a verb.
///
/// # Errors
/// The API has none.
pub(crate) fn method_of(kind: &Kind, verb: &Verb) -> Result<&'static Method> {
    kind.method(verb).ok_or_else(|| {
        let word = crate::words::word(kind);
        Failure::usage(format!("the API has no {verb:?} for {word}").to_lowercase())
    })
}

/// A request with nothing but a name.
pub(crate) fn named(method: &Method, name: &str) -> DynamicMessage {
    let mut request = DynamicMessage::new(method.descriptor.input());
    if let Some(field) = &method.fields.name {
        request.set_field(field, Value::String(name.to_owned()));
    }
    request
}

/// The name in a resource.
pub(crate) fn name_of(resource: &DynamicMessage) -> String {
    let name = resource.get_field_by_name("name");
    name.as_ref()
        .and_then(|v| v.as_str())
        .unwrap_or_default()
        .to_owned()
}

/// What the route of a list says its parent is, as in `{parent=volumes}`.
fn fixed_parent(method: &Method) -> Option<&str> {
    let template = &method.http.first()?.template;
    let (_, rest) = template.split_once("{parent=")?;
    let (pattern, _) = rest.split_once('}')?;
    (!pattern.contains('*')).then_some(pattern)
}

/// A generated message as one known by descriptor.
pub(crate) fn dynamic(
    descriptor: MessageDescriptor,
    message: &impl prost::Message,
) -> DynamicMessage {
    let bytes = message.encode_to_vec();
    DynamicMessage::decode(descriptor, &bytes[..]).expect("both come from one .proto file")
}

/// A message known by descriptor as a generated one.
///
/// # Errors
/// The bytes do not fit, which only a defect can cause.
pub(crate) fn decoded<M: prost::Message + Default>(message: &DynamicMessage) -> Result<M> {
    M::decode(&message.encode_to_vec()[..]).map_err(|e| {
        let name = message.descriptor().full_name().to_owned();
        Failure::new(format!("the answer is not a {name}: {e}"))
    })
}

/// True if a failure only says that the server does not have the method.
pub(crate) fn is_unimplemented(failure: &Failure) -> bool {
    failure.code() == Some(Code::Unimplemented)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_top_level_kinds_know_the_parent_of_their_route() {
        let parent = |collection: &str| {
            let kind = kinds::by_collection(collection).unwrap();
            fixed_parent(kind.method(&Verb::List).unwrap())
        };
        assert_eq!(parent("qosVolumes"), Some("volumes"));
        assert_eq!(parent("mallocVolumes"), None);
        assert_eq!(parent("nvmeControllers"), None);
    }

    #[test]
    fn https_without_authorities_is_refused_with_the_way_out() {
        let target = Target {
            addr: "https://localhost:1".to_owned(),
            ca: None,
            cert: None,
            key: None,
            timeout: Duration::from_secs(1),
        };
        assert!(
            target
                .endpoint()
                .unwrap_err()
                .to_string()
                .contains("--tls-ca")
        );
    }
}
