//! What the verbs ask the server for, and what they say.

use crate::fake::{Fake, NO_DRIVE};

#[test]
fn a_volume_is_created_shown_changed_and_deleted() {
    let fake = Fake::start();
    let said = fake.opi("create malloc-volume m0 --size 1GiB").unwrap();
    assert_eq!(said, "mallocVolumes/m0 created\n");
    let volume = fake.json("mallocVolumes/m0");
    assert_eq!(
        (&volume["blockSize"], &volume["blocksCount"]),
        (&"4096".into(), &"262144".into())
    );

    let table = fake.opi("get mallocVolumes").unwrap();
    assert_eq!(
        table,
        "NAME   SIZE   BLOCK-SIZE\nm0     1GiB         4096\n"
    );
    for form in [
        "malloc m0",
        "malloc-volume/m0",
        "mallocVolumes/m0",
        "mallocvolume m0",
    ] {
        let name = fake.opi(&format!("get {form} -o name")).unwrap();
        assert_eq!(name, "mallocVolumes/m0\n", "{form}");
    }

    fake.calls();
    assert_eq!(
        fake.opi("update malloc m0 --size 2GiB").unwrap(),
        "mallocVolumes/m0 updated\n"
    );
    // The block size is asked for, and only the number of blocks is changed.
    assert_eq!(
        fake.calls(),
        ["GetMallocVolume", "UpdateMallocVolume", "blocks_count"]
    );
    assert_eq!(fake.json("mallocVolumes/m0")["blocksCount"], "524288");

    assert_eq!(
        fake.opi("delete malloc m0").unwrap(),
        "mallocVolumes/m0 deleted\n"
    );
    assert_eq!(fake.opi("get malloc").unwrap(), "no malloc volumes\n");
}

#[test]
fn children_are_made_below_their_parents() {
    let fake = Fake::start();
    fake.opi("create subsystem s0 --nqn nqn.2024-01.org.example:s0")
        .unwrap();
    fake.opi("create subsystem s1 --spec-nqn nqn.2024-01.org.example:s1")
        .unwrap();
    let address = "--trtype tcp --adrfam ipv4 --traddr 127.0.0.1 --trsvcid 4420";
    for place in ["c0 --parent s0", "c0 --parent subsystem/s1", "s1/c1"] {
        fake.opi(&format!("create nvme-controller {place} {address}"))
            .unwrap();
    }
    let names = fake.opi("list nvme-controllers -o name").unwrap();
    let wanted = [
        "nvmeSubsystems/s0/nvmeControllers/c0",
        "nvmeSubsystems/s1/nvmeControllers/c0",
        "nvmeSubsystems/s1/nvmeControllers/c1",
    ];
    assert_eq!(names.lines().collect::<Vec<_>>(), wanted);
    let table = fake.opi("list nvme-controllers --parent s1").unwrap();
    assert!(
        table.contains("s1/c1   tcp") && !table.contains("s0/"),
        "{table}"
    );
    let (code, why) = fake
        .opi(&format!("create nvme-controller c9 {address}"))
        .unwrap_err();
    assert!(code == 2 && why.contains("--parent"), "{why}");
}

#[test]
fn all_pages_are_fetched() {
    let fake = Fake::start();
    for i in 0..5 {
        fake.opi(&format!(
            "create null-volume n{i} --block-size 512 --blocks-count 8"
        ))
        .unwrap();
    }
    fake.calls();
    assert_eq!(
        fake.opi("list null-volumes -o name")
            .unwrap()
            .lines()
            .count(),
        5
    );
    assert_eq!(fake.calls().len(), 3);
    assert_eq!(
        fake.opi("list null --limit 3 -o name")
            .unwrap()
            .lines()
            .count(),
        3
    );
    assert_eq!(
        fake.opi("get null n1 n3 -o name").unwrap(),
        "nullVolumes/n1\nnullVolumes/n3\n"
    );
}

#[test]
fn deleting_goes_on_after_a_failure_and_reports_it() {
    let fake = Fake::start();
    fake.opi("create null n0").unwrap();
    let (code, why) = fake.opi("delete null missing n0").unwrap_err();
    assert_eq!(
        (code, &*why),
        (1, "nullVolumes/missing does not exist (NOT_FOUND)")
    );
    assert_eq!(fake.opi("list null -o name").unwrap(), "");
    fake.opi("delete null n0 --allow-missing").unwrap();
}

#[test]
fn a_file_is_applied_in_an_order_that_works_and_only_once() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.yaml");
    let text = "
kind: NvmeNamespace
parent: s0
name: n0
spec: {volumeNameRef: mallocVolumes/m0}
---
kind: NvmeSubsystem
name: s0
spec: {nqn: 'nqn.2024-01.org.example:s0'}
---
name: mallocVolumes/m0
blockSize: 4096
blocksCount: 16
";
    std::fs::write(&path, text).unwrap();
    let apply = format!("apply -f {}", path.display());
    let first = "nvmeSubsystems/s0 created\nmallocVolumes/m0 created\n\
                 nvmeSubsystems/s0/nvmeNamespaces/n0 created\n";
    assert_eq!(fake.opi(&apply).unwrap(), first);
    assert_eq!(
        fake.opi(&apply).unwrap(),
        first.replace("created", "unchanged")
    );

    std::fs::write(&path, text.replace("16", "32")).unwrap();
    fake.calls();
    assert!(
        fake.opi(&apply)
            .unwrap()
            .contains("mallocVolumes/m0 configured")
    );
    assert!(fake.calls().contains(&"blocks_count".to_owned()));

    let deleted = fake.opi(&format!("delete -f {}", path.display())).unwrap();
    let order: Vec<_> = deleted
        .lines()
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    let wanted = [
        "nvmeSubsystems/s0/nvmeNamespaces/n0",
        "mallocVolumes/m0",
        "nvmeSubsystems/s0",
    ];
    assert_eq!(order, wanted);
}

#[test]
fn an_empty_field_of_a_file_is_cleared_and_one_that_is_left_out_stays() {
    let fake = Fake::start();
    fake.opi(
        "create subsystem s0 --nqn nqn.2024-01.org.example:s0 --serial-number SN --model-number M",
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    let text = "kind: NvmeSubsystem\nname: s0\nspec: {serialNumber: '', maxNamespaces: 0}\n";
    std::fs::write(&path, text).unwrap();
    let apply = format!("apply -f {}", path.display());
    assert_eq!(fake.opi(&apply).unwrap(), "nvmeSubsystems/s0 configured\n");
    let spec = &fake.json("nvmeSubsystems/s0")["spec"];
    assert_eq!(spec.get("serialNumber"), None, "{spec}");
    assert_eq!(spec["modelNumber"], "M");
    assert_eq!(fake.opi(&apply).unwrap(), "nvmeSubsystems/s0 unchanged\n");
}

#[test]
fn a_short_reference_to_what_is_referred_to_is_no_change() {
    let fake = Fake::start();
    fake.opi("create subsystem s0 --nqn nqn.2024-01.org.example:s0")
        .unwrap();
    fake.opi("create nvme-namespace n0 --parent s0 --volume-name-ref mallocVolumes/m0")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n.yaml");
    let apply = format!("apply -f {}", path.display());
    for (volume, what) in [
        ("m0", "unchanged"),
        ("volumes/m0", "unchanged"),
        ("mallocVolumes/m0", "unchanged"),
        ("nullVolumes/m0", "configured"),
        ("m1", "configured"),
    ] {
        let text = format!(
            "kind: NvmeNamespace\nparent: s0\nname: n0\nspec: {{volumeNameRef: {volume}}}\n"
        );
        std::fs::write(&path, text).unwrap();
        let said = fake.opi(&apply).unwrap();
        assert_eq!(
            said,
            format!("nvmeSubsystems/s0/nvmeNamespaces/n0 {what}\n"),
            "{volume}"
        );
    }
}

#[test]
fn what_is_shown_can_be_applied() {
    let fake = Fake::start();
    fake.opi("create malloc m0 --size 1MiB --uuid 6f1c8e0a-0000-4000-8000-000000000000")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    for format in ["json", "yaml"] {
        for what in ["get malloc m0", "list malloc"] {
            let path = dir.path().join(format);
            std::fs::write(&path, fake.opi(&format!("{what} -o {format}")).unwrap()).unwrap();
            let said = fake.opi(&format!("apply -f {}", path.display())).unwrap();
            assert_eq!(said, "mallocVolumes/m0 unchanged\n", "{what} -o {format}");
        }
    }
}

#[test]
fn a_watched_list_goes_on_with_what_changes_until_the_server_ends_it() {
    let fake = Fake::start();
    fake.opi("create malloc m0 --size 1MiB").unwrap();
    let ended = Err((1, "the server ended the watch".to_owned()));
    let (said, end) = fake.run("list malloc --watch");
    let news = "mallocVolumes/new READY\nmallocVolumes/new OFFLINE: the disk is away\n\
                mallocVolumes/new gone\n";
    // What was there is in the list alone.
    assert!(said.starts_with("NAME ") && said.ends_with(news), "{said}");
    assert_eq!(said.matches("m0").count(), 1, "{said}");
    assert_eq!(end, ended);
    let (said, end) = fake.run("list malloc --watch -o name");
    let new = "mallocVolumes/new\n";
    assert_eq!(said, format!("mallocVolumes/m0\n{}", new.repeat(3)));
    assert_eq!(end, ended);
}

#[test]
fn describe_and_stats_tell_what_is_observed() {
    let fake = Fake::start();
    fake.opi("create malloc m0 --size 1MiB").unwrap();
    let text = fake.opi("describe malloc m0").unwrap();
    for wanted in [
        "mallocVolumes/m0",
        "1MiB",
        "READY",
        "nvmeSubsystems/s/nvmeNamespaces/n",
        "nvme_path_ana_state nsid=1: optimized",
    ] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    let text = fake.opi("stats malloc m0").unwrap();
    let read: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        read,
        [
            "read", "100", "409600", "0", "1.5us", "2.0us", "2.0us", "2.0us"
        ]
    );
    let json: serde_json::Value =
        serde_json::from_str(&fake.opi("describe malloc m0 -o json").unwrap()).unwrap();
    assert_eq!(json["resource"]["blockSize"], "4096");
    assert_eq!(json["observation"]["stats"]["read"]["ops"], "100");
}

#[test]
fn settings_are_shown_and_changed() {
    let fake = Fake::start();
    let why = fake.opi("settings nvme-remote-controller r0").unwrap_err();
    assert_eq!(why.0, 1, "{why:?}");
    fake.opi("create nvme-remote-controller r0 --multipath failover")
        .unwrap();
    let set = "settings nvmeRemoteControllers/r0 --io-policy round-robin --connect-timeout-ms 700";
    let text = fake.opi(set).unwrap();
    assert_eq!(
        text,
        "Name:               nvmeRemoteControllers/r0/settings\n\
         Io policy:          round-robin\n\
         Connect timeout ms: 700\n"
    );
    assert!(
        fake.calls()
            .contains(&"io_policy,connect_timeout_ms".to_owned())
    );
    fake.opi("settings nvme-remote-controller r0 --update-mask io_policy")
        .unwrap();
    let text = fake
        .opi("settings nvmeRemoteControllers/r0/settings -o json")
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["connectTimeoutMs"], 700);
    assert_eq!(json["ioPolicy"], "NVME_IO_POLICY_UNSPECIFIED");
    let (code, why) = fake.opi("settings malloc m0").unwrap_err();
    assert_eq!(code, 2, "{why}");
}

#[test]
fn top_shows_rates() {
    let fake = Fake::start();
    fake.opi("create malloc m0 --size 1MiB").unwrap();
    let json = fake.opi("top --once --interval 50ms -o json").unwrap();
    let rates: serde_json::Value = serde_json::from_str(&json).unwrap();
    // A thousand reads more at every look, which are at least the interval apart.
    let reads = rates[0]["readsPerSecond"].as_f64().unwrap();
    assert!(reads > 0.0 && reads <= 20_000.0, "{reads}");
    assert_eq!(rates[0]["latencyAvgNs"], 1500);
    assert!(
        fake.opi("top malloc --once --interval 10ms")
            .unwrap()
            .contains("mallocVolumes/m0")
    );
}

#[test]
fn failures_say_what_the_server_said() {
    let fake = Fake::start();
    let (code, why) = fake.opi("get malloc nothing").unwrap_err();
    assert_eq!(
        (code, &*why),
        (1, "mallocVolumes/nothing does not exist (NOT_FOUND)")
    );
    let (code, why) = fake.opi("reset nvme-remote-controller r0").unwrap_err();
    assert!(code == 1 && why.contains("UNIMPLEMENTED"), "{why}");
    let (code, why) = crate::opi("get malloc --addr 127.0.0.1:1").unwrap_err();
    assert!(
        code == 1 && why.contains("127.0.0.1:1") && why.contains("opi serve"),
        "{why}"
    );
    let (code, why) = crate::opi("get banana").unwrap_err();
    assert!(code == 2 && why.contains("malloc-volume"), "{why}");
    let (code, why) = fake.opi("update malloc m0").unwrap_err();
    assert!(code == 2 && why.contains("--help"), "{why}");
}

#[test]
fn a_secret_is_sent_from_its_file_and_never_shown() {
    let fake = Fake::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, b"0123456789abcdef0123456789abcdef").unwrap();
    let line = format!(
        "create encrypted-volume e0 --volume-name-ref m0 --cipher aes-xts-128 --key-file {}",
        path.display()
    );
    let shown = fake.opi(&format!("{line} -o json")).unwrap();
    assert_eq!(
        fake.json("encryptedVolumes/e0")["key"]
            .as_str()
            .unwrap()
            .len(),
        44
    );
    assert!(!shown.contains("MDEyMzQ1"), "{shown}");
    for format in ["table", "wide", "json", "yaml"] {
        let shown = fake
            .opi(&format!("get encrypted-volume e0 -o {format}"))
            .unwrap();
        assert!(
            !shown.contains("MDEyMzQ1") && !shown.contains("30313233"),
            "{shown}"
        );
    }
}

#[test]
fn one_command_connects_an_array_and_the_same_with_another_address_adds_a_path() {
    let fake = Fake::start();
    let nqn = "-n nqn.2026-01.org.example:array";
    let said = fake.opi(&format!("connect -a 192.0.2.7 {nqn} -g"));
    assert_eq!(
        said.unwrap(),
        "nvmeRemoteControllers/array/nvmePaths/p0 connected\n"
    );
    let said = fake
        .opi(&format!("connect -a 2001:db8::7 -s 4421 {nqn}"))
        .unwrap();
    assert!(said.contains("nvmePaths/p1"), "{said}");
    // What is there already is not made twice.
    let said = fake.opi(&format!("connect -a 192.0.2.7 {nqn}")).unwrap();
    assert!(said.contains("nvmePaths/p0"), "{said}");

    let controller = fake.json("nvmeRemoteControllers/array");
    assert_eq!(controller["tcp"]["hdgst"], true, "{controller}");
    assert_eq!(controller["multipath"], "NVME_MULTIPATH_MULTIPATH");
    let path = fake.json("nvmeRemoteControllers/array/nvmePaths/p1");
    assert_eq!(
        path["fabrics"]["adrfam"], "NVME_ADDRESS_FAMILY_IPV6",
        "{path}"
    );
    assert_eq!(path["fabrics"]["trsvcid"], "4421", "{path}");

    let said = fake.opi(&format!("disconnect {nqn}")).unwrap();
    assert_eq!(said, "nvmeRemoteControllers/array disconnected\n");
    let (code, why) = fake.opi("disconnect array").unwrap_err();
    assert!(code == 1 && why.contains("array"), "{why}");
    assert_eq!(fake.opi("disconnect").unwrap_err().0, 2);
}

#[test]
fn a_connect_that_is_refused_leaves_no_controller_behind() {
    let fake = Fake::start();
    let refused = fake.opi(&format!("connect -t pcie -a {NO_DRIVE}"));
    let (code, why) = refused.unwrap_err();
    assert!(code == 1 && why.contains("no such device"), "{why}");
    let left = fake.opi("list nvme-remote-controllers -o name").unwrap();
    assert_eq!(left, "");
}
