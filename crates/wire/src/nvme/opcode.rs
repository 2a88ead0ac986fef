//! The table of commands: opcode, name, data direction and effects of each.
//!
//! Dispatch (`cmds`) goes by the enums made from this table, and the Commands Supported and Effects
//! log page is built from its rows, so what is advertised is what is understood.

use bitflags::bitflags;

/// Which way a command's data goes; the low two bits of an opcode (NVMe Base 2.1, 3.3.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// No data.
    None,
    /// Host to controller.
    ToController,
    /// Controller to host.
    ToHost,
}

impl Transfer {
    /// The direction in the low two bits of `opcode` (or of FCTYPE); `None` for the reserved 11b.
    pub const fn of_opcode(opcode: u8) -> Option<Transfer> {
        match opcode & 3 {
            0 => Some(Transfer::None),
            1 => Some(Transfer::ToController),
            2 => Some(Transfer::ToHost),
            _ => None,
        }
    }
}

bitflags! {
    /// A command's dword in the effects log (NVMe Base 2.1, 5.1.12.1.6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Effects: u32 {
        /// CSUPP: the command is supported.
        const SUPPORTED = 1 << 0;
        /// LBCC: it may change logical blocks.
        const BLOCK_CONTENT = 1 << 1;
        /// NCC: it may change the capabilities of a namespace.
        const NAMESPACE_CAPABILITY = 1 << 2;
        /// NIC: it may change which namespaces there are.
        const NAMESPACE_INVENTORY = 1 << 3;
        /// CCC: it may change the capabilities of the controller.
        const CONTROLLER_CAPABILITY = 1 << 4;
        /// CSP bit 0: it acts on a namespace.
        const NAMESPACE_SCOPE = 1 << 20;
        /// CSP bit 1: it acts on the controller.
        const CONTROLLER_SCOPE = 1 << 21;
    }
}

const CONTROLLER: Effects = Effects::SUPPORTED.union(Effects::CONTROLLER_SCOPE);
const EITHER: Effects = CONTROLLER.union(Effects::NAMESPACE_SCOPE);
// Linux warns of "unusual effects" when an I/O command tells more than that it exists and changes
// blocks, so the scope, which may be left out (NVMe Base 2.1, 5.1.12.1.6), is told for admin
// commands only.
const READS: Effects = Effects::SUPPORTED;
const WRITES: Effects = READS.union(Effects::BLOCK_CONTENT);

macro_rules! commands {
    (
        $(#[$meta:meta])* $set:ident;
        $( $variant:ident = $opcode:literal, $name:literal, $transfer:ident, $effects:expr; )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $set { $( #[doc = concat!($name, ", ", $opcode, ".")] $variant = $opcode, )* }

        impl $set {
            /// Every row of the table.
            pub const ALL: &[$set] = &[$( $set::$variant, )*];

            /// The command with this opcode, if it is in the table.
            #[inline]
            pub const fn from_u8(opcode: u8) -> Option<Self> {
                match opcode {
                    $( $opcode => Some($set::$variant), )*
                    _ => None,
                }
            }

            /// The opcode.
            pub const fn opcode(self) -> u8 {
                self as u8
            }

            /// The name the specification gives the command.
            pub const fn name(self) -> &'static str {
                match self { $( $set::$variant => $name, )* }
            }

            /// Which way its data goes.
            pub const fn transfer(self) -> Transfer {
                match self { $( $set::$variant => Transfer::$transfer, )* }
            }

            /// Its dword in the effects log.
            pub const fn effects(self) -> Effects {
                match self { $( $set::$variant => $effects, )* }
            }
        }
    };
}

commands! {
    /// Admin commands (NVMe Base 2.1, 5). Fabrics commands have [`FABRICS`] and their own types.
    AdminOpcode;
    GetLogPage = 0x02, "Get Log Page", ToHost, EITHER;
    Identify = 0x06, "Identify", ToHost, EITHER;
    Abort = 0x08, "Abort", None, CONTROLLER;
    SetFeatures = 0x09, "Set Features", ToController, EITHER;
    GetFeatures = 0x0a, "Get Features", ToHost, EITHER;
    AsyncEventRequest = 0x0c, "Asynchronous Event Request", None, CONTROLLER;
    KeepAlive = 0x18, "Keep Alive", None, CONTROLLER;
}

commands! {
    /// I/O commands (NVMe Base 2.1, 7; NVM Command Set 1.1, 3.2 and 3.3).
    IoOpcode;
    Flush = 0x00, "Flush", None, READS;
    Write = 0x01, "Write", ToController, WRITES;
    Read = 0x02, "Read", ToHost, READS;
    Compare = 0x05, "Compare", ToController, READS;
    WriteZeroes = 0x08, "Write Zeroes", None, WRITES;
    DatasetManagement = 0x09, "Dataset Management", ToController, WRITES;
    Verify = 0x0c, "Verify", None, READS;
    ReservationRegister = 0x0d, "Reservation Register", ToController, READS;
    ReservationReport = 0x0e, "Reservation Report", ToHost, READS;
    ReservationAcquire = 0x11, "Reservation Acquire", ToController, READS;
    ReservationRelease = 0x15, "Reservation Release", ToController, READS;
}

/// The opcode that all Fabrics commands share (NVMe Base 2.1, 6).
pub const FABRICS: u8 = 0x7f;

/// Which way the data of the command with `opcode` goes; for Fabrics commands FCTYPE decides.
///
/// `None` for the reserved direction 11b. Holds for opcodes not in the table too, because a
/// transport has to take the data of a command before the command can be refused.
#[inline]
pub const fn direction(opcode: u8, fctype: u8) -> Option<Transfer> {
    Transfer::of_opcode(if opcode == FABRICS { fctype } else { opcode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_in_each_row_is_the_one_in_its_opcode() {
        for op in AdminOpcode::ALL {
            assert_eq!(
                Transfer::of_opcode(op.opcode()),
                Some(op.transfer()),
                "{}",
                op.name()
            );
            assert_eq!(AdminOpcode::from_u8(op.opcode()), Some(*op));
            assert!(op.effects().contains(Effects::SUPPORTED));
        }
        for op in IoOpcode::ALL {
            assert_eq!(
                Transfer::of_opcode(op.opcode()),
                Some(op.transfer()),
                "{}",
                op.name()
            );
            assert_eq!(IoOpcode::from_u8(op.opcode()), Some(*op));
            assert!(op.effects().contains(Effects::SUPPORTED));
        }
    }

    #[test]
    fn a_fabrics_command_moves_data_by_its_type() {
        assert_eq!(direction(FABRICS, 0x01), Some(Transfer::ToController));
        assert_eq!(direction(FABRICS, 0x04), Some(Transfer::None));
        assert_eq!(direction(0x02, 0x01), Some(Transfer::ToHost));
        assert_eq!(direction(0x03, 0), None);
    }
}
