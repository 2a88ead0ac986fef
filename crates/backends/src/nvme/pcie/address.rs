//! [`Address`]: where a device sits on the PCI buses of this machine.

use std::fmt;

/// Domain, bus, device and function.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(in crate::nvme) struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A number of exactly so many hexadecimal digits.
fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (plain && digits.contains(&text.len()))
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}

impl Address {
    /// Reads `0000:01:00.0`, or `01:00.0` for the first domain. Domains beyond the four digits of
    /// the firmware's are the kernel's own, as of VMD.
    pub(in crate::nvme) fn parse(text: &str) -> Option<Self> {
        let (place, function) = text.split_once('.')?;
        let mut parts = place.rsplit(':');
        let (device, bus) = (hex(parts.next()?, 2..=2)?, hex(parts.next()?, 2..=2)?);
        let domain = parts.next().map_or(Some(0), |text| hex(text, 4..=8))?;
        let function = hex(function, 1..=1)?;
        // A device has 32 numbers on its bus, and eight functions.
        (parts.next().is_none() && device < 32 && function < 8).then_some(Self {
            domain,
            bus: bus as u8,
            device: device as u8,
            function: function as u8,
        })
    }
}

/// As the kernel names it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly_and_shown_as_the_kernel_does() {
        for (text, shown) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("00a1:FE:1f.7", "00a1:fe:1f.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "01:00",
            "1:00.0",
            "01:0.0",
            "01:00.8",
            "01:20.0",
            "01:00.00",
            "000:01:00.0",
            "000000000:01:00.0",
            "0:0000:01:00.0",
            ":01:00.0",
            "0000:01:00.0 ",
            "+1:00.0",
            "0000:0g:00.0",
            "0000-01-00.0",
            "192.168.0.1",
            "/dev/nvme0",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }
}
