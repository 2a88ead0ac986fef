//! The settings of a remote controller: their limits, their defaults, and the times they stand for.

use crate::nvme::association::Times;
use api::error::{Error, Result};
use api::ext::v1::{NvmeIoPolicy, NvmeRemoteControllerSettings};
use blk::Nanos;
use std::ops::RangeInclusive;

/// Pauses between attempts to connect. Shorter ones would only load the array, and after longer
/// ones nobody would think of a path any more.
const RECONNECT_DELAY_MS: RangeInclusive<u32> = 10..=3_600_000;
/// A connection needs a few round trips; nobody waits longer than ten minutes for an answer.
const CONNECT_TIMEOUT_MS: RangeInclusive<u32> = 100..=600_000;
/// Half of it must be enough for a round trip to a busy array. Without keep-alives (0) a path that
/// went silent would not be noticed.
const KEEP_ALIVE_TIMEOUT_MS: RangeInclusive<u32> = 500..=600_000;
/// Disks that wake up take seconds; arrays that need an hour are lost.
const IO_TIMEOUT_MS: RangeInclusive<u32> = 100..=3_600_000;
/// What stands for a controller-loss time-out that never comes, as with nvme-cli.
const NEVER: i32 = -1;

fn millis(time: Nanos) -> u32 {
    u32::try_from(time.0 / 1_000_000).unwrap_or(u32::MAX)
}

/// The settings with the default of every field that nobody chose.
pub(super) fn in_force(mut settings: NvmeRemoteControllerSettings) -> NvmeRemoteControllerSettings {
    let default = Times::default();
    if settings.io_policy() == NvmeIoPolicy::Unspecified {
        settings.set_io_policy(NvmeIoPolicy::QueueDepth);
    }
    let loss = i32::try_from(default.loss.0 / 1_000_000_000).unwrap_or(i32::MAX);
    settings.controller_loss_timeout_s.get_or_insert(loss);
    for (field, time) in [
        (&mut settings.reconnect_delay_ms_min, default.reconnect_min),
        (&mut settings.reconnect_delay_ms_max, default.reconnect_max),
        (&mut settings.connect_timeout_ms, default.admin),
        (&mut settings.keep_alive_timeout_ms, default.keep_alive),
        (&mut settings.io_timeout_ms, default.io),
    ] {
        field.get_or_insert(millis(time));
    }
    settings
}

/// The times that settings stand for.
pub(super) fn times(settings: &NvmeRemoteControllerSettings) -> Times {
    let default = Times::default();
    let time = |ms: Option<u32>, default| ms.map_or(default, |ms| Nanos::from_millis(ms.into()));
    Times {
        keep_alive: time(settings.keep_alive_timeout_ms, default.keep_alive),
        admin: time(settings.connect_timeout_ms, default.admin),
        io: time(settings.io_timeout_ms, default.io),
        reconnect_min: time(settings.reconnect_delay_ms_min, default.reconnect_min),
        reconnect_max: time(settings.reconnect_delay_ms_max, default.reconnect_max),
        loss: match settings.controller_loss_timeout_s.map(u64::try_from) {
            None => default.loss,
            Some(Ok(seconds)) => Nanos::from_secs(seconds),
            Some(Err(_)) => Nanos(u64::MAX),
        },
    }
}

/// Checks what a client chose.
///
/// # Errors
/// The first field that is out of its bounds.
pub(super) fn admit(settings: &NvmeRemoteControllerSettings) -> Result<()> {
    if NvmeIoPolicy::try_from(settings.io_policy).is_err() {
        let text = format!("{} is no policy", settings.io_policy);
        return Err(Error::invalid("io_policy", text));
    }
    let all = in_force(settings.clone());
    for (field, value, bounds) in [
        (
            "reconnect_delay_ms_min",
            all.reconnect_delay_ms_min,
            RECONNECT_DELAY_MS,
        ),
        (
            "reconnect_delay_ms_max",
            all.reconnect_delay_ms_max,
            RECONNECT_DELAY_MS,
        ),
        (
            "connect_timeout_ms",
            all.connect_timeout_ms,
            CONNECT_TIMEOUT_MS,
        ),
        (
            "keep_alive_timeout_ms",
            all.keep_alive_timeout_ms,
            KEEP_ALIVE_TIMEOUT_MS,
        ),
        ("io_timeout_ms", all.io_timeout_ms, IO_TIMEOUT_MS),
    ] {
        if let Some(value) = value.filter(|value| !bounds.contains(value)) {
            let (least, most) = bounds.into_inner();
            let text = format!("must be {least} to {most}, got {value}");
            return Err(Error::invalid(field, text));
        }
    }
    let (least, most) = (all.reconnect_delay_ms_min, all.reconnect_delay_ms_max);
    if let (Some(least), Some(most)) = (least, most)
        && least > most
    {
        let text = format!("{least} is more than reconnect_delay_ms_max, which is {most}");
        return Err(Error::invalid("reconnect_delay_ms_min", text));
    }
    match settings.controller_loss_timeout_s {
        Some(seconds) if seconds < NEVER => {
            let text = format!("must be {NEVER} for never, or 0 and more, got {seconds}");
            Err(Error::invalid("controller_loss_timeout_s", text))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        change: impl FnOnce(&mut NvmeRemoteControllerSettings),
    ) -> NvmeRemoteControllerSettings {
        let mut settings = NvmeRemoteControllerSettings::default();
        change(&mut settings);
        settings
    }

    #[test]
    fn nothing_chosen_is_what_is_in_force_anyway() {
        let none = NvmeRemoteControllerSettings::default();
        assert_eq!(times(&none), Times::default());
        let all = in_force(none);
        assert_eq!(times(&all), Times::default());
        assert_eq!(in_force(all.clone()), all);
        assert!(admit(&all).is_ok());
    }

    #[test]
    fn a_time_out_of_minus_one_never_comes_and_of_none_at_once() {
        let loss = |seconds| times(&chosen(|s| s.controller_loss_timeout_s = Some(seconds))).loss;
        assert_eq!(loss(0), Nanos(0));
        assert_eq!(loss(-1), Nanos(u64::MAX));
        assert_eq!(loss(7), Nanos::from_secs(7));
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        type Change = fn(&mut NvmeRemoteControllerSettings);
        let wrong: [(&str, Change); 7] = [
            ("io_policy", |s| s.io_policy = 9),
            ("controller_loss_timeout_s", |s| {
                s.controller_loss_timeout_s = Some(-2);
            }),
            ("keep_alive_timeout_ms", |s| {
                s.keep_alive_timeout_ms = Some(0);
            }),
            ("connect_timeout_ms", |s| s.connect_timeout_ms = Some(99)),
            ("io_timeout_ms", |s| s.io_timeout_ms = Some(u32::MAX)),
            ("reconnect_delay_ms_max", |s| {
                s.reconnect_delay_ms_max = Some(9);
            }),
            // Against the default of the other.
            ("reconnect_delay_ms_min", |s| {
                s.reconnect_delay_ms_min = Some(10_001);
            }),
        ];
        for (field, change) in wrong {
            let error = admit(&chosen(change)).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
        }
    }
}
