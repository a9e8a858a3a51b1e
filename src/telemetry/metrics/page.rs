//! From the OpenMetrics text of `prometheus-client` to the text that Go's client writes.
//!
//! The llm-d picker answers in Prometheus' own text format (0.0.4), and what matches on its page (recording rules, adapters of
//! autoscalers, scrapers other than Prometheus) sees two differences: a counter's family is called by its whole name, with
//! `_total`, and the bound of a bucket is printed as Go prints it, `le="1"` and `le="1.048576e+06"`.

use std::collections::HashMap;
use std::fmt::Write as _;

/// The type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is put together from several: a family is told once, with the samples of all of them, in the order in which
/// families were first seen.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Each begins with its help and its type.
    families: Vec<String>,
    /// Where those are, by name.
    places: HashMap<String, usize>,
}

// === impl Page ===

impl Page {
    /// Adds `page`, rewritten. `stability` begins each help text; `label`, as in `pool="a"`, is given to each sample, if it is
    /// not empty.
    pub(super) fn add(&mut self, page: &str, stability: &str, label: &str) {
        let mut help = "";
        // How the lines begin that have a bound.
        let mut bucket = String::new();
        let mut place = None;
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
                let total = if kind == "counter" { "_total" } else { "" };
                let text = help.strip_prefix(name).unwrap_or_default().trim();
                let family = format!("{name}{total}");
                let head = format!("# HELP {family} {stability}{text}\n# TYPE {family} {kind}\n");
                place = Some(*self.places.entry(family).or_insert_with(|| {
                    self.families.push(head);
                    self.families.len() - 1
                }));
                bucket.clear();
                if kind == "histogram" {
                    bucket.push_str(name);
                    bucket.push_str("_bucket");
                }
            } else if let (false, Some(place)) = (line.starts_with('#'), place) {
                sample(line, &bucket, label, &mut self.families[place]);
            }
        }
    }

    pub(super) fn text(self) -> String {
        self.families.concat()
    }
}

/// Appends `line` to `out`, with `label`, and its bound rewritten if its name is `bucket`.
fn sample(line: &str, bucket: &str, label: &str, out: &mut String) {
    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
    out.push_str(name);
    match rest.strip_prefix('{') {
        Some(labels) => {
            out.push('{');
            out.push_str(label);
            if !label.is_empty() && !labels.starts_with('}') {
                out.push(',');
            }
            bound(labels, name == bucket, out);
        }
        None => {
            if !label.is_empty() {
                // Writing to a String cannot fail.
                let _ = write!(out, "{{{label}}}");
            }
            out.push_str(rest);
        }
    }
    out.push('\n');
}

fn bound(labels: &str, of_bucket: bool, out: &mut String) {
    const BOUND: &str = "le=\"";
    let bound = labels.strip_prefix(BOUND).filter(|_| of_bucket);
    let bound = bound.and_then(|rest| rest.split_once('"'));
    let number = bound.and_then(|(bound, _)| bound.parse::<f64>().ok());
    match (bound, number) {
        (Some((_, rest)), Some(number)) if number.is_finite() => {
            out.push_str(BOUND);
            go_float(out, number);
            out.push('"');
            out.push_str(rest);
        }
        _ => out.push_str(labels),
    }
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
        let rewritten = |label: &str| {
            let mut out = Page::default();
            out.add(page, "[ALPHA] ", label);
            out.text()
        };
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
        assert_eq!(rewritten(""), expected);
    }

    #[test]
    fn a_family_of_several_pages_is_told_once() {
        let page = |rest: &str| format!("# HELP g Gauge.\n# TYPE g gauge\n{rest}# EOF\n");
        let mut out = Page::default();
        out.add("# HELP a A.\n# TYPE a counter\na_total 7\n", "", "");
        out.add(&page("g 1\ng{a=\"{\"} 2\ng{} 3\n"), "", "pool=\"n/p\"");
        let histogram = "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\n";
        out.add(histogram, "", "pool=\"n/p\"");
        out.add(&page("g 4\n"), "", "pool=\"n/q\"");
        let expected = "\
# HELP a_total A.
# TYPE a_total counter
a_total 7
# HELP g Gauge.
# TYPE g gauge
g{pool=\"n/p\"} 1
g{pool=\"n/p\",a=\"{\"} 2
g{pool=\"n/p\"} 3
g{pool=\"n/q\"} 4
# HELP h H.
# TYPE h histogram
h_bucket{pool=\"n/p\",le=\"1\"} 1
";
        assert_eq!(out.text(), expected);
    }
}
