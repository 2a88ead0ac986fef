//! Admin commands.

use crate::nvme::bits::{Fuse, Sqe};
use crate::nvme::features::Select;
use crate::nvme::opcode::AdminOpcode;
use crate::nvme::status::Status;

/// Get Log Page (NVMe Base 2.1, 5.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLog {
    /// NSID.
    pub nsid: u32,
    /// LID: which log page.
    pub lid: u8,
    /// LSP: log specific parameter, 7 bits.
    pub lsp: u8,
    /// RAE: keep the asynchronous event that announced this page.
    pub retain_event: bool,
    /// NUMD as a count: bytes wanted, a multiple of 4.
    pub len: u64,
    /// LPO: byte offset into the page (or an index, with `by_index`).
    pub offset: u64,
    /// LSI: log specific identifier.
    pub lsi: u16,
    /// OT: `offset` is an index of an entry.
    pub by_index: bool,
    /// CSI: the I/O command set the page is for.
    pub csi: u8,
    /// UUID index, 7 bits.
    pub uuid_index: u8,
}

/// Identify (NVMe Base 2.1, 5.1.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identify {
    /// NSID.
    pub nsid: u32,
    /// CNS: which structure.
    pub cns: u8,
    /// CNTID: which controller, where the structure needs one.
    pub cntid: u16,
    /// CNS specific identifier.
    pub cns_specific: u16,
    /// CSI: I/O command set.
    pub csi: u8,
    /// UUID index, 7 bits.
    pub uuid_index: u8,
}

/// Get Features or Set Features (NVMe Base 2.1, 5.1.11 and 5.1.25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// NSID.
    pub nsid: u32,
    /// FID. Not yet a known feature: an unknown one has a status of its own per command.
    pub fid: u8,
    /// The value or parameter in CDW11.
    pub cdw11: u32,
    /// CDW12.
    pub cdw12: u32,
    /// CDW13.
    pub cdw13: u32,
}

/// An admin command. Fabrics commands are [`FabricsCmd`](super::FabricsCmd).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCmd {
    /// Get Log Page.
    GetLogPage(GetLog),
    /// Identify.
    Identify(Identify),
    /// Abort of command `cid` on queue `sqid`.
    Abort {
        /// SQID.
        sqid: u16,
        /// CID.
        cid: u16,
    },
    /// Set Features; the flag is SV, save across power cycles.
    SetFeatures(Features, bool),
    /// Get Features.
    GetFeatures(Features, Select),
    /// Asynchronous Event Request.
    AsyncEventRequest,
    /// Keep Alive.
    KeepAlive,
}

impl AdminCmd {
    /// Parses an entry of an admin queue.
    ///
    /// # Errors
    /// The status to complete it with: Invalid Command Opcode, or Invalid Field in Command.
    pub fn parse(sqe: &Sqe) -> Result<AdminCmd, Status> {
        let opcode = AdminOpcode::from_u8(sqe.opcode).ok_or(Status::INVALID_OPCODE.dnr())?;
        if sqe.fuse()? != Fuse::Normal {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let cdw10 = sqe.cdw10.get();
        Ok(match opcode {
            AdminOpcode::GetLogPage => AdminCmd::GetLogPage(parse_log(sqe)),
            AdminOpcode::Identify => AdminCmd::Identify(Identify {
                nsid: sqe.nsid.get(),
                cns: cdw10 as u8,
                cntid: (cdw10 >> 16) as u16,
                cns_specific: sqe.cdw11.get() as u16,
                csi: (sqe.cdw11.get() >> 24) as u8,
                uuid_index: (sqe.cdw14.get() & 0x7f) as u8,
            }),
            AdminOpcode::Abort => AdminCmd::Abort {
                sqid: cdw10 as u16,
                cid: (cdw10 >> 16) as u16,
            },
            AdminOpcode::SetFeatures => {
                AdminCmd::SetFeatures(parse_features(sqe), cdw10 >> 31 == 1)
            }
            AdminOpcode::GetFeatures => {
                let select = Select::from_bits((cdw10 >> 8) as u8)?;
                AdminCmd::GetFeatures(parse_features(sqe), select)
            }
            AdminOpcode::AsyncEventRequest => AdminCmd::AsyncEventRequest,
            AdminOpcode::KeepAlive => AdminCmd::KeepAlive,
        })
    }

    /// The entry that says this; CID and SGL are for the transport to fill.
    pub fn to_sqe(&self) -> Sqe {
        match *self {
            AdminCmd::GetLogPage(log) => log_sqe(&log),
            AdminCmd::Identify(id) => {
                let mut sqe = Sqe::new(AdminOpcode::Identify.opcode(), id.nsid);
                sqe.cdw10 = (u32::from(id.cns) | u32::from(id.cntid) << 16).into();
                sqe.cdw11 = (u32::from(id.cns_specific) | u32::from(id.csi) << 24).into();
                sqe.cdw14 = u32::from(id.uuid_index & 0x7f).into();
                sqe
            }
            AdminCmd::Abort { sqid, cid } => {
                let mut sqe = Sqe::new(AdminOpcode::Abort.opcode(), 0);
                sqe.cdw10 = (u32::from(sqid) | u32::from(cid) << 16).into();
                sqe
            }
            AdminCmd::SetFeatures(features, save) => {
                let mut sqe = features_sqe(AdminOpcode::SetFeatures, &features);
                sqe.cdw10 = (u32::from(features.fid) | u32::from(save) << 31).into();
                sqe
            }
            AdminCmd::GetFeatures(features, select) => {
                let mut sqe = features_sqe(AdminOpcode::GetFeatures, &features);
                sqe.cdw10 = (u32::from(features.fid) | (select as u32) << 8).into();
                sqe
            }
            AdminCmd::AsyncEventRequest => Sqe::new(AdminOpcode::AsyncEventRequest.opcode(), 0),
            AdminCmd::KeepAlive => Sqe::new(AdminOpcode::KeepAlive.opcode(), 0),
        }
    }
}

fn parse_log(sqe: &Sqe) -> GetLog {
    let (cdw10, cdw11, cdw14) = (sqe.cdw10.get(), sqe.cdw11.get(), sqe.cdw14.get());
    // NUMDU and NUMDL together are a zero-based count of dwords.
    let dwords = u64::from(cdw11 & 0xffff) << 16 | u64::from(cdw10 >> 16);
    GetLog {
        nsid: sqe.nsid.get(),
        lid: cdw10 as u8,
        lsp: (cdw10 >> 8 & 0x7f) as u8,
        retain_event: cdw10 >> 15 & 1 == 1,
        len: (dwords + 1) * 4,
        offset: sqe.cdw12_13(),
        lsi: (cdw11 >> 16) as u16,
        by_index: cdw14 >> 23 & 1 == 1,
        csi: (cdw14 >> 24) as u8,
        uuid_index: (cdw14 & 0x7f) as u8,
    }
}

fn log_sqe(log: &GetLog) -> Sqe {
    let mut sqe = Sqe::new(AdminOpcode::GetLogPage.opcode(), log.nsid);
    let dwords = (log.len / 4).clamp(1, 1 << 32) - 1;
    let parameter = u32::from(log.lsp & 0x7f) << 8 | u32::from(log.retain_event) << 15;
    sqe.cdw10 = (u32::from(log.lid) | parameter | (dwords as u32 & 0xffff) << 16).into();
    sqe.cdw11 = ((dwords >> 16) as u32 | u32::from(log.lsi) << 16).into();
    sqe.set_cdw12_13(log.offset);
    let index = u32::from(log.by_index) << 23;
    sqe.cdw14 = (u32::from(log.uuid_index & 0x7f) | index | u32::from(log.csi) << 24).into();
    sqe
}

fn parse_features(sqe: &Sqe) -> Features {
    Features {
        nsid: sqe.nsid.get(),
        fid: sqe.cdw10.get() as u8,
        cdw11: sqe.cdw11.get(),
        cdw12: sqe.cdw12.get(),
        cdw13: sqe.cdw13.get(),
    }
}

fn features_sqe(opcode: AdminOpcode, features: &Features) -> Sqe {
    let mut sqe = Sqe::new(opcode.opcode(), features.nsid);
    sqe.cdw11 = features.cdw11.into();
    sqe.cdw12 = features.cdw12.into();
    sqe.cdw13 = features.cdw13.into();
    sqe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Vec<AdminCmd> {
        let features = Features {
            nsid: 0x0504_0302,
            fid: 0x81,
            cdw11: 0x1111,
            cdw12: 0x2222,
            cdw13: 0x3333,
        };
        vec![
            AdminCmd::GetLogPage(GetLog {
                nsid: 0x0403_0201,
                lid: 0x70,
                lsp: 0x55,
                retain_event: true,
                len: 0x1234_5678 * 4,
                offset: 0x1817_1615_1413_1211,
                lsi: 0x2221,
                by_index: true,
                csi: 0x33,
                uuid_index: 0x44,
            }),
            AdminCmd::Identify(Identify {
                nsid: 7,
                cns: 0x1c,
                cntid: 0x2211,
                cns_specific: 0x4433,
                csi: 0x55,
                uuid_index: 0x66,
            }),
            AdminCmd::Abort {
                sqid: 0x0201,
                cid: 0x0403,
            },
            AdminCmd::SetFeatures(features, true),
            AdminCmd::GetFeatures(features, Select::Saved),
            AdminCmd::AsyncEventRequest,
            AdminCmd::KeepAlive,
        ]
    }

    #[test]
    fn every_command_survives_its_entry() {
        for command in commands() {
            assert_eq!(AdminCmd::parse(&command.to_sqe()), Ok(command));
        }
    }

    #[test]
    fn the_longest_log_request_does_not_wrap() {
        let AdminCmd::GetLogPage(mut log) = commands()[0] else {
            unreachable!()
        };
        log.len = 1 << 34;
        assert_eq!(
            AdminCmd::parse(&log_sqe(&log)),
            Ok(AdminCmd::GetLogPage(log))
        );
    }

    #[test]
    fn an_unknown_opcode_and_a_fused_admin_command_are_refused() {
        let sqe = Sqe::new(0x14, 0);
        assert_eq!(AdminCmd::parse(&sqe), Err(Status::INVALID_OPCODE.dnr()));
        let mut sqe = Sqe::new(0x18, 0);
        sqe.flags |= 1;
        assert_eq!(AdminCmd::parse(&sqe), Err(Status::INVALID_FIELD.dnr()));
    }

    #[test]
    fn an_identify_as_recorded_from_a_host_is_read() {
        let mut sqe = Sqe::new(0x06, 0);
        sqe.cdw10 = 1.into();
        let AdminCmd::Identify(id) = AdminCmd::parse(&sqe).unwrap() else {
            unreachable!()
        };
        assert_eq!((id.cns, id.cntid, id.csi), (1, 0, 0));
    }
}
