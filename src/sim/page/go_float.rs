//! Numbers as Python's Prometheus client prints them.

use std::fmt::Write as _;

/// Prints `value` as Python's client does: the shortest decimal that reads back the same, always with a fraction, and
/// with an exponent from a million on, as Go has it, or where Python's own notation has one.
pub(in crate::sim) fn go_float(out: &mut String, value: f64) {
    // Writing to a String cannot fail.
    if value.fract() == 0.0 && value.abs() < 1e6 {
        // Most are counts. The cast is exact below a million.
        let _ = write!(out, "{}.0", value as i64);
        return;
    }
    if !value.is_finite() {
        out.push_str(match value {
            v if v.is_nan() => "NaN",
            v if v > 0.0 => "+Inf",
            _ => "-Inf",
        });
        return;
    }
    // Shortest digits, with an exponent: `-1.5e-7`.
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (value > 0.0 && (6..16).contains(&exponent)) || !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    } else {
        let _ = write!(out, "{value:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn print(value: f64) -> String {
        let mut out = String::new();
        go_float(&mut out, value);
        out
    }

    /// Printed by `floatToGoString` of prometheus_client 0.26.
    #[test]
    fn like_pythons_client() {
        for (value, expected) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (5.5, "5.5"),
            (0.1, "0.1"),
            (0.7421, "0.7421"),
            (100_000.0, "100000.0"),
            (999_999.0, "999999.0"),
            (1e6, "1e+06"),
            (1_204_117.0, "1.204117e+06"),
            (1_234_567.5, "1.2345675e+06"),
            (1_788_626_454.631_877_2, "1.7886264546318772e+09"),
            (1_788_184_174.081_528, "1.788184174081528e+09"),
            (1e15, "1e+15"),
            (1e16, "1e+16"),
            (1.5e16, "1.5e+16"),
            (123_456_789_012_345_678.0, "1.2345678901234568e+17"),
            (1e21, "1e+21"),
            (0.0001, "0.0001"),
            (0.000_12, "0.00012"),
            (5e-05, "5e-05"),
            (1.25e-7, "1.25e-07"),
            (-3.0, "-3.0"),
            (-2_000_000.0, "-2000000.0"),
            (-1.5e-7, "-1.5e-07"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(print(value), expected);
        }
    }

    proptest! {
        #[test]
        fn reads_back(value in any::<f64>()) {
            let read: f64 = print(value).parse().unwrap();
            prop_assert!(read == value || value.is_nan());
        }
    }
}
