//! What is shown: pods as they come and go with their shares of the requests, objects with what they are told, and a summary.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use serde_json::Value;

use super::super::super::http;
use super::super::traffic::Results;
use super::kubelet::{Kubelet, Phase};
use super::manifests::Manifests;
use super::objects::{OBJECTIVES, Objects, REWRITES};

/// Looks that `now` is about.
const LATELY: usize = 6;
/// Events that are shown below the table.
const EVENTS: usize = 6;
/// Pods that are remembered.
const MOST_ROWS: usize = 64;

/// One pod, also when it is gone.
#[derive(Debug, Default)]
struct Row {
    address: String,
    state: &'static str,
    waiting: f64,
    running: f64,
}

/// One object, and what it is told.
#[derive(Debug)]
pub(super) struct Told {
    object: String,
    accepted: String,
    message: String,
}

/// What is known now, and some of what was.
#[derive(Debug, Default)]
pub(super) struct View {
    rows: BTreeMap<String, Row>,
    objects: Vec<Told>,
    /// Of each rewrite by the picker's count: how often to which target.
    rewritten: Vec<(String, f64)>,
    /// Answers by pod, at the last looks.
    lately: VecDeque<BTreeMap<String, u64>>,
    events: VecDeque<String>,
}

// === impl View ===

impl View {
    /// Takes down what happened.
    pub(super) fn happened(&mut self, seconds: f64, event: &str) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(format!("{seconds:5.1} s  {event}"));
    }

    /// Looks at everything; `page` is the picker's metrics.
    pub(super) fn look(
        &mut self,
        kubelet: &Kubelet,
        objects: Vec<Told>,
        page: &str,
        results: &Results,
    ) {
        for (name, row) in &mut self.rows {
            if !kubelet.pods().contains_key(name) {
                row.state = "gone";
                (row.waiting, row.running) = (0.0, 0.0);
            }
        }
        for (name, pod) in kubelet.pods() {
            if self.rows.len() >= MOST_ROWS && !self.rows.contains_key(name) {
                continue;
            }
            let row = Row {
                address: pod.address.to_string(),
                state: match pod.phase {
                    Phase::Starting => "starting",
                    Phase::Ready => "ready",
                    Phase::Ending(_) => "ending",
                },
                waiting: pod.waiting,
                running: pod.running,
            };
            self.rows.insert(name.clone(), row);
        }
        self.objects = objects;
        self.rewritten = rewritten(page);
        if self.lately.len() > LATELY {
            self.lately.pop_front();
        }
        self.lately.push_back(results.by_server.clone());
    }

    pub(super) fn live(&self, results: &Results, seconds: f64) -> String {
        let mut out = format!(
            "{seconds:5.1} s  {} sent, {} answered, {} turned away, {} failed\n",
            results.sent,
            results.complete,
            results.shed,
            results.failures()
        );
        self.pods(&mut out, results);
        out.push('\n');
        self.told(&mut out);
        out.push('\n');
        for event in &self.events {
            out.push_str(event);
            out.push('\n');
        }
        out
    }

    pub(super) fn summary(&self, results: &Results, seconds: f64) -> String {
        let mut out = format!("\n{}\n\n", results.told(seconds));
        self.pods(&mut out, results);
        out.push('\n');
        self.told(&mut out);
        for (what, count) in &results.failed {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "failed: {count} {what}");
        }
        out.push_str(&match results.astray {
            0 => "\nEvery answer came from the pod that the picker chose.\n".to_owned(),
            astray => {
                format!("\n{astray} answers came from a pod that the picker did not choose.\n")
            }
        });
        out
    }

    /// Shares: of all answers, and of those of the last looks.
    fn pods(&self, out: &mut String, results: &Results) {
        let before = self.lately.front();
        let recent = |name: &str| {
            let now = results.by_server.get(name).copied().unwrap_or(0);
            let before = before.and_then(|before| before.get(name));
            now.saturating_sub(before.copied().unwrap_or(0))
        };
        let all_recent: u64 = self.rows.keys().map(|name| recent(name)).sum();
        let percent = |part: u64, all: u64| 100.0 * part as f64 / all.max(1) as f64;
        let _ = writeln!(
            out,
            "{:<10} {:<22} {:<9} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "pod", "address", "state", "waiting", "running", "served", "share", "now"
        );
        for (name, row) in &self.rows {
            let served = results.by_server.get(name).copied().unwrap_or(0);
            let _ = writeln!(
                out,
                "{:<10} {:<22} {:<9} {:>7} {:>7} {:>7} {:>5.0} % {:>5.0} %",
                name,
                row.address,
                row.state,
                row.waiting,
                row.running,
                served,
                percent(served, results.complete),
                percent(recent(name), all_recent),
            );
        }
    }

    fn told(&self, out: &mut String) {
        let _ = writeln!(out, "{:<26} {:<26} why", "object", "accepted");
        for told in &self.objects {
            let _ = writeln!(
                out,
                "{:<26} {:<26} {}",
                told.object, told.accepted, told.message
            );
        }
        let all: f64 = self.rewritten.iter().map(|(_, count)| count).sum();
        for (what, count) in &self.rewritten {
            let percent = 100.0 * count / all.max(1.0);
            let _ = writeln!(out, "  rewritten: {what}  {count}  ({percent:.0} %)");
        }
    }
}

/// Pools by the picker's metrics, for it writes no status of them; the others by their status; and what the API server refused.
pub(super) async fn told(
    objects: &Objects,
    manifests: &Manifests,
    page: &str,
) -> anyhow::Result<Vec<Told>> {
    let mut all = Vec::new();
    for standing in ["accepted", "invalid"] {
        let labels = [
            "resource=\"inferencepools\"",
            &format!("standing=\"{standing}\""),
        ];
        if http::sum(page, "llm_d_epp_kubernetes_objects", &labels) > 0.0 {
            all.push(Told {
                object: "pool".to_owned(),
                accepted: standing.to_owned(),
                message: "By the picker's metrics; its log says why.".to_owned(),
            });
        }
    }
    for kind in [&OBJECTIVES, &REWRITES] {
        for object in objects.list(kind).await? {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let conditions = object["status"]["conditions"].as_array();
            let accepted = conditions
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == "Accepted");
            let text = |field: &str| accepted.and_then(|c| c[field].as_str()).unwrap_or("-");
            all.push(Told {
                object: format!("{}/{name}", kind.short),
                accepted: match accepted {
                    None => "not told yet".to_owned(),
                    Some(_) if text("reason") == "Accepted" => "True".to_owned(),
                    Some(_) => format!("{}, {}", text("status"), text("reason")),
                },
                message: text("message").to_owned(),
            });
        }
    }
    all.extend(manifests.refused().map(|(kind, name, why)| Told {
        object: format!("{}/{name}", kind.short),
        accepted: "refused".to_owned(),
        message: why.to_owned(),
    }));
    Ok(all)
}

/// What the picker counts of rewrites.
fn rewritten(page: &str) -> Vec<(String, f64)> {
    let family = "llm_d_epp_model_rewrite_decisions_total{";
    let series = page.lines().filter_map(|line| line.strip_prefix(family));
    let mut all: Vec<_> = series
        .filter_map(|series| {
            let (labels, count) = series.rsplit_once("} ")?;
            let label = |name: &str| {
                let rest = labels.split_once(&format!("{name}=\""))?.1;
                Some(rest.split_once('"')?.0)
            };
            let (asked, target) = (label(",model_name")?, label("target_model")?);
            Some((format!("{asked} → {target}"), count.parse().ok()?))
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The model that is asked for: that of the first rewrite which is for one, else `default`; and an objective that is there,
/// with whether its requests may be shed.
pub(super) async fn asked(
    objects: &Objects,
    pool: &str,
    default: &str,
) -> anyhow::Result<(String, Option<(String, bool)>)> {
    let of_pool = |object: &Value| object["spec"]["poolRef"]["name"] == pool;
    let rewrites = objects.list(&REWRITES).await?;
    let model = rewrites
        .iter()
        .filter(|rewrite| of_pool(rewrite))
        .find_map(|rewrite| rewrite["spec"]["rules"][0]["matches"][0]["model"]["value"].as_str());
    let objectives = objects.list(&OBJECTIVES).await?;
    let objective = objectives
        .iter()
        .find(|objective| of_pool(objective))
        .and_then(|objective| {
            let name = objective["metadata"]["name"].as_str()?;
            let priority = objective["spec"]["priority"].as_i64();
            let sheddable = priority.is_some_and(|priority| priority < 0);
            Some((name.to_owned(), sheddable))
        });
    let model = model.unwrap_or(default).to_owned();
    Ok((model, objective))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_are_read_from_the_page() {
        let page = "llm_d_epp_model_rewrite_decisions_total{model_rewrite_name=\"r\",model_name=\"chat\",target_model=\"b\"} 3\nllm_d_epp_model_rewrite_decisions_total{model_rewrite_name=\"r\",model_name=\"chat\",target_model=\"a\"} 1\n";
        let expected = [("chat → a".to_owned(), 1.0), ("chat → b".to_owned(), 3.0)];
        assert_eq!(rewritten(page), expected);
    }
}
