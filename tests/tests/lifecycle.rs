//! Starting, stopping, crashing: what was acknowledged stays, what cannot work is said plainly.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Family, Net, Server, ServerOptions, opi_binary, run};

const NQN: &str = "nqn.2026-01.org.example:life";

/// Runs a second server with these arguments, which must fail, and returns what it said.
fn fails_to_serve(net: &Net, words: &[&str]) -> String {
    let mut command = net.command(&opi_binary());
    let output = run(command.arg("serve").args(words));
    assert_eq!(output.status, 1, "{output}");
    let last = output.text.lines().last().unwrap_or_default().to_owned();
    assert!(!output.text.contains("panicked"), "{output}");
    last
}

#[test]
fn everything_acknowledged_is_there_after_kill_9() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    let disk = server.file("disk");
    server.create_aio("a0", &disk, 1024);
    server.create_malloc("m0", 1024);
    server.export("s0", NQN, "aioVolumes/a0");
    for n in 2..20 {
        server.create_malloc(&format!("m{n}"), 64);
        server.create_namespace("s0", &format!("n{n}"), &format!("mallocVolumes/m{n}"), n);
    }
    server
        .delete("/v1/nvmeSubsystems/s0/nvmeNamespaces/n7")
        .ok();
    let all = |server: &Server<'_>| -> Vec<String> {
        let lists = [
            "/v1/aioVolumes",
            "/v1/mallocVolumes",
            "/v1/nvmeSubsystems",
            "/v1/nvmeSubsystems/s0/nvmeControllers",
            "/v1/nvmeSubsystems/s0/nvmeNamespaces",
        ];
        lists
            .iter()
            .flat_map(|path| resources(server.get(path).ok()))
            .collect()
    };
    let before = all(&server);
    assert_eq!(before.len(), 1 + 19 + 1 + 2 + 18);
    for _ in 0..3 {
        server.restart();
        for (now, then) in all(&server).iter().zip(&before) {
            assert_eq!(now, then);
        }
        assert_eq!(all(&server).len(), before.len());
    }
    assert_eq!(fs::metadata(&disk).unwrap().len(), 1024 * 4096);
}

/// The resources of a list. A memory volume comes back empty, so with a new identity.
fn resources(mut list: Value) -> Vec<String> {
    without_identities(&mut list);
    let arrays = list
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.values());
    arrays
        .filter_map(Value::as_array)
        .flatten()
        .map(Value::to_string)
        .collect()
}

fn without_identities(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for identity in ["uuid", "nguid", "eui64"] {
                fields.remove(identity);
            }
            fields.values_mut().for_each(without_identities);
        }
        Value::Array(items) => items.iter_mut().for_each(without_identities),
        _ => {}
    }
}

#[test]
fn a_kill_in_the_middle_of_creating_loses_nothing_acknowledged() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    let mut acknowledged = 0;
    for round in 0..5_u64 {
        let pid = server.pid().expect("the server runs").to_string();
        // Another process ends the server while requests go on.
        let mut killer = Command::new("sh")
            .args(["-c", &format!("sleep 0.{}; kill -KILL {pid}", 1 + round)])
            .spawn()
            .unwrap();
        let body = json!({"blockSize": "512", "blocksCount": "8"});
        loop {
            let path = format!("/v1/mallocVolumes?malloc_volume_id=v{acknowledged}");
            let Ok(reply) = server.try_request("POST", &path, Some(&body)) else {
                break;
            };
            reply.ok();
            acknowledged += 1;
        }
        killer.wait().unwrap();
        server.restart();
        for n in 0..acknowledged {
            server.get(&format!("/v1/mallocVolumes/v{n}")).ok();
        }
    }
    assert!(acknowledged > 5, "only {acknowledged} volumes were made");
}

#[test]
fn a_file_that_vanished_is_an_error_and_not_a_new_disk() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    let disk = server.file("disk");
    server.create_aio("a0", &disk, 1024);
    server.create_malloc("m0", 1024);
    server.export("s0", NQN, "aioVolumes/a0");
    server.kill9();
    let aside = server.file("aside");
    fs::rename(&disk, &aside).unwrap();
    server.launch();
    assert!(!disk.exists(), "replay made a new file");
    server.get("/v1/aioVolumes/a0").ok();
    server.get("/v1/mallocVolumes/m0").ok();
    let namespace = server.get("/v1/nvmeSubsystems/s0/nvmeNamespaces/n1").ok();
    assert_eq!(
        namespace["status"]["operState"], "OPER_STATE_OFFLINE",
        "{namespace}"
    );

    fs::rename(&aside, &disk).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let namespace = server.get("/v1/nvmeSubsystems/s0/nvmeNamespaces/n1").ok();
        if namespace["status"]["operState"] == "OPER_STATE_ONLINE" {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the volume does not come back: {namespace}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn what_is_in_use_cannot_be_deleted() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", 1024);
    server.export("s0", NQN, "mallocVolumes/m0");
    let message = server.delete("/v1/mallocVolumes/m0").err(400);
    assert!(
        message.contains("nvmeSubsystems/s0/nvmeNamespaces/n1"),
        "{message}"
    );
    server.delete("/v1/nvmeSubsystems/s0").err(400);
    server
        .delete("/v1/nvmeSubsystems/s0/nvmeNamespaces/n1")
        .ok();
    server.delete("/v1/mallocVolumes/m0").ok();
}

#[test]
fn a_second_server_on_the_same_state_is_refused() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let state = server.file("state").display().to_string();
    let addresses = [
        "--grpc-addr",
        "127.0.0.1:50052",
        "--http-addr",
        "127.0.0.1:8083",
    ];
    let said = fails_to_serve(&net, &[&addresses[..], &["--state-dir", &state]].concat());
    assert!(said.contains(&state), "{said}");
    assert!(server.is_ready());
}

#[test]
fn a_port_in_use_is_named() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let state = server.file("other").display().to_string();
    let words = ["--http-addr", "127.0.0.1:8083", "--state-dir", &state];
    let said = fails_to_serve(&net, &[&["--grpc-addr", Server::GRPC], &words[..]].concat());
    assert!(said.contains("50051"), "{said}");

    // The same for a listener the API asks for.
    server.create_subsystem("s0", NQN);
    let taken = json!({"spec": {
        "trtype": "NVME_TRANSPORT_TYPE_TCP",
        "fabricsId": {"traddr": "127.0.0.1", "trsvcid": "8082",
                      "adrfam": "NVME_ADDRESS_FAMILY_IPV4"},
    }});
    let path = "/v1/nvmeSubsystems/s0/nvmeControllers?nvme_controller_id=c0";
    let reply = server.post(path, &taken);
    assert!(
        reply.status >= 400 && reply.body.contains("8082"),
        "{}",
        reply.body
    );
    server
        .get("/v1/nvmeSubsystems/s0/nvmeControllers/c0")
        .err(404);
}

#[test]
fn a_state_directory_that_cannot_be_one_is_named() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let state = file.display().to_string();
    let said = fails_to_serve(&net, &["--state-dir", &state]);
    assert!(said.contains(&state), "{said}");
}

#[test]
fn a_damaged_store_is_reported_and_left_alone() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", 1024);
    server.kill9();
    let store = server.file("state").join("store.redb");
    let bytes = fs::read(&store).unwrap();
    fs::write(&store, &bytes[..bytes.len() / 3]).unwrap();
    let state = server.file("state").display().to_string();
    let said = fails_to_serve(&net, &["--state-dir", &state]);
    assert!(said.contains("store.redb"), "{said}");
    assert_eq!(
        fs::metadata(&store).unwrap().len() as usize,
        bytes.len() / 3
    );
    fs::write(&store, &bytes).unwrap();
    server.launch();
    server.get("/v1/mallocVolumes/m0").ok();
}

#[test]
fn sigterm_ends_the_server_in_order() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", 1024);
    server.export("s0", NQN, "mallocVolumes/m0");
    assert!(server.stop(), "{}", server.log());
    server.launch();
    server.get("/v1/nvmeSubsystems/s0").ok();
}

#[test]
fn health_readiness_and_metrics_are_served() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", 1024);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/readyz").status, 200);
    let metrics = server.get("/metrics");
    assert_eq!(metrics.status, 200);
    for wanted in ["# HELP", "# TYPE", "_total", "mallocVolumes/m0"] {
        assert!(
            metrics.body.contains(wanted),
            "no {wanted} in:\n{}",
            metrics.body
        );
    }
    let inventory = server.get("/v1/inventory/1/inventory/2").ok();
    assert!(inventory.get("bios").is_some(), "{inventory}");
}

#[test]
fn one_port_serves_several_subsystems_and_one_subsystem_several_ports() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    for n in 0..3 {
        server.create_subsystem(&format!("s{n}"), &format!("{NQN}{n}"));
        server.create_listener(&format!("s{n}"), "v4", Family::V4);
        server.create_listener(&format!("s{n}"), "v6", Family::V6);
    }
    server
        .delete("/v1/nvmeSubsystems/s1/nvmeControllers/v4")
        .ok();
    server
        .delete("/v1/nvmeSubsystems/s1/nvmeControllers/v6")
        .ok();
    server.delete("/v1/nvmeSubsystems/s1").ok();
    let left = server.get("/v1/nvmeSubsystems").ok();
    assert_eq!(
        left["nvmeSubsystems"].as_array().map(Vec::len),
        Some(2),
        "{left}"
    );
}
