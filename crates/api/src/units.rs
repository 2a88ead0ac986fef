//! Sizes and durations as people write them, and figures as people read them.

use std::time::Duration;

const BINARY: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// Reads a size in bytes: `4096`, `512KiB`, `10GiB`, `10Gi`, `1.5TiB`, `10GB`.
///
/// `KiB` and `Ki` count by 1024, `kB` and `KB` by 1000. A bare `10G` means one to some programs
/// and the other to the rest, so it is refused.
///
/// # Errors
/// It is not a size, not a whole number of bytes, or more than fits.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let factor = factor_of(unit).ok_or_else(|| match unit {
        "K" | "M" | "G" | "T" | "P" | "k" | "m" | "g" | "t" | "p" => {
            let u = unit.to_ascii_uppercase();
            format!(
                "`{text}` is ambiguous: write {number}{u}iB (by 1024) or {number}{u}B (by 1000)"
            )
        }
        _ => format!("`{text}` is not a size; sizes look like 4096, 512KiB or 10GiB"),
    })?;
    exact(number, factor).ok_or_else(|| {
        format!("`{text}` is not a whole number of bytes below 8 EiB; sizes look like 10GiB")
    })
}

fn factor_of(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    let (prefix, base) = match lower.as_str() {
        "" | "b" => return Some(1),
        other => match (other.strip_suffix("ib"), other.strip_suffix('i')) {
            (Some(prefix), _) | (None, Some(prefix)) => (prefix, 1024_u64),
            (None, None) => (other.strip_suffix('b')?, 1000),
        },
    };
    let power = ["k", "m", "g", "t", "p"]
        .iter()
        .position(|p| *p == prefix)?;
    base.checked_pow(power as u32 + 1)
}

/// `number * factor`, if `number` is a decimal number and the product a whole one.
fn exact(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 18 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = digits.checked_mul(u128::from(factor))?;
    // The API counts in int64.
    (product % scale == 0 && product / scale <= i64::MAX as u128).then(|| (product / scale) as u64)
}

/// Reads a duration: `5`, `1.5s`, `200ms`, `2m`, `1h`. A bare number is seconds.
///
/// # Errors
/// It is not one, or it is not positive.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; durations look like 5s, 200ms or 2m");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = number * unit;
    // A year is more than anything here waits for.
    if seconds > 0.0 && seconds <= 31_536_000.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!(
            "`{text}` is out of range; durations are positive and at most a year"
        ))
    }
}

/// Writes a size for people: exact where a unit divides it, else with one decimal.
pub fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < BINARY.len() {
        value /= 1024.0;
        unit += 1;
    }
    let whole = (value * 10.0).round() / 10.0;
    if whole.fract() == 0.0 {
        format!("{whole:.0}{}", BINARY[unit])
    } else {
        format!("{whole:.1}{}", BINARY[unit])
    }
}

/// Writes a count for people: `950`, `12.3k`, `4.6M`.
pub fn count(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M", "G"] {
        if value < 999.95 {
            return match unit {
                "" if value.fract() == 0.0 || value >= 100.0 => format!("{value:.0}"),
                _ => format!("{value:.1}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1}T")
}

/// Writes a latency for people; `-` for none.
pub fn latency(ns: u64) -> String {
    match ns {
        0 => "-".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{:.1}us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}ms", ns as f64 / 1e6),
        _ => format!("{:.1}s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_1024_and_by_1000() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("4KiB", 4096),
            ("10GiB", 10 << 30),
            ("10Gi", 10 << 30),
            ("10gib", 10 << 30),
            ("1.5MiB", 3 << 19),
            ("10GB", 10_000_000_000),
            ("1kB", 1000),
            ("2 TiB", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_way_out() {
        for text in [
            "", "GiB", "10XiB", "-1", "1.", ".5GiB", "1.2.3", "1e3", "0x10",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size("10G").unwrap_err().contains("10GiB"));
        assert!(parse_size("0.3B").unwrap_err().contains("whole number"));
        assert!(parse_size("9000000PiB").is_err());
        assert!(parse_size("99999999999999999999999999999999999999999").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for text in ["", "0", "s", "1d", "-1s", "999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(10 << 30), "10GiB");
        assert_eq!(size(1500), "1.5KiB");
        assert_eq!(count(0.0), "0");
        assert_eq!(count(2.25), "2.2");
        assert_eq!(count(12_345.0), "12.3k");
        assert_eq!(count(999_999.0), "1.0M");
        assert_eq!(latency(0), "-");
        assert_eq!(latency(12_340), "12.3us");
    }
}
