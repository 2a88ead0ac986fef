//! Fabrics commands: Connect, Property Get and Set, Disconnect.

use crate::nvme::bits::{Fuse, Sqe};
use crate::nvme::opcode::FABRICS;
use crate::nvme::status::Status;

const PROPERTY_SET: u8 = 0x00;
const CONNECT: u8 = 0x01;
const PROPERTY_GET: u8 = 0x04;
const AUTHENTICATION_SEND: u8 = 0x05;
const AUTHENTICATION_RECEIVE: u8 = 0x06;
const DISCONNECT: u8 = 0x08;

/// ATTRIB of a property command: how wide the property is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertySize {
    /// Four bytes.
    Four,
    /// Eight bytes.
    Eight,
}

/// Connect (NVMe Base 2.1, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// RECFMT, 0 for the only known format.
    pub record_format: u16,
    /// QID: 0 for the admin queue.
    pub qid: u16,
    /// SQSIZE as a count of entries, from 1 to 65536.
    pub queue_entries: u32,
    /// CATTR bits 1:0: priority class.
    pub priority: u8,
    /// CATTR bit 2: the host does without SQ head updates.
    pub no_sq_flow_control: bool,
    /// KATO: keep-alive time-out in milliseconds, 0 for none.
    pub kato_ms: u32,
}

/// A Fabrics command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricsCmd {
    /// Connect: makes a queue, and with QID 0 a controller.
    Connect(Connect),
    /// Property Get.
    PropertyGet {
        /// Width.
        size: PropertySize,
        /// OFST.
        offset: u32,
    },
    /// Property Set.
    PropertySet {
        /// Width.
        size: PropertySize,
        /// OFST.
        offset: u32,
        /// VALUE.
        value: u64,
    },
    /// Disconnect of this I/O queue, with its record format.
    Disconnect {
        /// RECFMT.
        record_format: u16,
    },
    /// Authentication Send.
    AuthenticationSend,
    /// Authentication Receive.
    AuthenticationReceive,
}

impl FabricsCmd {
    /// Whether the entry is a Fabrics command at all.
    #[inline]
    pub fn is(sqe: &Sqe) -> bool {
        sqe.opcode == FABRICS
    }

    /// Parses an entry whose opcode is that of Fabrics commands.
    ///
    /// # Errors
    /// The status to complete it with: Invalid Command Opcode, or Invalid Field in Command.
    pub fn parse(sqe: &Sqe) -> Result<FabricsCmd, Status> {
        if !Self::is(sqe) {
            return Err(Status::INVALID_OPCODE.dnr());
        }
        if sqe.fuse()? != Fuse::Normal {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let (cdw10, cdw11) = (sqe.cdw10.get(), sqe.cdw11.get());
        match sqe.fctype() {
            CONNECT => Ok(FabricsCmd::Connect(Connect {
                record_format: cdw10 as u16,
                qid: (cdw10 >> 16) as u16,
                queue_entries: (cdw11 & 0xffff) + 1,
                priority: (cdw11 >> 16 & 3) as u8,
                no_sq_flow_control: cdw11 >> 18 & 1 == 1,
                kato_ms: sqe.cdw12.get(),
            })),
            PROPERTY_GET => Ok(FabricsCmd::PropertyGet {
                size: width(cdw10)?,
                offset: cdw11,
            }),
            PROPERTY_SET => Ok(FabricsCmd::PropertySet {
                size: width(cdw10)?,
                offset: cdw11,
                value: sqe.cdw12_13(),
            }),
            DISCONNECT => Ok(FabricsCmd::Disconnect {
                record_format: cdw10 as u16,
            }),
            AUTHENTICATION_SEND => Ok(FabricsCmd::AuthenticationSend),
            AUTHENTICATION_RECEIVE => Ok(FabricsCmd::AuthenticationReceive),
            _ => Err(Status::INVALID_OPCODE.dnr()),
        }
    }

    /// The entry that says this; CID and SGL are for the transport to fill.
    pub fn to_sqe(&self) -> Sqe {
        match *self {
            FabricsCmd::Connect(connect) => {
                let mut sqe = Sqe::new(FABRICS, u32::from(CONNECT));
                let class = u32::from(connect.priority & 3) << 16;
                let flow = u32::from(connect.no_sq_flow_control) << 18;
                let entries = connect.queue_entries.clamp(1, 65_536) - 1;
                let record = u32::from(connect.record_format);
                sqe.cdw10 = (record | u32::from(connect.qid) << 16).into();
                sqe.cdw11 = (entries | class | flow).into();
                sqe.cdw12 = connect.kato_ms.into();
                sqe
            }
            FabricsCmd::PropertyGet { size, offset } => property(PROPERTY_GET, size, offset),
            FabricsCmd::PropertySet {
                size,
                offset,
                value,
            } => {
                let mut sqe = property(PROPERTY_SET, size, offset);
                sqe.set_cdw12_13(value);
                sqe
            }
            FabricsCmd::Disconnect { record_format } => {
                let mut sqe = Sqe::new(FABRICS, u32::from(DISCONNECT));
                sqe.cdw10 = u32::from(record_format).into();
                sqe
            }
            FabricsCmd::AuthenticationSend => Sqe::new(FABRICS, u32::from(AUTHENTICATION_SEND)),
            FabricsCmd::AuthenticationReceive => {
                Sqe::new(FABRICS, u32::from(AUTHENTICATION_RECEIVE))
            }
        }
    }
}

fn width(cdw10: u32) -> Result<PropertySize, Status> {
    match cdw10 & 7 {
        0 => Ok(PropertySize::Four),
        1 => Ok(PropertySize::Eight),
        _ => Err(Status::INVALID_FIELD.dnr()),
    }
}

fn property(fctype: u8, size: PropertySize, offset: u32) -> Sqe {
    let mut sqe = Sqe::new(FABRICS, u32::from(fctype));
    sqe.cdw10 = u32::from(size == PropertySize::Eight).into();
    sqe.cdw11 = offset.into();
    sqe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_its_entry() {
        for command in [
            FabricsCmd::Connect(Connect {
                record_format: 0x0201,
                qid: 0x0403,
                queue_entries: 65_536,
                priority: 2,
                no_sq_flow_control: true,
                kato_ms: 0x0c0b_0a09,
            }),
            FabricsCmd::PropertyGet {
                size: PropertySize::Eight,
                offset: 0x1c,
            },
            FabricsCmd::PropertySet {
                size: PropertySize::Four,
                offset: 0x14,
                value: 0x46_0001,
            },
            FabricsCmd::Disconnect {
                record_format: 0x0605,
            },
            FabricsCmd::AuthenticationSend,
            FabricsCmd::AuthenticationReceive,
        ] {
            assert_eq!(FabricsCmd::parse(&command.to_sqe()), Ok(command));
        }
    }

    #[test]
    fn a_recorded_connect_is_read() {
        // The dwords of a Connect as an SPDK host sent it: QID 1, 128 entries, KATO 10 s.
        let mut sqe = Sqe::new(FABRICS, 1);
        sqe.cdw10 = 0x0001_0000.into();
        sqe.cdw11 = 0x0000_007f.into();
        sqe.cdw12 = 10_000.into();
        let FabricsCmd::Connect(connect) = FabricsCmd::parse(&sqe).unwrap() else {
            unreachable!()
        };
        assert_eq!(
            (connect.qid, connect.queue_entries, connect.kato_ms),
            (1, 128, 10_000)
        );
        assert!(!connect.no_sq_flow_control);
    }

    #[test]
    fn an_unknown_type_and_an_odd_width_are_refused() {
        let unknown = Sqe::new(FABRICS, 0x7e);
        assert_eq!(
            FabricsCmd::parse(&unknown),
            Err(Status::INVALID_OPCODE.dnr())
        );
        let mut odd = Sqe::new(FABRICS, u32::from(PROPERTY_GET));
        odd.cdw10 = 2.into();
        assert_eq!(FabricsCmd::parse(&odd), Err(Status::INVALID_FIELD.dnr()));
    }
}
