//! The reference Go client, unmodified, on machines that can get it.

use std::fs;
use std::path::Path;

use tests::{Net, Server, ServerOptions, go_client, run};

/// What it says when it comes to something that nobody makes real yet.
const NOT_YET: &str = "code = Unimplemented";

#[test]
fn its_storage_test_goes_through_up_to_what_is_not_there_yet() {
    let net = Net::new();
    let options = ServerOptions {
        arguments: vec!["--legacy-names".into()],
        ..ServerOptions::default()
    };
    let server = Server::start(&net, options);
    for number in 0..3 {
        server.create_malloc(&format!("Malloc{number}"), 1024);
    }
    // It looks the array's host up by this name.
    let hosts = server.file("hosts");
    fs::write(&hosts, "127.0.0.1 localhost spdk\n").unwrap();
    let test = |part: &str| {
        let line = format!(
            "mount --bind {} /etc/hosts && exec {} storage test {part} --addr {}",
            hosts.display(),
            go_client().display(),
            Server::GRPC
        );
        let mut command = net.command(Path::new("unshare"));
        run(command.args(["--mount", "sh", "-c", &line]))
    };
    test("frontend nvme").ok();
    for (part, wanted) in [
        ("frontend virtio-blk", "virtioBlks are not implemented"),
        ("frontend scsi", "virtioScsiControllers are not implemented"),
        ("middleend", "encryptedVolumes are not implemented"),
        // All but TLS of its paths; what comes after them is in the same sequence of our own.
        ("backend", "TLS is not implemented"),
    ] {
        let said = test(part).err();
        assert!(
            said.contains(NOT_YET) && said.contains(wanted),
            "{part}: {said}"
        );
    }
}
