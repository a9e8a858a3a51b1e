//! The report as a page: one file, nothing loaded from elsewhere, no script.

use std::fmt::Write as _;

use super::json::METHOD;
use super::svg::{COLOURS, Line, Plot, escape};
use super::table::number;
use super::{Estimate, Group, Numbers, Report, Times, near};

const STYLE: &str = include_str!("page.css");
/// Points of a distribution.
const POINTS: u32 = 200;
/// A distribution is drawn up to here: what is beyond is in the table.
const LAST: f64 = 0.999;

/// A column of the table: its head, the number, its factor and its digits.
type Column = (&'static str, fn(&Numbers) -> f64, f64, usize);

const COLUMNS: [Column; 16] = [
    ("goodput, 1/s", |n| n.goodput, 1.0, 2),
    ("good, %", |n| n.good_share, 100.0, 1),
    ("rejected, %", |n| n.rejected_share, 100.0, 2),
    ("lost, %", |n| n.lost_share, 100.0, 2),
    ("TTFT mean, s", |n| n.ttft.mean, 1.0, 3),
    ("p50", |n| n.ttft.p50, 1.0, 3),
    ("p99", |n| n.ttft.p99, 1.0, 3),
    ("TPOT mean, ms", |n| n.tpot.mean, 1e3, 1),
    ("p50", |n| n.tpot.p50, 1e3, 1),
    ("p99", |n| n.tpot.p99, 1e3, 1),
    ("E2E mean, s", |n| n.e2e.mean, 1.0, 2),
    ("p99", |n| n.e2e.p99, 1.0, 2),
    ("tokens/s", |n| n.throughput, 1.0, 0),
    ("cache hit, %", |n| n.cache_hit, 100.0, 1),
    ("load CV", |n| n.load_cv, 1.0, 2),
    ("LoRA loads", |n| n.lora_loads, 1.0, 0),
];

/// A number that is plotted against load.
type Against = (&'static str, &'static str, fn(&Numbers) -> f64, f64);

const AGAINST_LOAD: [Against; 6] = [
    (
        "Goodput under SLO",
        "good requests a second",
        |n| n.goodput,
        1.0,
    ),
    ("TTFT, 99 of 100", "s", |n| n.ttft.p99, 1.0),
    ("TPOT, mean", "ms", |n| n.tpot.mean, 1e3),
    ("Cache hit", "% of prompt tokens", |n| n.cache_hit, 100.0),
    (
        "Rejected and lost",
        "% of requests",
        |n| n.rejected_share + n.lost_share,
        100.0,
    ),
    (
        "Load, most loaded over mean",
        "times",
        |n| n.load_max_mean,
        1.0,
    ),
];

impl Report {
    /// The page.
    pub fn to_html(&self) -> String {
        let mut out = String::new();
        let policies = distinct(self.groups.iter().map(|group| group.policy.as_str()));
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>pointsman replay</title><style>{STYLE}</style>\n<h1>pointsman replay</h1><p class=\"set\">"
        );
        for (name, value) in &self.setting {
            let _ = write!(
                out,
                "<span>{}: <b>{}</b></span> ",
                escape(name),
                escape(value)
            );
        }
        let _ = write!(
            out,
            "<span>good: <b>TTFT ≤ {} s, TPOT ≤ {} ms</b></span></p><ul class=\"key\">",
            self.slo.ttft,
            self.slo.tpot * 1e3
        );
        for (colour, policy) in policies.iter().enumerate() {
            let colour = colour % COLOURS;
            let _ = write!(
                out,
                r#"<li><svg viewBox="0 0 26 10"><line class="l s{colour}" x1="1" x2="25" y1="5" y2="5"/></svg>{}</li>"#,
                escape(policy)
            );
        }
        out.push_str("</ul>\n");
        for trace in distinct(self.groups.iter().map(|group| group.trace.as_str())) {
            let _ = write!(out, "<h2>{}</h2>", escape(trace));
            let of_trace = self.groups.iter().filter(|group| group.trace == trace);
            let groups: Vec<_> = of_trace
                .map(|group| {
                    let colour = policies.iter().position(|policy| *policy == group.policy);
                    (colour.unwrap_or_default(), group)
                })
                .collect();
            let mut rates: Vec<f64> = Vec::new();
            for (_, group) in &groups {
                if !rates.iter().any(|&rate| near(rate, group.rate)) {
                    rates.push(group.rate);
                }
            }
            rates.sort_by(f64::total_cmp);
            if rates.len() > 1 {
                against_load(&mut out, &policies, &groups);
            }
            for &rate in &rates {
                let at = groups.iter().filter(|(_, group)| near(rate, group.rate));
                self.at_rate(&mut out, rate, &at.copied().collect::<Vec<_>>());
            }
        }
        let _ = writeln!(
            out,
            "<p class=\"set\">{METHOD}. Lines of load over time are of the first seed: the mean over endpoints, between the least and the most loaded one.</p></html>"
        );
        out
    }

    fn at_rate(&self, out: &mut String, rate: f64, groups: &[(usize, &Group)]) {
        let _ = write!(out, "<h3>{rate:.2} requests a second</h3>");
        table(out, groups);
        out.push_str("<div class=\"plots\">");
        let slo = self.slo;
        for (title, unit, times, scale, mark) in [
            (
                "TTFT",
                "s",
                (|g| &g.ttft) as fn(&Group) -> &Times,
                1.0,
                Some(slo.ttft),
            ),
            ("TPOT", "ms", |g| &g.tpot, 1e3, Some(slo.tpot * 1e3)),
            ("E2E", "s", |g| &g.e2e, 1.0, None),
        ] {
            let lines = groups.iter().map(|&(colour, group)| Line {
                colour,
                name: group.policy.clone(),
                points: distribution(times(group), scale),
                ..Line::default()
            });
            draw(
                out,
                &Plot {
                    title: &format!("{title}, distribution"),
                    x: unit,
                    y: "share of requests served",
                    lines: lines.collect(),
                    log_x: true,
                    top: Some(1.0),
                    mark: mark.map(|mark| (mark, "SLO")),
                },
            );
        }
        out.push_str("</div><div class=\"plots small\">");
        // The same scale for all: what is compared should look comparable.
        let highest = groups.iter().flat_map(|(_, group)| group.load.stretches());
        let highest = highest.map(|stretch| stretch.max).fold(0.0, f64::max);
        for &(colour, group) in groups {
            let stretches: Vec<_> = group.load.stretches().collect();
            let line = Line {
                colour,
                name: group.policy.clone(),
                points: stretches.iter().map(|s| (s.at, s.mean)).collect(),
                band: stretches.iter().map(|s| (s.min, s.max)).collect(),
                dots: false,
            };
            draw(
                out,
                &Plot {
                    title: &group.policy,
                    x: "s",
                    y: "in flight per endpoint",
                    lines: vec![line],
                    top: (highest > 0.0).then_some(highest * 1.05),
                    ..Plot::default()
                },
            );
        }
        out.push_str("</div>\n");
    }
}

fn against_load(out: &mut String, policies: &[&str], groups: &[(usize, &Group)]) {
    out.push_str("<div class=\"plots\">");
    for (title, unit, get, scale) in AGAINST_LOAD {
        let mut lines = Vec::new();
        for (colour, policy) in policies.iter().enumerate() {
            let of_policy = groups.iter().filter(|(_, group)| group.policy == *policy);
            let mut points: Vec<(f64, Estimate)> = of_policy
                .map(|(_, group)| (group.rate, group.estimate(get)))
                .filter(|(_, estimate)| !estimate.median.is_nan())
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let place = |(rate, estimate): &(f64, Estimate)| (*rate, estimate.median * scale);
            let around = |(_, e): &(f64, Estimate)| (e.low * scale, e.high * scale);
            lines.push(Line {
                colour,
                name: (*policy).to_owned(),
                points: points.iter().map(place).collect(),
                band: points.iter().map(around).collect(),
                dots: true,
            });
        }
        draw(
            out,
            &Plot {
                title,
                x: "requests a second, offered",
                y: unit,
                lines,
                ..Plot::default()
            },
        );
    }
    out.push_str("</div>\n");
}

fn table(out: &mut String, groups: &[(usize, &Group)]) {
    out.push_str("<div class=\"wide\"><table><thead><tr><th>policy</th>");
    for (head, ..) in COLUMNS {
        let _ = write!(out, "<th>{head}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for (colour, group) in groups {
        let (colour, policy) = (colour % COLOURS, escape(&group.policy));
        let _ = write!(out, "<tr><th><i class=\"s{colour}\"></i>{policy}</th>");
        for (_, get, scale, digits) in COLUMNS {
            let estimate = group.estimate(get);
            let of = |value: f64| number(value * scale, digits);
            let _ = write!(
                out,
                "<td title=\"{} to {}, {:.1} % sure\">{}</td>",
                of(estimate.low),
                of(estimate.high),
                estimate.confidence * 100.0,
                of(estimate.median)
            );
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
}

/// Share of values that are not longer, by value.
fn distribution(times: &Times, scale: f64) -> Vec<(f64, f64)> {
    (0..=POINTS)
        .map(|i| {
            let share = f64::from(i) / f64::from(POINTS) * LAST;
            (times.quantile(share) * scale, share)
        })
        .collect()
}

fn draw(out: &mut String, plot: &Plot<'_>) {
    if let Some(svg) = plot.svg() {
        let _ = write!(out, "<figure>{svg}</figure>");
    }
}

/// In the order in which they first come.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut out: Vec<&str> = Vec::new();
    for name in names {
        if !out.contains(&name) {
            out.push(name);
        }
    }
    out
}
