//! Discovery: what arrays have to offer, asked of their discovery controllers.

mod actor;
mod exchange;
mod terms;
#[cfg(test)]
mod tests;

use super::association::Names;
use super::handlers::{Remotes, nqn};
use super::socket::Place;
use actor::{DiscoveryActor, Outcome};
use api::error::{Error, Result};
use api::ext::v1::{DiscoverNvmeSubsystemsRequest, DiscoverNvmeSubsystemsResponse, FailedReferral};
use api::handler::Query;
use blk::Nanos;
use engine::Actor;
use exchange::Page;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use terms::{message, place, referred};
use wire::nvme::Nqn;
use wire::nvme::log::{DiscoveryRecord, SubsystemType};

/// How long one discovery controller may take.
const CONTROLLER_TIME_MAX: Nanos = Nanos::from_secs(10);
/// How long all of them may take: less than the half minute that clients commonly wait.
const ANSWER_TIME_MAX: Nanos = Nanos::from_secs(25);
/// Discovery controllers that are asked at most where referrals are followed: with the entries that
/// are taken of each, this bounds what an answer holds.
const CONTROLLERS_MAX: usize = 16;

const HOSTNQN: &str = "hostnqn";

/// See the file's head.
pub(super) struct Discovery(pub(super) Arc<Remotes>);

/// A discovery controller to ask.
struct Stop {
    place: Place,
    subnqn: Nqn,
    /// The entry that led to it; none for the one that was asked for.
    referral: Option<DiscoveryRecord>,
}

/// One question on its way from controller to controller.
struct Tour {
    request: DiscoverNvmeSubsystemsRequest,
    left: VecDeque<Stop>,
    /// Where it was or will be.
    places: Vec<Place>,
    /// Entries that are in the response.
    known: HashSet<DiscoveryRecord>,
    response: DiscoverNvmeSubsystemsResponse,
}

impl Query for Discovery {
    const METHOD: &'static str = "/opi_ext.storage.v1.NvmeDiscoveryService/DiscoverNvmeSubsystems";
    type Request = DiscoverNvmeSubsystemsRequest;
    type Response = DiscoverNvmeSubsystemsResponse;

    async fn answer(&self, request: Self::Request) -> Result<Self::Response> {
        let until = engine::now() + ANSWER_TIME_MAX;
        if !request.hostnqn.is_empty() {
            nqn(HOSTNQN, &request.hostnqn)?;
        }
        let (hostnqn, hostid) = self.0.host(&request.hostnqn)?;
        let mut tour = Tour::new(place(&request)?, request);
        while let Some(stop) = tour.left.pop_front() {
            let names = Names {
                subnqn: stop.subnqn.clone(),
                hostnqn: hostnqn.clone(),
                hostid,
            };
            let page = self.visit(&stop.place, names, until).await;
            tour.visited(stop, page)?;
        }
        Ok(tour.response)
    }
}

impl Discovery {
    /// The page of one controller.
    async fn visit(
        &self,
        place: &Place,
        names: Names,
        until: Nanos,
    ) -> std::result::Result<Page, String> {
        let until = until.min(engine::now() + CONTROLLER_TIME_MAX);
        let outcome = Arc::new(Outcome::default());
        let (of_actor, of_place) = (outcome.clone(), place.clone());
        let actor = move || -> Box<dyn Actor> {
            Box::new(DiscoveryActor::new(of_place, names, until, of_actor))
        };
        self.0.reactors().least_loaded().spawn(actor);
        outcome.get().await
    }
}

impl Tour {
    fn new(place: Place, request: DiscoverNvmeSubsystemsRequest) -> Self {
        let first = Stop {
            place: place.clone(),
            subnqn: Nqn::discovery(),
            referral: None,
        };
        Self {
            request,
            left: VecDeque::from([first]),
            places: vec![place],
            known: HashSet::new(),
            response: DiscoverNvmeSubsystemsResponse::default(),
        }
    }

    /// Takes what one controller answered. Only the first one has to.
    fn visited(&mut self, stop: Stop, page: std::result::Result<Page, String>) -> Result<()> {
        let page = match (page, stop.referral) {
            (Ok(page), None) => {
                self.response.generation = page.generation;
                page
            }
            (Ok(page), Some(_)) => page,
            (Err(why), Some(referral)) => {
                self.failed(&referral, why);
                return Ok(());
            }
            (Err(why), None) => {
                let Place { host, port, .. } = &stop.place;
                let text = format!("nothing is discovered at {host} port {port}: {why}");
                return Err(Error::unavailable(text));
            }
        };
        for record in page.entries {
            if !self.known.insert(record.clone()) {
                continue;
            }
            if self.request.follow_referrals && record.subtype == Some(SubsystemType::Referral) {
                self.follow(&record);
            }
            self.response.entries.push(message(record));
        }
        Ok(())
    }

    /// Has the controller that an entry refers to asked, unless it was or will be.
    fn follow(&mut self, record: &DiscoveryRecord) {
        match referred(record, &self.request) {
            Err(why) => self.failed(record, why),
            Ok(place) if self.places.contains(&place) => {}
            Ok(_) if self.places.len() >= CONTROLLERS_MAX => {
                let why = format!("{CONTROLLERS_MAX} controllers are asked at most");
                self.failed(record, why);
            }
            Ok(place) => {
                self.places.push(place.clone());
                self.left.push_back(Stop {
                    place,
                    subnqn: record.subsystem.clone(),
                    referral: Some(record.clone()),
                });
            }
        }
    }

    fn failed(&mut self, record: &DiscoveryRecord, reason: String) {
        self.response.failed_referrals.push(FailedReferral {
            traddr: record.address.clone(),
            trsvcid: record.service.clone(),
            reason,
        });
    }
}
