//! Names of the chassis types (SMBIOS 3.7, 7.4.1).

const NAMES: [&str; 37] = [
    "",
    "Other",
    "Unknown",
    "Desktop",
    "Low Profile Desktop",
    "Pizza Box",
    "Mini Tower",
    "Tower",
    "Portable",
    "Laptop",
    "Notebook",
    "Hand Held",
    "Docking Station",
    "All in One",
    "Sub Notebook",
    "Space-saving",
    "Lunch Box",
    "Main Server Chassis",
    "Expansion Chassis",
    "SubChassis",
    "Bus Expansion Chassis",
    "Peripheral Chassis",
    "RAID Chassis",
    "Rack Mount Chassis",
    "Sealed-case PC",
    "Multi-system Chassis",
    "Compact PCI",
    "Advanced TCA",
    "Blade",
    "Blade Enclosure",
    "Tablet",
    "Convertible",
    "Detachable",
    "IoT Gateway",
    "Embedded PC",
    "Mini PC",
    "Stick PC",
];

/// The name of a type given as the kernel prints it, a decimal number; empty if there is none.
pub(super) fn description(number: &str) -> &'static str {
    // Bit 7 says whether a lock is present.
    let index = number.parse::<usize>().map_or(0, |n| n & 0x7f);
    NAMES.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::description;

    #[test]
    fn numbers_beyond_the_table_have_no_name() {
        assert_eq!(description("17"), "Main Server Chassis");
        assert_eq!(description("145"), "Main Server Chassis");
        assert_eq!(description("36"), "Stick PC");
        assert_eq!(
            (description("37"), description("x"), description("")),
            ("", "", "")
        );
    }
}
