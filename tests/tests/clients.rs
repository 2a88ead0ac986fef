//! Clients nobody here wrote: the upstream Python client, Python's gRPC reflection, an OpenAPI
//! validator, curl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tests::{Net, Server, ServerOptions, run};

#[test]
fn pydpu_creates_lists_reads_counts_and_deletes_subsystems() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", 1024);
    server
        .python("pydpu_subsystems.py", &[Server::GRPC, "m0"])
        .ok();
}

/// Blocks of the reference client's test whose kinds nobody makes real yet.
const NOT_YET: &str = "virtio-blk,scsi-controller,scsi-lun,path-tls,encrypted,qos";

/// A server as the reference client's `storage test` expects it.
fn reference_server(net: &Net) -> Server<'_> {
    let options = ServerOptions {
        arguments: vec!["--legacy-names".into()],
        ..ServerOptions::default()
    };
    let server = Server::start(net, options);
    for number in 0..3 {
        server.create_malloc(&format!("Malloc{number}"), 1024);
    }
    server
}

#[test]
fn the_reference_clients_storage_test_goes_through_call_by_call() {
    let net = Net::new();
    let server = reference_server(&net);
    let file = server.file("aio_bdev_file").display().to_string();
    let said = server.python(
        "storage_test.py",
        &[Server::GRPC, &file, "127.0.0.1", NOT_YET],
    );
    let said = said.ok();
    assert_eq!(
        said.lines().count(),
        12 - NOT_YET.split(',').count(),
        "{said}"
    );
}

#[test]
fn reflection_serves_the_opi_interface_and_nothing_different() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let facts = |set: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../proto/facts")
            .join(set)
    };
    for (set, package) in [
        ("storage", "opi_api.storage.v1"),
        ("inventory", "opi_api.inventory.v1"),
    ] {
        let folder = facts(set).display().to_string();
        server
            .python("reflection.py", &[Server::GRPC, &folder, package])
            .ok();
    }
}

#[test]
fn the_openapi_document_is_valid() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let document = server.get("/openapi.json");
    document.clone().ok();
    let file = server.file("openapi.json");
    fs::write(&file, document.body).unwrap();
    server
        .python("openapi.py", &[&file.display().to_string()])
        .ok();

    let page = server.get("/docs");
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains("<html") && page.body.contains("openapi.json"),
        "{}",
        page.body
    );
}

/// Runs curl inside the network; prints the body and, on a line of its own, the status.
fn curl(net: &Net, words: &[&str]) -> (String, u16) {
    let mut command: Command = net.command(Path::new("curl"));
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code}"]);
    let text = run(command.args(words)).ok();
    let (body, status) = text.rsplit_once('\n').expect("curl writes the status last");
    (
        body.to_owned(),
        status.parse().expect("the status is a number"),
    )
}

#[test]
fn curl_makes_changes_and_deletes_volumes() {
    let net = Net::new();
    let _server = Server::start(&net, ServerOptions::default());
    let base = format!("http://{}/v1", Server::HTTP);
    let volumes = format!("{base}/mallocVolumes");
    let create = format!("{volumes}?mallocVolumeId=m0");
    let camel = r#"{"blockSize":"512","blocksCount":"2048"}"#;
    let (body, status) = curl(&net, &["-d", camel, &create]);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("mallocVolumes/m0"), "{body}");

    let snake = r#"{"block_size":"512","blocks_count":"4096"}"#;
    let (body, status) = curl(
        &net,
        &["-X", "PATCH", "-d", snake, &format!("{volumes}/m0")],
    );
    assert_eq!(status, 200, "{body}");
    let (body, status) = curl(&net, &[&format!("{volumes}/m0")]);
    assert_eq!((status, body.contains(r#""4096""#)), (200, true), "{body}");

    let (body, status) = curl(&net, &[&format!("{volumes}/m0:stats")]);
    assert_eq!(
        (status, body.contains("readOpsCount")),
        (200, true),
        "{body}"
    );
    let (body, status) = curl(&net, &["-X", "DELETE", &format!("{volumes}/m0")]);
    assert_eq!(status, 200, "{body}");
    let (body, status) = curl(&net, &[&format!("{volumes}/m0")]);
    assert_eq!(status, 404, "{body}");
    assert!(body.contains("m0"), "{body}");
}

#[test]
fn bad_requests_are_answered_with_what_is_wrong() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let volume = |id: &str, size: &str, count: &str| {
        let body = json!({"blockSize": size, "blocksCount": count});
        server.post(&format!("/v1/mallocVolumes?malloc_volume_id={id}"), &body)
    };
    for (id, size, count, field) in [
        ("Capital", "512", "8", "malloc_volume_id"),
        ("a%2Fb", "512", "8", "malloc_volume_id"),
        ("ok", "0", "8", "block_size"),
        ("ok", "-512", "8", "block_size"),
        ("ok", "512", "-1", "blocks_count"),
        ("ok", "512", "9223372036854775807", "blocks_count"),
    ] {
        let reply = volume(id, size, count);
        assert!(
            reply.body.contains(field),
            "{}: {}",
            reply.request,
            reply.body
        );
        reply.err(400);
    }
    volume("ok", "512", "8").ok();
    volume("ok", "512", "8").ok();
    volume("ok", "512", "16").err(409);

    let path = "/v1/mallocVolumes?malloc_volume_id=x";
    let message = server.post(path, &json!({"blokSize": "512"})).err(400);
    assert!(message.contains("blokSize"), "{message}");
    let mask = "/v1/mallocVolumes/ok?update_mask=colour";
    assert!(
        server
            .patch(mask, &json!({"blockSize": "512"}))
            .err(400)
            .contains("colour")
    );
    server.get("/v1/mallocVolumes?page_token=forged").err(400);
    server.get("/v1/mallocVolumes?page_size=-1").err(400);
    server.get("/v1/nothing").err(404);
    server.get("/v1/mallocVolumes/missing").err(404);

    // A kind nobody makes real yet says so instead of pretending.
    let body = json!({"volumeNameRef": "mallocVolumes/ok"});
    server
        .post("/v1/virtioBlks?virtio_blk_id=b", &body)
        .err(501);
    // A secret is refused, never ignored.
    let secret = json!({"spec": {"nqn": "nqn.2026-01.org.example:s", "psk": "c2VjcmV0"}});
    let refused = server.post("/v1/nvmeSubsystems?nvme_subsystem_id=s", &secret);
    assert!(
        refused.status >= 400 && refused.body.contains("psk"),
        "{}",
        refused.body
    );
    assert!(!refused.body.contains("c2VjcmV0") && !server.log().contains("c2VjcmV0"));
}

#[test]
fn the_list_routes_that_collide_upstream_each_have_an_answer() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    // Nobody makes these kinds real yet, so the answer is an empty list or a plain no.
    for path in ["/v1/volumes", "/v1/encryptedVolumes", "/v1/qosVolumes"] {
        let reply = server.get(path);
        assert!(
            matches!(reply.status, 200 | 501),
            "{path}: {} {}",
            reply.status,
            reply.body
        );
    }
}
