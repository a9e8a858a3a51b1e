//! The protocol as data: cases in YAML, played over plain gRPC by clients that speak as each proxy does.
//!
//! They are played against our own server, or against any other: README.md says how. [`data`], [`expect`] and
//! [`clients`] are the cases' shape, [`bodies`] their bytes,
//! [`turns`] the requests of a case that has several in a row, [`pods`] the model servers, [`rig`] a picker with its pool, [`link`] one stream, [`stage`] what is
//! played, [`player`] the play, [`rules`] what the
//! protocol allows at any time, [`check`] and [`told`] what the case expects, [`http`] the cases as an HTTP client has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use pointsman::proto::ext_proc::processing_request::Request;
use tokio::task::{JoinSet, LocalSet};

pub(crate) mod bodies;
mod check;
pub(crate) mod clients;
pub(crate) mod data;
pub(crate) mod expect;
pub(crate) mod http;
mod link;
pub(crate) mod page;
mod player;
pub(crate) mod pods;
pub(crate) mod rig;
mod rules;
mod stage;
mod told;
pub(crate) mod turns;

use clients::Client;
use data::{Case, Suite};
use link::{Link, Next};
use rig::Rig;
use stage::Stage;

use crate::support::machine;

/// Cases of the default configuration are shared out among so many servers of ours.
const SHARES: usize = 3;

/// What came of some cases.
#[derive(Debug, Default)]
struct Report {
    plays: usize,
    failures: Vec<String>,
    /// What could not be asked of an external picker.
    left_out: BTreeSet<String>,
}

/// A picker to be tested that is not ours.
struct External {
    address: String,
    metrics: Option<SocketAddr>,
    endpoints: PathBuf,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_as_every_client() {
    let _machine = machine::shared().await;
    bodies::seed();
    let suite = Arc::new(data::load());
    let mut groups: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in wanted(&suite) {
        groups.entry(case.config.clone()).or_default().push(case);
    }
    let report = match std::env::var_os("PICKER_ADDRESS") {
        None => against_ours(&suite, groups).await,
        Some(_) => against_external(&suite, groups).await,
    };
    println!("{} plays, {} failures", report.plays, report.failures.len());
    for line in &report.left_out {
        println!("left out: {line}");
    }
    assert!(report.plays > 0, "nothing was played");
    assert!(
        report.failures.is_empty(),
        "{} of {} plays failed (VECTORS_SEED={}):\n{}",
        report.failures.len(),
        report.plays,
        bodies::seed(),
        report.failures.join("\n")
    );
}

/// All cases, or those that `PICKER_CASES` names.
fn wanted(suite: &Suite) -> Vec<Case> {
    let mut cases = suite.cases.clone();
    if let Ok(names) = std::env::var("PICKER_CASES") {
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        cases.retain(|case| names.contains(&case.id.as_str()));
    }
    cases
}

async fn against_ours(suite: &Arc<Suite>, groups: BTreeMap<String, Vec<Case>>) -> Report {
    let mut shares = Vec::new();
    for (config, cases) in groups {
        let most = if config == "default" { SHARES } else { 1 };
        for share in cases.chunks(cases.len().div_ceil(most)) {
            shares.push((config.clone(), share.to_vec()));
        }
    }
    // Not sent between threads, which borrows across awaits would not survive; the servers are processes anyway.
    let local = LocalSet::new();
    let mut running = JoinSet::new();
    for (config, cases) in shares {
        let suite = Arc::clone(suite);
        let share = async move {
            let rig = Rig::start(&suite, &suite.configs[&config]).await;
            play_all(&suite, rig, &cases).await
        };
        running.spawn_local_on(share, &local);
    }
    let mut report = Report::default();
    while let Some(share) = local.run_until(running.join_next()).await {
        match share {
            Ok(share) => report.add(share),
            Err(error) => report
                .failures
                .push(format!("the suite itself failed: {error}")),
        }
    }
    report
}

/// One configuration after the other: they share the pods' addresses.
async fn against_external(suite: &Suite, groups: BTreeMap<String, Vec<Case>>) -> Report {
    let mut report = Report::default();
    for (config, cases) in groups {
        let Some(external) = External::from_env(&config) else {
            let line = format!(
                "{} cases in configuration {config}: {} is not given",
                cases.len(),
                variable("PICKER_ADDRESS", &config)
            );
            report.left_out.insert(line);
            continue;
        };
        let rig = Rig::external(&external.address, external.metrics, &external.endpoints).await;
        if !rig.has_page() {
            let line = format!(
                "metrics in configuration {config}: {} is not given",
                variable("PICKER_METRICS", &config)
            );
            report.left_out.insert(line);
        }
        report.add(play_all(suite, rig, &cases).await);
    }
    report
}

fn variable(name: &str, config: &str) -> String {
    match config {
        "default" => name.to_owned(),
        other => format!("{name}_{}", other.to_uppercase().replace('-', "_")),
    }
}

async fn play_all(suite: &Suite, mut rig: Rig, cases: &[Case]) -> Report {
    let mut report = Report::default();
    for case in cases {
        for name in &case.clients {
            let problems = play_one(suite, &mut rig, case, &suite.clients[name]).await;
            report.plays += 1;
            let differs = case.differs.as_ref().filter(|_| !problems.is_empty());
            let differs = differs.map(|why| format!("\n    (here we differ: {why})"));
            report.failures.extend(problems.first().map(|first| {
                let more = problems[1..].iter().map(|p| format!("\n    {p}"));
                format!(
                    "{case} as {name}: {first}{}{}",
                    more.collect::<String>(),
                    differs.unwrap_or_default()
                )
            }));
        }
    }
    report
}

/// Plays a case's turns, as long as they fare well.
async fn play_one(suite: &Suite, rig: &mut Rig, case: &Case, client: &Client) -> Vec<String> {
    let mut past = turns::Past::new(case, client);
    for number in 0..case.turns.len() {
        let turn = past.turn(case, number);
        let problems = play_turn(suite, rig, &turn, client, &mut past).await;
        if !problems.is_empty() {
            let told = |problem| format!("turn {number}: {problem}");
            return problems.into_iter().map(told).collect();
        }
    }
    match case.turns.is_empty() {
        true => play_turn(suite, rig, case, client, &mut past).await,
        false => Vec::new(),
    }
}

async fn play_turn(
    suite: &Suite,
    rig: &mut Rig,
    case: &Case,
    client: &Client,
    past: &mut turns::Past,
) -> Vec<String> {
    let (pods, before) = match rig.set(case).await {
        Ok(set) => set,
        Err(problem) => return vec![problem],
    };
    let holder = match case.holding {
        None => None,
        Some(bytes) => match hold(suite, rig, case, bytes).await {
            Ok(holder) => Some(holder),
            Err(problem) => return vec![problem],
        },
    };
    let request_id = uuid::Uuid::new_v4().to_string();
    let headers = case.request.all_headers(&request_id);
    let fill = |(name, value): (String, String)| (name, data::fill(&value, &pods));
    let stage = Stage {
        case,
        client,
        rig,
        pods: &pods,
        headers: headers.into_iter().map(fill).collect(),
        body: bodies::request_body(case),
    };
    let outcome = player::play(&stage).await;
    let mut problems = check::check(&stage, &outcome);
    past.remember(&outcome, &pods);
    if let Some(holder) = holder {
        problems.extend(let_go(holder).await.err());
    }
    if !problems.is_empty() {
        // Then nobody waits for what cannot be.
        return problems;
    }
    let settled = rig.until(|page| {
        let lacking = case
            .expect
            .metrics
            .iter()
            .find_map(|change| page.lacks(&before, change));
        lacking.map_or(Ok(()), Err)?;
        let busy = page
            .by_endpoint("endpoint_in_flight")
            .iter()
            .any(|(_, n)| *n != 0.0);
        match busy || page.total("request_running") != before.total("request_running") {
            true => Err("requests are still in flight at the end".to_owned()),
            false => Ok(()),
        }
    });
    problems.extend(settled.await.err());
    problems
}

/// Another request, of whose body so many bytes are there and the end is not.
async fn hold(suite: &Suite, rig: &Rig, case: &Case, bytes: usize) -> Result<Link, String> {
    let mut link = Link::open(&rig.channel, &suite.clients["plain"], false);
    let headers = [(":method", "POST"), (":path", "/v1/completions")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let map = link.header_map(&headers, []);
    link.send(Request::RequestHeaders(link::headers(map, false)), None);
    let begin = r#"{"model":"m","prompt":""#.to_owned();
    let body = format!("{begin}{}", "x".repeat(bytes - begin.len()));
    link.send(Request::RequestBody(link::body(body.into(), false)), None);
    let held = rig.until(|page| match page.total("request_body_buffered_bytes") {
        held if held == bytes as f64 => Ok(()),
        held => Err(format!("{case}: {held} bytes are held, not {bytes}")),
    });
    held.await.map(|_| link)
}

/// The other request ends, and must have its way.
async fn let_go(mut link: Link) -> Result<(), String> {
    let end = r#""}"#.into();
    link.send(Request::RequestBody(link::body(end, true)), None);
    link.half_close();
    let mut replies = 0;
    loop {
        match link.next().await {
            Next::Reply(_) => replies += 1,
            Next::Ended if replies > 1 => return Ok(()),
            other => {
                return Err(format!(
                    "the other request: {other:?} after {replies} replies"
                ));
            }
        }
    }
}

/// The numbers of the reference that this suite has to have.
#[test]
fn no_case_is_missing_and_no_name_is_used_twice() {
    let suite = data::load();
    let numbers: BTreeSet<u32> = suite
        .cases
        .iter()
        .filter_map(|case| {
            case.id
                .trim_end_matches(|c: char| c.is_ascii_lowercase())
                .parse()
                .ok()
        })
        .collect();
    let wanted: BTreeSet<u32> = (1..=40)
        .chain(53..=70)
        .chain([78, 79, 83, 84])
        .chain([86, 87, 88, 90, 91, 92, 93, 94, 97])
        .collect();
    assert_eq!(numbers, wanted);
    let mut names = BTreeSet::new();
    for case in &suite.cases {
        assert!(names.insert(case.to_string()), "{case} is there twice");
        for client in &case.clients {
            assert!(
                suite.clients.contains_key(client),
                "{case}: no client {client}"
            );
        }
        assert!(
            suite.configs.contains_key(&case.config),
            "{case}: no configuration {}",
            case.config
        );
        let expected: Vec<_> = match &case.turns[..] {
            [] => vec![&case.expect],
            turns => turns.iter().map(|turn| &turn.expect).collect(),
        };
        for e in expected {
            let outcomes = [
                e.route.is_some() || e.order.is_some() || e.follow.is_some(),
                e.refuse.is_some(),
                e.silence,
                e.error || case.interrupt.is_some(),
            ];
            assert!(outcomes.contains(&true), "{case} expects nothing");
        }
    }
    for client in suite.clients.keys() {
        assert!(
            suite.cases.iter().any(|case| case.clients.contains(client)),
            "client {client} plays nothing"
        );
    }
    for config in suite.configs.keys() {
        assert!(
            suite.cases.iter().any(|case| case.config == *config),
            "configuration {config} is for nothing"
        );
    }
}

// === impl Report ===

impl Report {
    fn add(&mut self, other: Self) {
        self.plays += other.plays;
        self.failures.extend(other.failures);
        self.left_out.extend(other.left_out);
    }
}

// === impl External ===

impl External {
    /// What the environment says about the picker that runs with `config`.
    fn from_env(config: &str) -> Option<Self> {
        let address = std::env::var(variable("PICKER_ADDRESS", config)).ok()?;
        let metrics = std::env::var(variable("PICKER_METRICS", config)).ok();
        let endpoints = std::env::var_os("PICKER_ENDPOINTS_FILE");
        Some(Self {
            address,
            metrics: metrics.map(|metrics| metrics.parse().expect("PICKER_METRICS is ip:port")),
            endpoints: endpoints
                .expect("PICKER_ADDRESS needs PICKER_ENDPOINTS_FILE")
                .into(),
        })
    }
}
