//! `opi discover` and `opi connect-all`.

use crate::fake::{ARRAY, Fake};

#[test]
fn what_is_offered_is_shown_in_every_format() {
    let fake = Fake::start();
    let said = fake
        .opi(&format!("discover -t tcp -a {ARRAY} -s 4420"))
        .unwrap();
    let lines: Vec<Vec<_>> = said
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0],
        ["SUBTYPE", "TRTYPE", "ADRFAM", "TRADDR", "TRSVCID", "SUBNQN"]
    );
    let first = [
        "nvm",
        "tcp",
        "ipv4",
        ARRAY,
        "4420",
        "nqn.2026-01.org.example:array",
    ];
    assert_eq!((lines.len(), &lines[1][..]), (4, &first[..]));
    // The port for discovery is the default.
    let said = fake.opi(&format!("discover -a {ARRAY} -o wide")).unwrap();
    assert!(said.contains("SECTYPE") && said.contains("65535"), "{said}");
    assert!(said.contains("referral") && said.contains("rdma"), "{said}");
    let said = fake
        .opi(&format!("discover -a {ARRAY} -s 4420 -o json"))
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(json["generation"], "5", "{json}");
    assert_eq!(json["entries"][1]["traddr"], "192.0.3.7", "{json}");
    assert_eq!(
        json["entries"][0]["subtype"], "SUBSYSTEM_TYPE_NVM",
        "{json}"
    );
    let said = fake
        .opi(&format!("discover -a {ARRAY} -s 4420 -o yaml"))
        .unwrap();
    assert!(said.contains("traddr: \"192.0.3.7\""), "{said}");
    let said = fake
        .opi(&format!("discover -a {ARRAY} -s 4420 -o name"))
        .unwrap();
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn a_discovery_that_fails_says_so_in_one_line() {
    let fake = Fake::start();
    for command in ["discover", "connect-all"] {
        let (code, why) = fake.opi(&format!("{command} -a 192.0.2.99")).unwrap_err();
        assert_eq!(code, 1);
        assert_eq!(why, "nothing is discovered at 192.0.2.99 (UNAVAILABLE)");
        assert_eq!(fake.opi(command).unwrap_err().0, 2);
    }
    let (said, end) = fake.run(&format!("discover -a {ARRAY} --referrals"));
    assert!(said.contains("referral"), "{said}");
    assert_eq!(end, Err((1, "not every referral was followed".to_owned())));
}

#[test]
fn everything_is_connected_once_and_what_is_there_stays() {
    let fake = Fake::start();
    let all = format!("connect-all -a {ARRAY} -s 4420 -g");
    let said = fake.opi(&all).unwrap();
    let wanted = "nvmeRemoteControllers/array/nvmePaths/p0 connected\n\
                  nvmeRemoteControllers/array/nvmePaths/p1 connected\n\
                  nvmeRemoteControllers/array-2/nvmePaths/p0 connected\n";
    assert_eq!(said, wanted);
    let controller = fake.json("nvmeRemoteControllers/array-2");
    assert_eq!(controller["tcp"]["hdgst"], true, "{controller}");
    let path = fake.json("nvmeRemoteControllers/array/nvmePaths/p1");
    assert_eq!(path["traddr"], "192.0.3.7", "{path}");
    assert_eq!(path["fabrics"]["trsvcid"], "4420", "{path}");
    fake.calls();
    let again = fake.opi(&all).unwrap();
    assert_eq!(again, wanted.replace(" connected", " already connected"));
    let calls = fake.calls();
    assert!(
        calls.iter().all(|call| !call.starts_with("Create")),
        "{calls:?}"
    );
}

#[test]
fn what_cannot_be_connected_does_not_keep_the_rest_from_it() {
    let fake = Fake::start();
    let (said, end) = fake.run(&format!("connect-all -a {ARRAY}"));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(
        lines[0].ends_with("skipped: its transport is not TCP"),
        "{said}"
    );
    // A referral and what demands TLS.
    let wanted = "2 of what is offered could not be connected".to_owned();
    assert_eq!(end, Err((1, wanted)));
}
