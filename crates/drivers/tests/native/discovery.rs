//! Discovery: our initiator reads the log page of our own target.

use crate::site::{Site, own_address};
use api::error::{Code, Result};
use api::ext::v1::nvme_discovery_entry::{SecurityType, SubsystemType};
use api::ext::v1::{DiscoverNvmeSubsystemsRequest, DiscoverNvmeSubsystemsResponse};
use api::storage::v1::nvme_controller_spec::Endpoint;
use api::storage::v1::{
    FabricsEndpoint, NvmeAddressFamily, NvmeController, NvmeControllerSpec, NvmeSubsystem,
    NvmeSubsystemSpec, NvmeTransportType,
};

const PORT: u16 = 4420;
const HOST: &str = "nqn.2026-01.org.example:host";

/// Makes a subsystem, which admits one host or all, with a listener.
fn subsystem(site: &Site, number: usize, address: &str, hostnqn: &str) {
    let spec = NvmeSubsystemSpec {
        nqn: nqn(number),
        hostnqn: hostnqn.to_owned(),
        ..NvmeSubsystemSpec::default()
    };
    let subsystem = NvmeSubsystem {
        spec: Some(spec),
        ..NvmeSubsystem::default()
    };
    site.make(&format!("nvmeSubsystems/s{number}"), &subsystem);
    let endpoint = FabricsEndpoint {
        traddr: address.to_owned(),
        trsvcid: PORT.to_string(),
        adrfam: NvmeAddressFamily::Ipv4.into(),
    };
    let spec = NvmeControllerSpec {
        trtype: NvmeTransportType::Tcp.into(),
        endpoint: Some(Endpoint::FabricsId(endpoint)),
        ..NvmeControllerSpec::default()
    };
    let controller = NvmeController {
        spec: Some(spec),
        ..NvmeController::default()
    };
    let name = format!("nvmeSubsystems/s{number}/nvmeControllers/c");
    site.make(&name, &controller);
}

fn nqn(number: usize) -> String {
    format!("nqn.2026-01.org.example:array{number}")
}

fn discover(
    site: &Site,
    address: &str,
    port: u16,
    hostnqn: &str,
) -> Result<DiscoverNvmeSubsystemsResponse> {
    let request = DiscoverNvmeSubsystemsRequest {
        trtype: NvmeTransportType::Tcp.into(),
        traddr: address.to_owned(),
        trsvcid: port.into(),
        hostnqn: hostnqn.to_owned(),
        ..DiscoverNvmeSubsystemsRequest::default()
    };
    let method = "/opi_ext.storage.v1.NvmeDiscoveryService/DiscoverNvmeSubsystems";
    site.ask(method, &request)
}

#[test]
fn an_array_tells_each_host_what_it_may_use() {
    let (array, xpu, address) = (Site::new(), Site::new(), own_address());
    subsystem(&array, 0, &address, "");
    let page = discover(&xpu, &address, PORT, "").unwrap();
    let found = &page.entries[0];
    assert_eq!((page.entries.len(), &found.subnqn), (1, &nqn(0)));
    assert_eq!(found.subtype(), SubsystemType::Nvm);
    assert_eq!(found.trtype(), NvmeTransportType::Tcp);
    assert_eq!(found.adrfam(), NvmeAddressFamily::Ipv4);
    assert_eq!((&*found.traddr, &*found.trsvcid), (&*address, "4420"));
    assert_eq!((found.cntlid, found.asqsz), (0xffff, 128));
    assert_eq!(found.sectype(), SecurityType::None);
    assert!(found.sq_flow_control_disable_supported);

    subsystem(&array, 1, &address, HOST);
    let later = discover(&xpu, &address, PORT, "").unwrap();
    assert_eq!(later.entries.len(), 1, "{later:?}");
    assert!(later.generation > page.generation);
    let chosen = discover(&xpu, &address, PORT, HOST).unwrap();
    assert_eq!(chosen.entries.len(), 2, "{chosen:?}");
}

#[test]
fn a_page_of_many_pieces_is_read_while_it_changes() {
    let (array, xpu, address) = (Site::new(), Site::new(), own_address());
    for number in 0..150 {
        subsystem(&array, number, &address, "");
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 150..200 {
                subsystem(&array, number, &address, "");
            }
        });
        for _ in 0..20 {
            let page = match discover(&xpu, &address, PORT, "") {
                Ok(page) => page,
                // It may change faster than it can be read, which is said.
                Err(error) => {
                    assert!(error.message.contains("changed"), "{error}");
                    continue;
                }
            };
            let mut names: Vec<_> = page.entries.iter().map(|e| &e.subnqn).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), page.entries.len());
            assert!(names.len() >= 150);
        }
    });
    let page = discover(&xpu, &address, PORT, "").unwrap();
    assert_eq!(page.entries.len(), 200);
}

#[test]
fn what_cannot_be_asked_is_told_in_one_line() {
    let (xpu, address) = (Site::new(), own_address());
    let error = discover(&xpu, &address, PORT, "").unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    let wanted = format!("nothing is discovered at {address} port {PORT}: it cannot be connected");
    assert!(error.message.starts_with(&wanted), "{error}");
    let error = discover(&xpu, "no-such-host.invalid", 0, "").unwrap_err();
    assert!(error.message.contains("port 8009"), "{error}");
    assert!(error.message.contains("has no address"), "{error}");
    let error = discover(&xpu, &address, PORT, "no name").unwrap_err();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::InvalidArgument, Some("hostnqn"))
    );
}
