//! Payloads and results of Fabrics commands: the Connect data, and what its completion says.

use zerocopy::little_endian::U16;

use super::nqn::{NQN_FIELD, Nqn, NqnError};

layout! {
    /// Connect data (NVMe Base 2.1, 6.3).
    pub struct ConnectData: 1024 {
        /// HOSTID: identifies the host, 128 bits.
        0: pub hostid: [u8; 16],
        /// CNTLID: the controller to connect to, or FFFFh for a new one.
        16: pub cntlid: U16,
        /// Reserved: zero.
        18: pub _reserved1: [u8; 238],
        /// SUBNQN, NUL-terminated.
        256: pub subnqn: [u8; NQN_FIELD],
        /// HOSTNQN, NUL-terminated.
        512: pub hostnqn: [u8; NQN_FIELD],
        /// Reserved: zero.
        768: pub _reserved2: [u8; 256],
    }
}

impl ConnectData {
    /// Data to connect `host` to `subsystem`.
    pub fn new(hostid: [u8; 16], cntlid: u16, subsystem: &Nqn, host: &Nqn) -> Self {
        ConnectData {
            hostid,
            cntlid: cntlid.into(),
            subnqn: subsystem.field(),
            hostnqn: host.field(),
            ..ConnectData::default()
        }
    }

    /// The subsystem's name.
    ///
    /// # Errors
    /// [`NqnError`] when the field holds no NQN.
    pub fn subsystem(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// Whether the host gives no name at all, as some load generators do. The specification wants
    /// one; a subsystem open to every host can do without.
    pub fn is_anonymous(&self) -> bool {
        self.hostnqn[0] == 0
    }

    /// The host's name.
    ///
    /// # Errors
    /// [`NqnError`] when the field holds no NQN.
    pub fn host(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.hostnqn)
    }
}

/// Where Connect Invalid Parameters points (NVMe Base 2.1, 6.3): into the command, or its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidParameter {
    /// Byte offset into the submission queue entry.
    Command(u16),
    /// Byte offset into the Connect data.
    Data(u16),
}

impl InvalidParameter {
    /// RECFMT of the command.
    pub const RECORD_FORMAT: Self = InvalidParameter::Command(40);
    /// QID of the command.
    pub const QUEUE_ID: Self = InvalidParameter::Command(42);
    /// SQSIZE of the command.
    pub const QUEUE_SIZE: Self = InvalidParameter::Command(44);
    /// KATO of the command.
    pub const KEEP_ALIVE: Self = InvalidParameter::Command(48);
    /// HOSTID of the data.
    pub const HOST_ID: Self = InvalidParameter::Data(0);
    /// CNTLID of the data.
    pub const CONTROLLER_ID: Self = InvalidParameter::Data(16);
    /// SUBNQN of the data.
    pub const SUBSYSTEM: Self = InvalidParameter::Data(256);
    /// HOSTNQN of the data.
    pub const HOST: Self = InvalidParameter::Data(512);

    /// DW0 of the completion: IPO in bits 15:0, IATTR in bits 23:16.
    pub const fn dw0(self) -> u32 {
        match self {
            InvalidParameter::Command(offset) => offset as u32,
            InvalidParameter::Data(offset) => offset as u32 | 1 << 16,
        }
    }

    /// What the DW0 of a refused Connect points at.
    pub const fn from_dw0(dw0: u32) -> Self {
        match dw0 >> 16 & 1 {
            0 => InvalidParameter::Command(dw0 as u16),
            _ => InvalidParameter::Data(dw0 as u16),
        }
    }
}

/// DW0 of a successful Connect: the controller's ID and whether it wants authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// CNTLID.
    pub cntlid: u16,
    /// ATR: NVMe in-band authentication is required.
    pub authentication: bool,
}

impl Connected {
    /// DW0 of the completion.
    pub const fn dw0(self) -> u32 {
        self.cntlid as u32 | (self.authentication as u32) << 17
    }

    /// The fields of DW0.
    pub const fn from_dw0(dw0: u32) -> Self {
        Connected {
            cntlid: dw0 as u16,
            authentication: dw0 >> 17 & 1 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_data_has_each_field_in_its_place() {
        let subsystem = Nqn::parse("nqn.2016-06.io.spdk:cnode1").unwrap();
        let host = Nqn::parse("nqn.2014-08.org.example:host").unwrap();
        let hostid: [u8; 16] = std::array::from_fn(|at| at as u8 + 1);
        let data = ConnectData::new(hostid, 0x1211, &subsystem, &host);
        let bytes = data.bytes();
        assert_eq!(bytes[..16], hostid);
        assert_eq!(bytes[16..18], [0x11, 0x12]);
        assert!(bytes[256..].starts_with(b"nqn.2016-06.io.spdk:cnode1\0"));
        assert!(bytes[512..].starts_with(b"nqn.2014-08.org.example:host\0"));
        assert_eq!(data.subsystem(), Ok(subsystem));
        assert_eq!(data.host(), Ok(host));
        assert!(!data.is_anonymous());
        assert!(ConnectData::default().is_anonymous());
    }

    #[test]
    fn a_refused_parameter_survives_its_dword() {
        for parameter in [InvalidParameter::QUEUE_SIZE, InvalidParameter::HOST] {
            assert_eq!(InvalidParameter::from_dw0(parameter.dw0()), parameter);
        }
        assert_eq!(InvalidParameter::SUBSYSTEM.dw0(), 0x0001_0100);
        let connected = Connected {
            cntlid: 0x1234,
            authentication: true,
        };
        assert_eq!(Connected::from_dw0(connected.dw0()), connected);
    }
}
