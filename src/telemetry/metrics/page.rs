//! From the OpenMetrics text of `prometheus-client` to the text that Go's client writes.
//!
//! The llm-d picker answers in Prometheus' own text format (0.0.4), and what matches on its page (recording rules, adapters of
//! autoscalers, scrapers other than Prometheus) sees two differences: a counter's family is called by its whole name, with
//! `_total`, and the bound of a bucket is printed as Go prints it, `le="1"` and `le="1.048576e+06"`.

use std::fmt::Write as _;

/// The type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Appends `page` to `out`, rewritten. `stability` begins each help text.
pub(super) fn rewrite(page: &str, stability: &str, out: &mut String) {
    let mut help = "";
    // How the lines begin that have a bound.
    let mut bucket = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let total = if kind == "counter" { "_total" } else { "" };
            let text = help.strip_prefix(name).unwrap_or_default().trim();
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name}{total} {stability}{text}");
            let _ = writeln!(out, "# TYPE {name}{total} {kind}");
            bucket.clear();
            if kind == "histogram" {
                let _ = write!(bucket, "{name}_bucket{{le=\"");
            }
        } else if !line.starts_with('#') {
            sample(line, &bucket, out);
        }
    }
}

fn sample(line: &str, bucket: &str, out: &mut String) {
    let bound = line
        .strip_prefix(bucket)
        .filter(|_| !bucket.is_empty())
        .and_then(|rest| rest.split_once('"'));
    let number = bound.and_then(|(bound, _)| bound.parse::<f64>().ok());
    match (bound, number) {
        (Some((_, rest)), Some(number)) if number.is_finite() => {
            out.push_str(bucket);
            go_float(out, number);
            out.push('"');
            out.push_str(rest);
        }
        _ => out.push_str(line),
    }
    out.push('\n');
}

/// Prints a finite `value` as Go's `strconv.FormatFloat(value, 'g', -1, 64)` does: the shortest decimal that reads back the
/// same, with an exponent below 0.0001 and from a million on.
fn go_float(out: &mut String, value: f64) {
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let _ = if (-4..6).contains(&exponent) {
        write!(out, "{value}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{mantissa}e{sign}{:02}", exponent.abs())
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_printed_as_go_does() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.005, "0.005"),
            (0.00205, "0.00205"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (0.000_025, "2.5e-05"),
            (32778.0, "32778"),
            (524_288.0, "524288"),
            (1_048_576.0, "1.048576e+06"),
            (1_073_741_824.0, "1.073741824e+09"),
        ] {
            let mut out = String::new();
            go_float(&mut out, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn only_families_and_bounds_are_rewritten() {
        let page = "\
# HELP c Counts.
# TYPE c counter
c_total{a=\"x_bucket{le=\\\"1.0\\\"}\"} 1
# HELP h Sizes.
# TYPE h histogram
h_sum{a=\"b\"} 1.5
h_count{a=\"b\"} 1
h_bucket{le=\"1048576.0\",a=\"b\"} 1
h_bucket{le=\"+Inf\",a=\"b\"} 1
# HELP g Gauge.
# TYPE g gauge
g 1.0
# EOF
";
        let mut out = String::new();
        rewrite(page, "[ALPHA] ", &mut out);
        let expected = "\
# HELP c_total [ALPHA] Counts.
# TYPE c_total counter
c_total{a=\"x_bucket{le=\\\"1.0\\\"}\"} 1
# HELP h [ALPHA] Sizes.
# TYPE h histogram
h_sum{a=\"b\"} 1.5
h_count{a=\"b\"} 1
h_bucket{le=\"1.048576e+06\",a=\"b\"} 1
h_bucket{le=\"+Inf\",a=\"b\"} 1
# HELP g [ALPHA] Gauge.
# TYPE g gauge
g 1.0
";
        assert_eq!(out, expected);
    }
}
