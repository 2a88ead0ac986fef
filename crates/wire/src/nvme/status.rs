//! Completion status: type and code, the do-not-retry bit, and the name of each.

use std::fmt;

/// A status as it stands in a completion, without the phase tag (NVMe Base 2.1, 4.2.3).
///
/// Bits 7:0 are the code, 10:8 the type, 12:11 the retry delay, 13 "more", 14 "do not retry".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(u16);

const DNR: u16 = 1 << 14;
const MORE: u16 = 1 << 13;
const TYPE_AND_CODE: u16 = 0x07ff;

impl Status {
    /// The status of type `sct` (0 to 7) and code `sc`.
    pub const fn new(sct: u8, sc: u8) -> Self {
        Status(((sct & 7) as u16) << 8 | sc as u16)
    }

    /// The status in a completion's last two bytes; the phase tag is dropped.
    #[inline]
    pub const fn from_field(field: u16) -> Self {
        Status(field >> 1)
    }

    /// The value for a completion's last two bytes, phase tag zero as fabrics want it.
    #[inline]
    pub const fn field(self) -> u16 {
        self.0 << 1
    }

    /// The same with "do not retry" set: the same command would fail again.
    #[must_use]
    pub const fn dnr(self) -> Self {
        Status(self.0 | DNR)
    }

    /// The same with "more" set: the error log has an entry about it.
    #[must_use]
    pub const fn more(self) -> Self {
        Status(self.0 | MORE)
    }

    /// Whether "do not retry" is set.
    pub const fn is_dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// Whether the command succeeded.
    #[inline]
    pub const fn is_success(self) -> bool {
        self.0 & TYPE_AND_CODE == 0
    }

    /// SCT: 0 generic, 1 command specific, 2 media, 3 path related.
    pub const fn sct(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// SC.
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Whether type and code are the same, whatever the other bits say.
    pub const fn is(self, other: Status) -> bool {
        self.0 & TYPE_AND_CODE == other.0 & TYPE_AND_CODE
    }

    /// What the specification calls this type and code, if it is one known here.
    ///
    /// Codes 80h and up of the command specific type mean different things to Fabrics commands than
    /// to I/O commands; here they have the I/O names, and [`Status::fabrics_name`] the others.
    pub fn name(self) -> Option<&'static str> {
        let key = self.0 & TYPE_AND_CODE;
        NAMES
            .iter()
            .find(|(status, _)| status.0 == key)
            .map(|(_, name)| *name)
    }

    /// The name of this status when it answers a Fabrics command.
    pub fn fabrics_name(self) -> Option<&'static str> {
        let key = self.0 & TYPE_AND_CODE;
        let row = FABRICS_NAMES.iter().find(|(status, _)| status.0 == key);
        row.map(|(_, name)| *name).or_else(|| self.name())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().unwrap_or("status");
        write!(f, "{name} ({:x}h/{:02x}h", self.sct(), self.sc())?;
        f.write_str(if self.is_dnr() {
            ", do not retry)"
        } else {
            ")"
        })
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! statuses {
    ($table:ident: $( $constant:ident = $sct:literal, $sc:literal, $name:literal; )*) => {
        impl Status {
            $(
                #[doc = concat!($name, ": type ", $sct, ", code ", $sc, ".")]
                pub const $constant: Status = Status::new($sct, $sc);
            )*
        }
        const $table: &[(Status, &str)] = &[$( (Status::$constant, $name), )*];
    };
}

// NVMe Base 2.1, 4.2.3.1 to 4.2.3.4; NVM Command Set 1.1, 3.1.
statuses! { NAMES:
    SUCCESS = 0, 0x00, "Successful Completion";
    INVALID_OPCODE = 0, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = 0, 0x02, "Invalid Field in Command";
    CID_CONFLICT = 0, 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0, 0x04, "Data Transfer Error";
    ABORTED_POWER_LOSS = 0, 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0, 0x06, "Internal Error";
    ABORT_REQUESTED = 0, 0x07, "Command Abort Requested";
    ABORTED_SQ_DELETION = 0, 0x08, "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = 0, 0x09, "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = 0, 0x0a, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = 0, 0x0b, "Invalid Namespace or Format";
    COMMAND_SEQUENCE = 0, 0x0c, "Command Sequence Error";
    SGL_SEGMENT_INVALID = 0, 0x0d, "Invalid SGL Segment Descriptor";
    SGL_COUNT_INVALID = 0, 0x0e, "Invalid Number of SGL Descriptors";
    SGL_LENGTH_INVALID = 0, 0x0f, "Data SGL Length Invalid";
    SGL_METADATA_LENGTH_INVALID = 0, 0x10, "Metadata SGL Length Invalid";
    SGL_TYPE_INVALID = 0, 0x11, "SGL Descriptor Type Invalid";
    PRP_OFFSET_INVALID = 0, 0x13, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0, 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0, 0x15, "Operation Denied";
    SGL_OFFSET_INVALID = 0, 0x16, "SGL Offset Invalid";
    HOST_ID_INCONSISTENT = 0, 0x18, "Host Identifier Inconsistent Format";
    KEEP_ALIVE_EXPIRED = 0, 0x19, "Keep Alive Timer Expired";
    KEEP_ALIVE_INVALID = 0, 0x1a, "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT = 0, 0x1b, "Command Aborted due to Preempt and Abort";
    SANITIZE_IN_PROGRESS = 0, 0x1d, "Sanitize In Progress";
    SGL_GRANULARITY_INVALID = 0, 0x1e, "SGL Data Block Granularity Invalid";
    NAMESPACE_WRITE_PROTECTED = 0, 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT = 0, 0x22, "Transient Transport Error";
    LBA_OUT_OF_RANGE = 0, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0, 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0, 0x84, "Format In Progress";
    INVALID_QUEUE_ID = 1, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 1, 0x02, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 1, 0x03, "Abort Command Limit Exceeded";
    AER_LIMIT_EXCEEDED = 1, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_LOG_PAGE = 1, 0x09, "Invalid Log Page";
    INVALID_FORMAT = 1, 0x0a, "Invalid Format";
    FEATURE_NOT_SAVEABLE = 1, 0x0d, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 1, 0x0e, "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 1, 0x0f, "Feature Not Namespace Specific";
    OVERLAPPING_RANGE = 1, 0x14, "Overlapping Range";
    NAMESPACE_ID_UNAVAILABLE = 1, 0x16, "Namespace Identifier Unavailable";
    NAMESPACE_NOT_ATTACHED = 1, 0x1a, "Namespace Not Attached";
    INVALID_CONTROLLER_LIST = 1, 0x1c, "Controller List Invalid";
    INVALID_CONTROLLER_ID = 1, 0x1f, "Invalid Controller Identifier";
    IO_COMMAND_SET_NOT_SUPPORTED = 1, 0x29, "I/O Command Set Not Supported";
    IO_COMMAND_SET_NOT_ENABLED = 1, 0x2a, "I/O Command Set Not Enabled";
    IO_COMMAND_SET_REJECTED = 1, 0x2b, "I/O Command Set Combination Rejected";
    INVALID_IO_COMMAND_SET = 1, 0x2c, "Invalid I/O Command Set";
    CONFLICTING_ATTRIBUTES = 1, 0x80, "Conflicting Attributes";
    INVALID_PROTECTION = 1, 0x81, "Invalid Protection Information";
    WRITE_TO_READ_ONLY_RANGE = 1, 0x82, "Attempted Write to Read Only Range";
    SIZE_LIMIT_EXCEEDED = 1, 0x83, "Command Size Limit Exceeded";
    WRITE_FAULT = 2, 0x80, "Write Fault";
    UNRECOVERED_READ = 2, 0x81, "Unrecovered Read Error";
    GUARD_CHECK = 2, 0x82, "End-to-end Guard Check Error";
    APPLICATION_TAG_CHECK = 2, 0x83, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_CHECK = 2, 0x84, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 2, 0x85, "Compare Failure";
    ACCESS_DENIED = 2, 0x86, "Access Denied";
    DEALLOCATED_BLOCK = 2, 0x87, "Deallocated or Unwritten Logical Block";
    INTERNAL_PATH_ERROR = 3, 0x00, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 3, 0x01, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 3, 0x02, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 3, 0x03, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 3, 0x60, "Controller Pathing Error";
    HOST_PATHING_ERROR = 3, 0x70, "Host Pathing Error";
    ABORTED_BY_HOST = 3, 0x71, "Command Aborted By Host";
}

// NVMe Base 2.1, 4.2.3.2, values of Fabrics commands.
statuses! { FABRICS_NAMES:
    INCOMPATIBLE_FORMAT = 1, 0x80, "Incompatible Format";
    CONTROLLER_BUSY = 1, 0x81, "Controller Busy";
    CONNECT_INVALID_PARAMETERS = 1, 0x82, "Connect Invalid Parameters";
    CONNECT_RESTART_DISCOVERY = 1, 0x83, "Connect Restart Discovery";
    CONNECT_INVALID_HOST = 1, 0x84, "Connect Invalid Host";
    INVALID_QUEUE_TYPE = 1, 0x85, "Invalid Queue Type";
    DISCOVER_RESTART = 1, 0x90, "Discover Restart";
    AUTHENTICATION_REQUIRED = 1, 0x91, "Authentication Required";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_field_and_drops_the_phase() {
        let status = Status::COMPARE_FAILURE.dnr().more();
        assert_eq!(status.field(), 0b1100_0101_0000_1010);
        assert_eq!(Status::from_field(status.field() | 1), status);
        assert_eq!(
            (status.sct(), status.sc(), status.is_dnr()),
            (2, 0x85, true)
        );
        assert!(status.is(Status::COMPARE_FAILURE));
        assert!(!status.is_success());
    }

    #[test]
    fn names_are_unique_and_found() {
        for (at, (status, name)) in NAMES.iter().enumerate() {
            assert_eq!(status.name(), Some(*name));
            assert!(
                NAMES[..at].iter().all(|(other, _)| other != status),
                "{name} twice"
            );
        }
        assert_eq!(
            Status::CONNECT_INVALID_HOST.fabrics_name(),
            Some("Connect Invalid Host")
        );
        assert_eq!(
            Status::INVALID_FIELD.fabrics_name(),
            Some("Invalid Field in Command")
        );
        assert_eq!(Status::new(7, 0xc0).name(), None);
    }

    #[test]
    fn a_status_reads_well_in_a_log_line() {
        let text = Status::INVALID_OPCODE.dnr().to_string();
        assert_eq!(text, "Invalid Command Opcode (0h/01h, do not retry)");
    }
}
