//! Paths to local drives, as far as they can be tested without one: what is refused, and what is
//! kept of a drive that is not there. Real ones are tested elsewhere.

use crate::site::Site;
use api::Code;
use api::storage::v1::{
    FabricsPath, NvmeAddressFamily, NvmeMultipath, NvmePath, NvmeRemoteController,
    NvmeTransportType,
};

const REMOTE: &str = "nvmeRemoteControllers/rc";
const PATH: &str = "nvmeRemoteControllers/rc/nvmePaths/p0";
const OTHER: &str = "nvmeRemoteControllers/rc/nvmePaths/p1";
/// Where no machine has a drive: the last function of the last bus of the last domain.
const NOWHERE: &str = "ffff:ff:1f.7";

fn site() -> Site {
    let site = Site::new();
    let spec = NvmeRemoteController {
        multipath: NvmeMultipath::Failover.into(),
        ..NvmeRemoteController::default()
    };
    site.make(REMOTE, &spec);
    site
}

fn drive(traddr: &str) -> NvmePath {
    NvmePath {
        trtype: NvmeTransportType::Pcie.into(),
        traddr: traddr.to_owned(),
        ..NvmePath::default()
    }
}

fn array() -> NvmePath {
    NvmePath {
        trtype: NvmeTransportType::Tcp.into(),
        traddr: "127.0.0.1".to_owned(),
        fabrics: Some(FabricsPath {
            trsvcid: 1,
            subnqn: "nqn.2026-01.org.example:array".to_owned(),
            adrfam: NvmeAddressFamily::Ipv4.into(),
            ..FabricsPath::default()
        }),
        ..NvmePath::default()
    }
}

#[test]
fn a_drive_is_named_by_its_address_and_nothing_else() {
    let site = site();
    for bad in ["", "nvme0", "127.0.0.1", "0000:01:00", "01:00.8"] {
        let error = site.try_make(PATH, &drive(bad), &[], false).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert_eq!(error.field.as_deref(), Some("nvme_path.traddr"), "{error}");
    }
    let spec = NvmePath {
        fabrics: Some(FabricsPath::default()),
        ..drive("0000:01:00.0")
    };
    let error = site.try_make(PATH, &spec, &[], false).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(error.field.as_deref(), Some("nvme_path.fabrics"), "{error}");
}

#[test]
fn a_drive_that_is_not_there_is_refused_and_leaves_nothing_behind() {
    let site = site();
    let error = site.try_make(PATH, &drive(NOWHERE), &[], false);
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::NotFound, "{error}");
    assert_eq!(error.field.as_deref(), Some("nvme_path.traddr"), "{error}");
    assert!(error.message.contains(NOWHERE), "{error}");
    // Its controller is free for another path.
    site.make(OTHER, &array());
    site.delete(OTHER);
    site.delete(REMOTE);
}

#[test]
fn after_a_start_a_drive_that_is_not_there_is_waited_for() {
    let site = site();
    let made = site.try_make(PATH, &drive(NOWHERE), &[], true).unwrap();
    assert_eq!(made.traddr, NOWHERE);
    for why in [
        site.trouble::<NvmePath>(PATH),
        site.trouble::<NvmeRemoteController>(REMOTE),
    ] {
        assert!(why.is_some_and(|why| why.contains(NOWHERE)));
    }
    site.delete(PATH);
    assert_eq!(site.trouble::<NvmeRemoteController>(REMOTE), None);
}

#[test]
fn a_drive_is_the_only_path_of_its_controller_and_has_only_that_one() {
    let site = site();
    site.try_make(PATH, &drive(NOWHERE), &[], true).unwrap();
    for other in [array(), drive("ffff:ff:1f.6")] {
        let error = site.try_make(OTHER, &other, &[], false).unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains(PATH), "{error}");
    }
    let spec = NvmeRemoteController {
        multipath: NvmeMultipath::Disable.into(),
        ..NvmeRemoteController::default()
    };
    site.make("nvmeRemoteControllers/other", &spec);
    let name = "nvmeRemoteControllers/other/nvmePaths/p0";
    let error = site
        .try_make(name, &drive(NOWHERE), &[], false)
        .unwrap_err();
    assert_eq!(error.in_use_by, [REMOTE], "{error}");

    site.delete(PATH);
    site.make(OTHER, &array());
    let error = site.try_make(PATH, &drive(NOWHERE), &[], false);
    assert!(error.unwrap_err().message.contains(OTHER));
}
