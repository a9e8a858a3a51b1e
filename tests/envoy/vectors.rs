//! The cases of the protocol suite that an HTTP client can express, through a real Envoy with either profile.

use std::collections::BTreeMap;

use http::Method;
use pointsman::cli::demo::bootstrap::{Profile, cluster};
use serde_json::Value;

use super::PROFILES;
use crate::support::envoy::{Answer, Envoy, without_retries};
use crate::support::machine;
use crate::vectors::data::{self, Case, Suite};
use crate::vectors::http::{HttpCase, HttpExpected};
use crate::vectors::rig::Rig;

/// An Envoy before the picker of `rig`, which serves in clear text and without health checks.
async fn envoy(profile: Profile, rig: &Rig) -> Envoy {
    let picker = rig.picker().unwrap();
    Envoy::start(profile, &[picker], &rig.net.addresses(), |resources| {
        let picker = cluster(resources, "picker").unwrap();
        let picker = picker.as_object_mut().unwrap();
        picker.remove("transport_socket");
        picker.remove("health_checks");
        without_retries(resources);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cases_hold_through_a_real_envoy() {
    let _machine = machine::shared().await;
    let suite = data::load();
    let mut by_config: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in &suite.cases {
        by_config.entry(&case.config).or_default().push(case);
    }
    let mut plays = 0;
    let mut failures = Vec::new();
    for (config, cases) in by_config {
        let mut rig = Rig::start(&suite, &suite.configs[config]).await;
        for profile in PROFILES {
            let envoy = envoy(profile, &rig).await;
            for case in &cases {
                let Some(played) = play(&suite, case, profile, &mut rig, &envoy).await else {
                    continue;
                };
                plays += 1;
                if let Err(failure) = played {
                    failures.push(format!("{case}, {profile:?}: {failure}"));
                }
            }
        }
    }
    println!("{plays} plays");
    // Both profiles, and some sixty cases that HTTP can express; fewer means that cases got lost.
    assert!(plays > 80, "only {plays} plays");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// `None`: HTTP cannot express the case, or it does not hold in this profile.
async fn play(
    suite: &Suite,
    case: &Case,
    profile: Profile,
    rig: &mut Rig,
    envoy: &Envoy,
) -> Option<Result<(), String>> {
    case.as_http(suite, &rig.net.show(case))?;
    let addresses = match rig.set(case).await {
        Ok((addresses, _)) => addresses,
        Err(error) => return Some(Err(error)),
    };
    let http = case.as_http(suite, &addresses)?;
    let holds = match profile {
        Profile::FullDuplex => http.full_duplex,
        Profile::DecisionOnly => http.decision_only,
    };
    if !holds {
        return None;
    }
    let headers: Vec<(&str, &str)> = http
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let method: Method = http.method.parse().unwrap();
    let answer = envoy
        .send(method, &http.path, &headers, http.body.clone())
        .await;
    Some(compare(&http, &answer))
}

fn compare(case: &HttpCase, answer: &Answer) -> Result<(), String> {
    let body = answer.body.as_ref().map_err(String::clone)?;
    let text = String::from_utf8_lossy(body);
    let status = answer.status.as_u16();
    match &case.expected {
        HttpExpected::Refused {
            status: wanted,
            says,
            dropped,
        } => {
            let reason = answer.headers.get("x-llm-d-request-dropped-reason");
            let reason = reason.map(|value| value.to_str().unwrap().to_owned());
            if status != *wanted || !text.contains(says) || reason != *dropped {
                return Err(format!("{status}, {reason:?}: {text}"));
            }
        }
        HttpExpected::Served {
            route,
            body_bytes,
            body_xxh3,
            headers,
            absent,
            status: wanted,
            client_body,
        } => {
            let pod = answer.server().and_then(|pod| pod.parse().ok());
            if status != *wanted || !pod.is_some_and(|pod| route.contains(&pod)) {
                return Err(format!("{status} from {pod:?}, not from {route:?}: {text}"));
            }
            if case.method == "HEAD" {
                return Ok(());
            }
            match client_body {
                Some(wanted) if body != wanted => {
                    return Err(format!("the client got another body: {text}"));
                }
                Some(_) => {}
                None => arrived(body, *body_bytes, *body_xxh3, headers, absent)?,
            }
        }
    }
    Ok(())
}

/// Holds what the server says it got against what it should have got.
fn arrived(
    told: &[u8],
    bytes: usize,
    xxh3: u64,
    headers: &[(String, String)],
    absent: &[String],
) -> Result<(), String> {
    let told: Value = serde_json::from_slice(told).map_err(|error| error.to_string())?;
    if told["body_bytes"] != bytes || told["body_xxh3"] != format!("{xxh3:016x}") {
        return Err(format!("another body arrived: {told}"));
    }
    for (name, wanted) in headers {
        let got = &told["headers"][name.to_ascii_lowercase()];
        let is_wanted = |got: &str| match (name.as_str(), wanted.strip_suffix('*')) {
            // At the edge Envoy gives every request an id of its own.
            ("x-request-id", _) => uuid::Uuid::parse_str(got).is_ok(),
            (_, Some(beginning)) => got.starts_with(beginning),
            (_, None) => got == wanted,
        };
        // It takes the length off bodies that may change on their way.
        if name == "content-length" && got.is_null() {
            continue;
        }
        let values: Vec<&str> = got
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !values.iter().any(|value| is_wanted(value)) {
            return Err(format!("{name} is {values:?}, not {wanted}"));
        }
    }
    match absent
        .iter()
        .find(|name| !told["headers"][name.to_ascii_lowercase()].is_null())
    {
        Some(name) => Err(format!("{name} arrived")),
        None => Ok(()),
    }
}
