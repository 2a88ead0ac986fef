//! The programs of the binary as a person uses them: the client, the demo, the settings.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Family, Net, Server, ServerOptions, opi_binary, run};

#[test]
fn the_load_generator_verifies_what_it_reads_back() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let nqn = "nqn.2026-01.org.example:load";
    server.create_malloc("m0", 4096);
    server.export("s0", nqn, "mallocVolumes/m0");
    for (family, digests) in [(Family::V4, ""), (Family::V6, "--hdr-digest --data-digest")] {
        let said = opi(
            &server,
            &format!(
                "bench --traddr {} --nqn {nqn} --rw randrw --bs 4KiB --qd 32 --verify {digests} \
                 --time 2s --output json",
                family.server()
            ),
        );
        let said: Value = serde_json::from_str(&said).expect("bench prints JSON");
        assert!(
            said["total"]["ios"].as_u64().is_some_and(|ios| ios > 100),
            "{said}"
        );
    }
    let stats = server.get("/v1/mallocVolumes/m0:stats").ok();
    for count in ["readOpsCount", "writeOpsCount"] {
        let done = stats["stats"][count].as_i64().unwrap_or_default();
        assert!(done > 100, "{count} is only {done}: {stats}");
    }
}

/// Runs the client with the words of this line; none of them may contain a space.
#[track_caller]
fn opi(server: &Server<'_>, line: &str) -> String {
    server
        .opi(&line.split_whitespace().collect::<Vec<_>>())
        .ok()
}

#[test]
fn the_client_creates_shows_changes_and_deletes() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let opi = |line: &str| opi(&server, line);
    let disk = server.file("disk0").display().to_string();
    opi(&format!(
        "create aio-volume disk0 --filename {disk} --size 64MiB"
    ));
    assert_eq!(fs::metadata(&disk).unwrap().len(), 64 << 20);
    opi("create nvme-subsystem sub0 --nqn nqn.2026-01.org.example:sub0");
    opi("create nvme-namespace ns0 --parent sub0 --volume-name-ref disk0");
    opi("create nvme-controller tcp0 --parent sub0 --trtype tcp \
         --traddr 127.0.0.1 --trsvcid 4420 --adrfam ipv4");

    let json = opi("get aio-volume disk0 -o json");
    let json: Value = serde_json::from_str(&json).expect("-o json prints JSON");
    assert_eq!(json["name"], "aioVolumes/disk0", "{json}");
    assert_eq!(opi("list aio-volumes -o name").trim(), "aioVolumes/disk0");
    for output in ["table", "wide", "yaml"] {
        let text = opi(&format!("list nvme-namespaces --parent sub0 -o {output}"));
        assert!(text.contains("ns0"), "-o {output}: {text}");
    }
    assert!(opi("describe nvme-namespace ns0 --parent sub0").contains("disk0"));
    opi("stats aio-volume disk0");
    opi("create malloc-volume m0 --block-size 512 --blocks-count 8");
    opi("update malloc-volume m0 --blocks-count 16");
    assert!(opi("get malloc-volume m0 -o yaml").contains("16"));

    opi("delete nvme-namespace ns0 --parent sub0");
    opi("delete aio-volume disk0");
    assert_eq!(opi("list aio-volumes -o name").trim(), "");
}

#[test]
fn one_command_connects_an_array_and_one_lets_it_go_unless_it_is_in_use() {
    let net = Net::new();
    let array = Server::start(&net, ServerOptions::default());
    let nqn = "nqn.2026-01.org.example:array";
    array.create_malloc("m0", 1024);
    array.export("s0", nqn, "mallocVolumes/m0");
    let options = ServerOptions {
        number: 1,
        ..ServerOptions::default()
    };
    let xpu = Server::start(&net, options);
    for family in [Family::V4, Family::V6] {
        let said = opi(&xpu, &format!("connect -a {} -n {nqn}", family.server()));
        assert!(said.contains("nvmeRemoteNamespaces/n1"), "{said}");
    }
    let paths = opi(&xpu, "list nvme-paths --parent array -o name");
    assert_eq!(paths.lines().count(), 2, "{paths}");

    xpu.create_subsystem("s1", "nqn.2026-01.org.example:disk");
    xpu.create_namespace("s1", "n1", "arrayn1", 1);
    let refused = xpu.opi(&["disconnect", "-n", nqn]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.text.contains("nvmeNamespaces/n1"), "{refused}");
    let paths = opi(&xpu, "list nvme-paths --parent array -o name");
    assert_eq!(paths.lines().count(), 2, "nothing was taken apart: {paths}");

    opi(&xpu, "delete nvme-namespace n1 --parent s1");
    opi(&xpu, &format!("disconnect -n {nqn}"));
    let left = opi(&xpu, "list nvme-remote-controllers -o name");
    assert_eq!(left.trim(), "");
    let late = xpu.opi(&[
        "connect",
        "-a",
        "127.0.0.1",
        "-s",
        "9",
        "-n",
        nqn,
        "--wait",
        "1s",
    ]);
    assert_eq!(late.status, 1, "{late}");
    assert!(late.text.contains("refused"), "{late}");
}

#[test]
fn what_the_client_prints_it_applies_again() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let opi = |line: &str| opi(&server, line);
    opi("create nvme-subsystem sub0 --nqn nqn.2026-01.org.example:sub0");
    let manifest = server.file("more.yaml");
    let document = opi("get nvme-subsystem sub0 -o yaml");
    fs::write(&manifest, document.replace("sub0", "sub1")).unwrap();
    let apply = format!("apply -f {}", manifest.display());
    opi(&apply);
    opi(&apply);
    let names = opi("list nvme-subsystems -o name");
    assert_eq!(
        names.lines().collect::<Vec<_>>(),
        ["nvmeSubsystems/sub0", "nvmeSubsystems/sub1"]
    );
}

#[test]
fn the_clients_errors_are_one_line_and_its_exit_codes_mean_something() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let missing = server.opi(&["get", "malloc-volume", "nothing"]);
    assert_eq!(missing.status, 1, "{missing}");
    assert_eq!(missing.text.trim().lines().count(), 1, "{missing}");
    assert!(missing.text.contains("nothing"), "{missing}");
    let usage = server.opi(&["create", "malloc-volume", "m0", "--colour", "red"]);
    assert_eq!(usage.status, 2, "{usage}");
    let unknown = server.opi(&["frobnicate"]);
    assert_eq!(unknown.status, 2, "{unknown}");
    assert!(server.opi(&["--help"]).ok().contains("create"));

    let mut nobody = net.command(&opi_binary());
    nobody
        .args(["list", "malloc-volumes"])
        .env("OPI_ADDR", "127.0.0.1:1");
    let nobody = run(&mut nobody);
    assert_eq!(nobody.status, 1, "{nobody}");
    assert!(nobody.text.contains("127.0.0.1:1"), "{nobody}");
}

/// Runs a demo until it has said all of `wanted`, looks at it with `look`, and ends it with Ctrl-C.
fn demo(flag: &str, wanted: &[&str], look: impl FnOnce(&Net)) {
    let net = Net::new();
    let mut child = net
        .command(&opi_binary())
        .args(["serve", flag])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`ip netns exec` starts");
    let (send, lines) = mpsc::channel();
    let errors = child.stderr.take().expect("it is a pipe");
    let out = child.stdout.take().expect("it is a pipe");
    // Both threads end with the program, which closes its ends of the pipes.
    for stream in [
        Box::new(out) as Box<dyn std::io::Read + Send>,
        Box::new(errors),
    ] {
        let send = send.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
    }
    drop(send);
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut said = String::new();
    while !wanted.iter().all(|w| said.contains(w)) {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = lines.recv_timeout(left);
        said += &line.unwrap_or_else(|e| panic!("{e}, not all of {wanted:?} in:\n{said}"));
        said.push('\n');
    }
    look(&net);
    run(Command::new("kill").args(["-INT", &child.id().to_string()])).ok();
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child can be waited for") {
            break status;
        }
        assert!(Instant::now() < deadline, "the demo does not end:\n{said}");
        thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}:\n{said}");
}

#[test]
fn the_demo_checks_itself_says_what_to_do_next_and_ends_on_ctrl_c() {
    let wanted = [
        "127.0.0.1",
        "4420",
        "nqn.",
        "nvme connect",
        "/docs",
        "Ctrl-C",
    ];
    demo("--demo", &wanted, |net| {
        let mut curl = net.command(Path::new("curl"));
        run(curl.args(["-fsS", "http://127.0.0.1:8082/v1/nvmeSubsystems"])).ok();
    });
}

#[test]
fn the_xpu_demo_cuts_a_path_under_load_and_loses_nothing() {
    let wanted = [
        "path b is cut",
        "path b is back",
        "nothing was lost",
        "Ctrl-C",
    ];
    demo("--demo=xpu", &wanted, |net| {
        let mut bench = net.command(&opi_binary());
        let disk = "tcp://127.0.0.1:4420/nqn.2026-01.org.opiproject:demo";
        run(bench.args(["bench", disk, "--rw", "randrw", "--verify", "--time", "1s"])).ok();
    });
}

#[test]
fn the_published_sequences_run_as_scripts() {
    let net = Net::new();
    let demos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demos");
    let mut script = net.command(&demos.join("bridge.sh"));
    let said = run(script.env("OPI", opi_binary())).ok();
    assert!(said.ends_with("done: every call succeeded\n"), "{said}");
    assert!(said.contains(", 0 wrong"), "nothing was verified:\n{said}");
}

#[test]
fn management_in_the_clear_stays_on_loopback_unless_asked_for() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let serve = |words: &[&str]| {
        let mut command = net.command(&opi_binary());
        command
            .args(["serve", "--state-dir"])
            .arg(folder.path().join("state"));
        run(command.args(words))
    };
    let refused = serve(&["--http-addr", "10.77.0.1:8082"]);
    assert!(
        refused.status != 0 && refused.text.contains("--insecure"),
        "{refused}"
    );
    let printed = serve(&["--http-addr", "127.0.0.1:9999", "--print-config"]).ok();
    assert!(printed.contains("127.0.0.1:9999"), "{printed}");
}

#[test]
fn legacy_names_are_the_reference_bridges() {
    let net = Net::new();
    let options = ServerOptions {
        arguments: vec!["--legacy-names".into()],
        ..ServerOptions::default()
    };
    let server = Server::start(&net, options);
    assert_eq!(
        server.create_malloc("Malloc0", 1024)["name"],
        "volumes/Malloc0"
    );
    server.create_subsystem("subsystem1", "nqn.2026-01.org.example:legacy");
    let namespace = server.create_namespace("subsystem1", "ns1", "volumes/Malloc0", 1);
    assert_eq!(
        namespace["name"],
        "nvmeSubsystems/subsystem1/nvmeNamespaces/ns1"
    );
}
