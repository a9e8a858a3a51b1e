//! Durations and quantities as Go and Kubernetes write them.

use std::time::Duration;

/// `50ms`, `1m30s`, `1.5h`, `0`: a duration in Go's syntax.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration; write for instance 50ms, 30s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[unit..];
    }
    if text.is_empty() {
        return Err(bad());
    }
    // To the nanosecond: the sum above carries the noise of binary fractions.
    Ok(Duration::from_nanos((total * 1e9).round() as u64))
}

/// `4Mi`, `1G`, `5000`: bytes or counts as a Kubernetes quantity.
pub fn quantity(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a quantity; write for instance 4Mi, 1G or 5000");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| bad())?;
    let factor = match text[digits..].trim_end_matches(['B', 'b']) {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => f64::from(1 << 20),
        "Gi" => f64::from(1 << 30),
        "Ti" => (1u64 << 40) as f64,
        _ => return Err(bad()),
    };
    Ok((number * factor).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("50ms", 50),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "ms", "5 s", "-1s", "1x"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quantities() {
        for (text, n) in [
            ("5000", 5000),
            ("1k", 1000),
            ("32MiB", 32 << 20),
            ("10Gi", 10 << 30),
            ("1.5M", 1_500_000),
        ] {
            assert_eq!(quantity(text), Ok(n), "{text}");
        }
        for text in ["", "Mi", "1X", "-1"] {
            assert!(quantity(text).is_err(), "{text}");
        }
    }
}
