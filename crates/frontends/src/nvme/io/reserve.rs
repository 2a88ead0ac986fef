//! Reservation commands.

use super::{Command, DATA_MAX, IoQueue};
use crate::nvme::queue::Replies;
use crate::nvme::reservation::{Outcome, Request};
use crate::nvme::target::{Namespace, Subsystem};
use blk::IoBuf;
use std::sync::Arc;
use wire::nvme::log::window;
use wire::nvme::reservation::{AcquireData, RegisterData, ReleaseData};
use wire::nvme::{IoCmd, IoOp, Status};

fn short<E>(_: E) -> Status {
    Status::SGL_LENGTH_INVALID.dnr()
}

/// The request in a command and its data.
fn request(op: &IoOp, data: &[u8]) -> Result<Request, Status> {
    Ok(match *op {
        IoOp::ReservationRegister {
            action,
            ignore_key,
            persist,
        } => {
            let keys = RegisterData::from_prefix(data).map_err(short)?;
            let (current, new) = (keys.current_key.get(), keys.new_key.get());
            Request::Register {
                action,
                ignore_key,
                persist,
                current,
                new,
            }
        }
        IoOp::ReservationAcquire {
            action,
            ignore_key,
            rtype,
        } => {
            let keys = AcquireData::from_prefix(data).map_err(short)?;
            let (current, preempt) = (keys.current_key.get(), keys.preempt_key.get());
            Request::Acquire {
                action,
                ignore_key,
                rtype,
                current,
                preempt,
            }
        }
        IoOp::ReservationRelease {
            action,
            ignore_key,
            rtype,
        } => {
            let current = ReleaseData::from_prefix(data)
                .map_err(short)?
                .current_key
                .get();
            Request::Release {
                action,
                ignore_key,
                rtype,
                current,
            }
        }
        _ => return Err(Status::INVALID_OPCODE.dnr()),
    })
}

impl IoQueue {
    pub(super) fn reservation(
        &self,
        command: &Command,
        parsed: &IoCmd,
        out: &mut impl Replies,
    ) -> Result<(), Status> {
        let association = &self.queue.association;
        let namespace = association.namespace(parsed.nsid);
        let namespace = namespace.ok_or(Status::INVALID_NAMESPACE.dnr())?;
        if let Some(status) = association.ana(&namespace).refusal() {
            return Err(status);
        }
        if !namespace.has_reservations() {
            return Err(Status::INVALID_OPCODE.dnr());
        }
        if association.host == [0; 16] {
            // Nobody could tell such hosts apart (NVMe Base 2.1, 8.1.22).
            return Err(Status::COMMAND_SEQUENCE.dnr());
        }
        if let IoOp::ReservationReport { len, extended } = parsed.op {
            if !extended {
                return Err(Status::HOST_ID_INCONSISTENT.dnr());
            }
            let len = usize::try_from(len).ok().filter(|len| *len <= DATA_MAX);
            let len = len.ok_or(Status::INVALID_FIELD.dnr())?;
            let page = window(&namespace.desk.report().extended(), 0, len)?;
            out.data(command.ticket, IoBuf::from_slice(&page));
            return Ok(());
        }
        let request = request(&parsed.op, &command.data.to_vec())?;
        let Some(subsystem) = association.subsystem().cloned() else {
            return Err(Status::INVALID_NAMESPACE.dnr());
        };
        let (inbox, ticket, of) = (self.inbox.clone(), command.ticket, namespace.clone());
        let done = move |outcome: Outcome| match outcome {
            Ok(change) => {
                subsystem.notify(of.nsid, &change.notices);
                // Its volume may have been replaced while the change was made durable.
                let now = subsystem.namespaces().get(&of.nsid).cloned();
                let of = now
                    .filter(|now| Arc::ptr_eq(&now.desk, &of.desk))
                    .unwrap_or(of);
                let push = Box::new(move || inbox.push(ticket, Status::SUCCESS));
                fence(&subsystem, &of, &change.fence, push);
            }
            Err(status) => inbox.push(ticket, status),
        };
        namespace
            .desk
            .submit(association.host, request, Box::new(done));
        Ok(())
    }
}

/// Calls `done` once the commands of the preempted hosts have ended. Completing them is as good as
/// aborting them, and for what a disk has begun it is the only way.
fn fence(
    subsystem: &Subsystem,
    namespace: &Arc<Namespace>,
    hosts: &[[u8; 16]],
    done: Box<dyn FnOnce() + Send>,
) {
    if hosts.is_empty() {
        return done();
    }
    let lists = namespace.lists_of_users();
    namespace.fence(hosts, done);
    subsystem.fence_raised();
    lists.iter().for_each(|users| users.wake());
}
