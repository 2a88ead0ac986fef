//! The harness itself, against a target nobody here wrote: the Linux kernel's nvmet in one
//! guest, its NVMe/TCP host in another. What fails here is the harness's fault, not the server's.

use tests::scenario::{self, Digests};
use tests::{Family, Guest, GuestOptions, Net};

const NQN: &str = "nqn.2026-01.org.example:reference";

#[test]
fn the_guest_scripts_work_against_the_kernels_own_target() {
    let net = Net::new();
    let mut target = Guest::boot(
        &net,
        &GuestOptions {
            number: 2,
            ..GuestOptions::default()
        },
    );
    let mut host = Guest::boot(&net, &GuestOptions::default());
    target.run(&scenario::reference_target(NQN)).ok();

    let (v4, v6) = (target.address(Family::V4), target.address(Family::V6));
    assert!(host.run(&scenario::discover(&v4)).ok().contains(NQN));
    assert!(host.run(&scenario::discover(&v6)).ok().contains(NQN));
    host.run(&scenario::connect_all(&v6)).ok();
    host.run(&scenario::compare_data(NQN, 1)).ok();
    host.run(&scenario::disconnect(NQN)).ok();

    host.run(&scenario::connect(&v4, NQN, Digests::Both)).ok();
    host.run(&scenario::admin_commands(NQN, 1)).ok();
    host.run(&scenario::fio_verify(NQN, 1)).ok();
    host.run(&scenario::make_file_system(NQN, 1)).ok();
    host.run(scenario::START_WRITING).ok();
    host.run(scenario::CHECK_FIRST_FILES).ok();
    host.run(scenario::STOP_WRITING).ok();
    host.run(&scenario::check_file_system(NQN, 1)).ok();

    // The checks must be able to fail, too.
    host.run(&format!(
        "mount $(disk_of {NQN} 1) /mnt; echo x >>/mnt/first/7"
    ))
    .ok();
    let complaint = host.run(scenario::CHECK_FIRST_FILES).err();
    assert!(complaint.contains("7: FAILED"), "{complaint}");
    target
        .run(&format!(
            "echo 0 >/sys/kernel/config/nvmet/subsystems/{NQN}/namespaces/1/enable"
        ))
        .ok();
    host.run(&format!("no_disk {NQN} 1")).ok();
}
