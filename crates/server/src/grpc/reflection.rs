//! Server reflection, v1 and v1alpha, over the descriptor pool.
//!
//! tonic's own service passes the descriptors through types that know no extensions, which would
//! strip every `google.api` annotation. This one hands out the files as they were compiled.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use prost_reflect::{DescriptorPool, FileDescriptor};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{v1, v1alpha};

/// Answers that wait for a slow reader before its next question is read.
const QUEUE_MAX: usize = 8;

/// Everything that can be asked for: the project's files, health, and reflection itself.
fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut pool = api::pool().clone();
        for set in [
            v1::FILE_DESCRIPTOR_SET,
            v1alpha::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
        ] {
            pool.decode_file_descriptor_set(set)
                .expect("the crates carry valid descriptors");
        }
        pool
    })
}

/// What a question is about, in either version of the protocol.
enum Question {
    File(String),
    Symbol(String),
    Extension(String, i32),
    Extensions(String),
    Services,
    Nothing,
}

/// An answer, in either version of the protocol.
enum Answer {
    Files(Vec<Vec<u8>>),
    Numbers(String, Vec<i32>),
    Services(Vec<String>),
}

fn answer(question: &Question) -> Result<Answer, Status> {
    let missing = |what: &str, name: &str| Status::not_found(format!("no {what} is called {name}"));
    match question {
        Question::File(name) => {
            let file = pool()
                .get_file_by_name(name)
                .ok_or_else(|| missing("file", name))?;
            Ok(Answer::Files(with_imports(&file)))
        }
        Question::Symbol(name) => {
            let file = file_of_symbol(name).ok_or_else(|| missing("symbol", name))?;
            Ok(Answer::Files(with_imports(&file)))
        }
        Question::Extension(message, number) => {
            let kind = pool().get_message_by_name(message);
            let kind = kind.ok_or_else(|| missing("message", message))?;
            let extension = u32::try_from(*number)
                .ok()
                .and_then(|n| kind.get_extension(n));
            let extension = extension.ok_or_else(|| {
                Status::not_found(format!("{message} has no extension of number {number}"))
            })?;
            Ok(Answer::Files(with_imports(&extension.parent_file())))
        }
        Question::Extensions(message) => {
            let kind = pool().get_message_by_name(message);
            let kind = kind.ok_or_else(|| missing("message", message))?;
            let mut numbers: Vec<i32> = kind
                .extensions()
                .filter_map(|e| i32::try_from(e.number()).ok())
                .collect();
            numbers.sort_unstable();
            Ok(Answer::Numbers(message.clone(), numbers))
        }
        Question::Services => {
            let mut names: Vec<String> = pool()
                .services()
                .map(|s| s.full_name().to_owned())
                .collect();
            names.sort_unstable();
            Ok(Answer::Services(names))
        }
        Question::Nothing => Err(Status::invalid_argument("message_request is not set")),
    }
}

/// The file that declares a message, enum, service, method, field, value, oneof or extension.
fn file_of_symbol(name: &str) -> Option<FileDescriptor> {
    if let Some(found) = pool().get_message_by_name(name) {
        return Some(found.parent_file());
    }
    if let Some(found) = pool().get_enum_by_name(name) {
        return Some(found.parent_file());
    }
    if let Some(found) = pool().get_service_by_name(name) {
        return Some(found.parent_file());
    }
    if let Some(found) = pool().get_extension_by_name(name) {
        return Some(found.parent_file());
    }
    let (outer, inner) = name.rsplit_once('.')?;
    if let Some(service) = pool().get_service_by_name(outer) {
        let found = service.methods().any(|m| m.name() == inner);
        return found.then(|| service.parent_file());
    }
    if let Some(kind) = pool().get_message_by_name(outer)
        && (kind.get_field_by_name(inner).is_some() || kind.oneofs().any(|o| o.name() == inner))
    {
        return Some(kind.parent_file());
    }
    // Enum values live beside their enum, not in it.
    let found = pool().all_enums().find(|e| {
        let scope = e
            .full_name()
            .rsplit_once('.')
            .map_or("", |(scope, _)| scope);
        scope == outer && e.get_value_by_name(inner).is_some()
    });
    found.map(|e| e.parent_file())
}

/// The file itself first, then all it imports, each once.
fn with_imports(file: &FileDescriptor) -> Vec<Vec<u8>> {
    let mut seen = HashSet::from([file.name().to_owned()]);
    let mut files = vec![file.clone()];
    let mut at = 0;
    while at < files.len() {
        let imports: Vec<_> = files[at].dependencies().collect();
        files.extend(
            imports
                .into_iter()
                .filter(|f| seen.insert(f.name().to_owned())),
        );
        at += 1;
    }
    files.iter().map(FileDescriptor::encode_to_vec).collect()
}

/// Reads questions until the client stops, and answers each.
fn converse<Q, A>(
    mut questions: Streaming<Q>,
    reply: impl Fn(Q) -> A + Send + 'static,
) -> Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let answer = question.map(&reply);
            let last = answer.is_err();
            if sender.send(answer).await.is_err() || last {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Serves both versions.
#[derive(Clone, Debug, Default)]
pub struct Reflection;

/// The two versions differ in the names of their modules only.
macro_rules! serve_version {
    ($version:ident) => {
        #[tonic::async_trait]
        impl $version::server_reflection_server::ServerReflection for Reflection {
            type ServerReflectionInfoStream = Pin<
                Box<dyn Stream<Item = Result<$version::ServerReflectionResponse, Status>> + Send>,
            >;

            async fn server_reflection_info(
                &self,
                request: Request<Streaming<$version::ServerReflectionRequest>>,
            ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                use $version::server_reflection_request::MessageRequest as Asked;
                use $version::server_reflection_response::MessageResponse as Said;
                let reply = |request: $version::ServerReflectionRequest| {
                    let question = match request.message_request.clone() {
                        Some(Asked::FileByFilename(name)) => Question::File(name),
                        Some(Asked::FileContainingSymbol(name)) => Question::Symbol(name),
                        Some(Asked::FileContainingExtension(e)) => {
                            Question::Extension(e.containing_type, e.extension_number)
                        }
                        Some(Asked::AllExtensionNumbersOfType(name)) => Question::Extensions(name),
                        Some(Asked::ListServices(_)) => Question::Services,
                        None => Question::Nothing,
                    };
                    let said = match answer(&question) {
                        Ok(Answer::Files(file_descriptor_proto)) => {
                            let files = $version::FileDescriptorResponse {
                                file_descriptor_proto,
                            };
                            Said::FileDescriptorResponse(files)
                        }
                        Ok(Answer::Numbers(base_type_name, extension_number)) => {
                            Said::AllExtensionNumbersResponse($version::ExtensionNumberResponse {
                                base_type_name,
                                extension_number,
                            })
                        }
                        Ok(Answer::Services(names)) => {
                            let service = |name| $version::ServiceResponse { name };
                            let service = names.into_iter().map(service).collect();
                            Said::ListServicesResponse($version::ListServiceResponse { service })
                        }
                        Err(status) => Said::ErrorResponse($version::ErrorResponse {
                            error_code: Code::from(status.code()) as i32,
                            error_message: status.message().to_owned(),
                        }),
                    };
                    $version::ServerReflectionResponse {
                        valid_host: request.host.clone(),
                        original_request: Some(request),
                        message_response: Some(said),
                    }
                };
                Ok(Response::new(converse(request.into_inner(), reply)))
            }
        }
    };
}

serve_version!(v1);
serve_version!(v1alpha);

/// The service of version v1.
pub fn v1() -> v1::server_reflection_server::ServerReflectionServer<Reflection> {
    v1::server_reflection_server::ServerReflectionServer::from_arc(Arc::new(Reflection))
}

/// The service of version v1alpha, which older clients speak.
pub fn v1alpha() -> v1alpha::server_reflection_server::ServerReflectionServer<Reflection> {
    v1alpha::server_reflection_server::ServerReflectionServer::from_arc(Arc::new(Reflection))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DynamicMessage;
    use std::collections::BTreeSet;

    fn files(question: &Question) -> Vec<Vec<u8>> {
        match answer(question) {
            Ok(Answer::Files(files)) => files,
            Ok(_) => panic!("the answer is no file"),
            Err(status) => panic!("{status}"),
        }
    }

    #[test]
    fn the_annotations_come_along() {
        let symbol = "opi_api.storage.v1.NullVolumeService.CreateNullVolume".to_owned();
        let mut pool = DescriptorPool::new();
        let mut set = prost_types::FileDescriptorSet::default();
        let mut encoded = Vec::new();
        for file in files(&Question::Symbol(symbol)) {
            // One `file` field of a FileDescriptorSet: tag 1, length-delimited.
            encoded.push(0x0a);
            prost::encode_length_delimiter(file.len(), &mut encoded).unwrap();
            encoded.extend(&file);
            set.file
                .push(prost::Message::decode(file.as_slice()).unwrap());
        }
        assert_eq!(set.file[0].name(), "opi_api/storage/v1/backend_null.proto");
        pool.decode_file_descriptor_set(encoded.as_slice()).unwrap();
        let service = pool
            .get_service_by_name("opi_api.storage.v1.NullVolumeService")
            .unwrap();
        let options: DynamicMessage = service.methods().next().unwrap().options();
        let http = pool.get_extension_by_name("google.api.http").unwrap();
        assert!(options.has_extension(&http));
    }

    #[test]
    fn every_sort_of_symbol_is_found() {
        for symbol in [
            "opi_api.storage.v1.NullVolume",
            "opi_api.storage.v1.NullVolume.block_size",
            "opi_api.storage.v1.NvmeControllerSpec.endpoint",
            "opi_api.storage.v1.NvmeTransportType",
            "opi_api.storage.v1.NVME_TRANSPORT_TYPE_TCP",
            "opi_api.storage.v1.NvmeNamespaceStatus.STATE_ENABLED",
            "opi_api.storage.v1.NullVolumeService",
            "google.api.http",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ] {
            assert!(file_of_symbol(symbol).is_some(), "{symbol}");
        }
        for symbol in ["", "x", "opi_api.storage.v1.NullVolume.x", "opi_api", "."] {
            assert!(file_of_symbol(symbol).is_none(), "{symbol}");
        }
    }

    #[test]
    fn extensions_are_found_by_number() {
        let message = "google.protobuf.MethodOptions".to_owned();
        match answer(&Question::Extensions(message.clone())) {
            Ok(Answer::Numbers(_, numbers)) => assert_eq!(numbers, [1051, 72_295_728]),
            _ => panic!("the answer is no list of numbers"),
        }
        let annotations = files(&Question::Extension(message.clone(), 72_295_728));
        assert!(String::from_utf8_lossy(&annotations[0]).contains("google/api/annotations.proto"));
        for number in [7, -1] {
            assert!(answer(&Question::Extension(message.clone(), number)).is_err());
        }
    }

    #[test]
    fn all_services_are_listed() {
        match answer(&Question::Services) {
            Ok(Answer::Services(names)) => {
                let opi: BTreeSet<_> = names.iter().filter(|n| n.starts_with("opi_")).collect();
                let served: BTreeSet<_> =
                    api::kinds::methods().iter().map(|m| &m.service).collect();
                assert_eq!(opi, served);
                assert!(names.contains(&"grpc.health.v1.Health".to_owned()));
            }
            _ => panic!("the answer is no list of services"),
        }
    }
}
