//! [`Task`]: one admin command of a session's row.

/// One admin command of the row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Task {
    Connect,
    Capabilities,
    Enable,
    /// Reads CSTS until the controller is ready.
    Status,
    Controller,
    Queues,
    Events,
    Ana,
    /// The active namespaces after this one.
    List(u32),
    Namespace(u32),
    Descriptors(u32),
    /// Reading the page lets the next event of its kind come.
    Changed,
    ShutDown,
    /// Reads CSTS until the controller is shut down.
    ShutDownStatus,
}

impl Task {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "Connect",
            Self::Capabilities => "Property Get of CAP",
            Self::Enable => "Property Set of CC",
            Self::Status => "Property Get of CSTS",
            Self::Controller => "Identify Controller",
            Self::Queues => "Set Features, Number of Queues",
            Self::Events => "Set Features, Asynchronous Event Configuration",
            Self::Ana => "Get Log Page, ANA",
            Self::List(_) => "Identify, Active Namespaces",
            Self::Namespace(_) => "Identify Namespace",
            Self::Descriptors(_) => "Identify, Namespace Descriptors",
            Self::Changed => "Get Log Page, Changed Namespaces",
            Self::ShutDown => "Property Set of CC, shutdown",
            Self::ShutDownStatus => "Property Get of CSTS, shutdown",
        }
    }

    /// Whether it answers with a whole page.
    pub(super) fn is_identify(self) -> bool {
        matches!(
            self,
            Self::Controller | Self::List(_) | Self::Namespace(_) | Self::Descriptors(_)
        )
    }

    /// Whether the association goes on if this is refused: the namespace may have gone meanwhile,
    /// and not every array has every log page.
    pub(super) fn may_fail(self) -> bool {
        matches!(
            self,
            Self::Events | Self::Ana | Self::Changed | Self::Namespace(_) | Self::Descriptors(_)
        )
    }
}
