//! A record as people read it: JSON with all names in their places.

use serde::Serialize;

use super::{Record, Row, Run, Seen, Text};

/// One decision.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionPage {
    request_id: String,
    /// Milliseconds since 1970.
    time_ms: u64,
    scheduling_us: f64,
    model: String,
    /// It is a retry: the id of the request that failed; empty if it had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_of: Option<String>,
    /// Where that failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed_at: Vec<String>,
    /// `<namespace>/<name>`, where there are several pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_id: Option<String>,
    /// Endpoints in it.
    pool: u32,
    candidates: u32,
    /// Where the request went, and its fallbacks: what the last profile chose.
    destinations: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    profiles: Vec<ProfilePage>,
}

/// What one profile did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfilePage {
    name: String,
    candidates: u32,
    filters: Vec<FilterPage>,
    /// The chosen ones first, then the others by their totals.
    endpoints: Vec<EndpointPage>,
    picker: String,
    /// `picker`: it chose. `probe`: the first endpoint was due to be tried out, whatever the scores say.
    reason: &'static str,
    /// The best of those that were not chosen.
    runner_up: Option<String>,
    /// The scorer that put others in the place of fallbacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallbacks_by: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct FilterPage {
    name: String,
    removed: u32,
    /// Some of those.
    endpoints: Vec<String>,
    /// Why each of them is gone, where the filter has several reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointPage {
    name: String,
    address: String,
    /// Its place among the chosen, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<u32>,
    /// `null`: it was not scored.
    total: Option<f32>,
    terms: Vec<TermPage>,
    waiting: Option<f32>,
    running: Option<f32>,
    kv_usage: Option<f32>,
    in_flight: u32,
    /// `null`: it was never scraped.
    scrape_age_ms: Option<u64>,
    /// `ok`, `derated`, `draining` or `ejected`.
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// Beside the pool's median; `null`: it is not told apart from that.
    speed: Option<f32>,
    /// Left out where nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<GpuPage>,
}

/// GPUs of an endpoint; bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GpuPage {
    age_ms: u64,
    held: u64,
    free: u64,
    foreign_processes: u32,
    fault_domain: u32,
}

#[derive(Clone, Debug, Serialize)]
struct TermPage {
    scorer: String,
    /// 0 to 1; `null`: the scorer did not know, which counts as the middle.
    score: Option<f32>,
    weight: f32,
}

fn known(value: f32) -> Option<f32> {
    (!value.is_nan()).then_some(value)
}

// === impl Record ===

impl Record {
    pub(super) fn page(&self) -> DecisionPage {
        let mut before = Run::default();
        let mut gone = 0;
        let mut profiles = Vec::with_capacity(self.runs.len());
        let mut destinations = Vec::new();
        for run in &self.runs {
            let mut filters = Vec::new();
            for step in &self.steps[before.steps..run.steps] {
                let names = self.gone[gone..step.gone].iter();
                filters.push(FilterPage {
                    name: self.owned(step.name),
                    removed: step.removed,
                    endpoints: names.clone().map(|(name, _)| self.owned(*name)).collect(),
                    causes: names.filter_map(|(_, why)| *why).collect(),
                });
                gone = step.gone;
            }
            let scorers = &self.scorers[before.scorers..run.scorers];
            let mut terms = self.terms[before.terms..run.terms].iter().copied();
            let rows = &self.endpoints[before.endpoints..run.endpoints];
            let mut endpoints = Vec::with_capacity(rows.len());
            for row in rows {
                // A probe was not scored.
                let scored = if row.seen.total.is_nan() {
                    &[]
                } else {
                    scorers
                };
                let terms = scored.iter().zip(&mut terms);
                let terms = terms.map(|(&(name, weight), score)| TermPage {
                    scorer: self.owned(name),
                    score: known(score),
                    weight,
                });
                endpoints.push(self.endpoint_page(row, terms.collect()));
            }
            destinations = endpoints
                .iter()
                .filter(|e| e.rank.is_some())
                .cloned()
                .collect();
            let others = endpoints.iter().filter(|e| e.rank.is_none());
            let by_total = |a: &&EndpointPage, b: &&EndpointPage| {
                let total = |e: &EndpointPage| e.total.unwrap_or(f32::NEG_INFINITY);
                total(a).total_cmp(&total(b))
            };
            profiles.push(ProfilePage {
                name: self.owned(run.name),
                candidates: run.candidates,
                filters,
                picker: self.owned(run.picker),
                reason: if run.probe { "probe" } else { "picker" },
                fallbacks_by: Some(self.owned(run.spread)).filter(|name| !name.is_empty()),
                runner_up: others.max_by(by_total).map(|e| e.name.clone()),
                endpoints,
            });
            before = *run;
        }
        DecisionPage {
            request_id: self.owned(self.id),
            time_ms: self.time_ms,
            scheduling_us: self.took.as_nanos() as f64 / 1000.0,
            model: self.owned(self.model),
            retry_of: self.retry.then(|| self.owned(self.retry_of)),
            failed_at: self.failed.iter().map(|&name| self.owned(name)).collect(),
            pool_id: self.pool_id.as_deref().map(str::to_owned),
            pool: self.pool,
            candidates: self.candidates,
            destinations: destinations
                .into_iter()
                .map(|e: EndpointPage| e.address)
                .collect(),
            error: self.error,
            profiles,
        }
    }

    fn endpoint_page(&self, row: &Row, terms: Vec<TermPage>) -> EndpointPage {
        let Seen {
            rank,
            total,
            waiting,
            running,
            kv_usage,
            in_flight,
            scrape_age_ms,
            health: (health, cause),
            speed,
            gpu,
        } = row.seen;
        EndpointPage {
            name: self.owned(row.name),
            address: self.owned(row.address),
            rank: (rank > 0).then_some(rank),
            total: known(total),
            terms,
            waiting: known(waiting),
            running: known(running),
            kv_usage: known(kv_usage),
            in_flight,
            scrape_age_ms,
            health,
            cause,
            speed: known(speed).filter(|&speed| speed != 1.0),
            gpu: gpu.map(|gpu| GpuPage {
                age_ms: gpu.age_ms,
                held: gpu.held,
                free: gpu.free,
                foreign_processes: gpu.foreign,
                fault_domain: gpu.domain,
            }),
        }
    }

    fn owned(&self, text: Text) -> String {
        self.text(text).to_owned()
    }
}
