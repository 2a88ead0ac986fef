//! Management beyond loopback, as its users meet it: the real client against the real server.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::{Family, Net, Output, opi_binary, run};

/// How long the server may take to answer; it takes a second on a quiet machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// An authority with the certificates it gave out, as PEM files.
struct Authority(TempDir);

impl Authority {
    /// One that vouches for a server at this address, and for a client.
    fn new(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let openssl = |line: &str| {
            let mut openssl = Command::new("openssl");
            openssl.args(line.split_whitespace()).current_dir(&folder);
            run(&mut openssl).ok();
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"
        ));
        for (file, name) in [
            ("server", format!("IP:{server}")),
            ("client", "DNS:client".into()),
        ] {
            openssl(&format!(
                "req {key} -keyout {file}.key -out {file}.csr -subj /CN={file} \
                 -addext subjectAltName={name}"
            ));
            openssl(&format!(
                "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -days 2 -out {file}.pem \
                 -copy_extensions copyall"
            ));
        }
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lists volumes with these flags.
fn list(net: &Net, address: &str, flags: &[(&str, &Path)]) -> Output {
    let mut command = net.command(&opi_binary());
    command.args(["list", "malloc-volumes", "--addr", address]);
    for (flag, file) in flags {
        command.arg(flag).arg(file);
    }
    run(&mut command)
}

#[track_caller]
fn refused(output: &Output, hint: &str) {
    assert_eq!(output.status, 1, "{output}");
    assert_eq!(output.text.trim().lines().count(), 1, "{output}");
    assert!(output.text.contains(hint), "{output}");
}

#[test]
fn beyond_loopback_only_known_clients_get_in_and_others_are_told_why() {
    let net = Net::new();
    let host = Family::V4.server();
    let (ours, theirs) = (Authority::new(host), Authority::new(host));
    let state = tempfile::tempdir().unwrap();
    let mut command = net.command(&opi_binary());
    command.args(["serve", "--grpc-addr", &format!("{host}:50051")]);
    command.args(["--http-addr", &format!("{host}:8082")]);
    for (flag, name) in [("--state-dir", "state"), ("--key-file", "seal.key")] {
        command.arg(flag).arg(state.path().join(name));
    }
    for (flag, name) in [
        ("--tls-cert", "server.pem"),
        ("--tls-key", "server.key"),
        ("--tls-client-ca", "ca.pem"),
    ] {
        command.arg(flag).arg(ours.file(name));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let _server = Process(command.stderr(Stdio::null()).spawn().unwrap());

    let address = format!("{host}:50051");
    let (ca, cert, key) = (
        ours.file("ca.pem"),
        ours.file("client.pem"),
        ours.file("client.key"),
    );
    let known: [(&str, &Path); 3] = [
        ("--tls-ca", &ca),
        ("--tls-cert", &cert),
        ("--tls-key", &key),
    ];
    let until = Instant::now() + START_LIMIT;
    while list(&net, &address, &known).status != 0 {
        assert!(Instant::now() < until, "{}", list(&net, &address, &known));
        sleep(Duration::from_millis(100));
    }

    // Without a certificate, with one of somebody else's, and in the clear.
    refused(&list(&net, &address, &known[..1]), "--tls-cert");
    let (cert, key) = (theirs.file("client.pem"), theirs.file("client.key"));
    let stranger: [(&str, &Path); 3] = [known[0], ("--tls-cert", &cert), ("--tls-key", &key)];
    refused(&list(&net, &address, &stranger), "--tls-cert");
    refused(&list(&net, &address, &[]), "--tls-ca");
    // The client does not trust a server of another authority either.
    let ca = theirs.file("ca.pem");
    refused(
        &list(&net, &address, &[("--tls-ca", &ca), known[1], known[2]]),
        "--tls-ca",
    );
    list(&net, &address, &known).ok();
}
