//! Holds what came of a case against what it expects.

use std::net::SocketAddr;

use pointsman::proto::ext_proc::ImmediateResponse;
use prost_types::Struct;
use prost_types::value::Kind;

use super::clients::BodyMode;
use super::data::{self, At, How};
use super::expect::{Envelope, Refusal, Seen};
use super::player::Outcome;
use super::rules::{Part, check_mutation};
use super::stage::Stage;
use super::told;

const DESTINATION: &str = "x-gateway-destination-endpoint";
const SCORES: &str = "x-gateway-destination-endpoint-scores";
const LB: &str = "envoy.lb";
const REQUEST_ID: &str = "x-request-id";
const LENGTH: &str = "content-length";
const DROPPED: &str = "x-llm-d-request-dropped-reason";

/// Headers that steer pickers and sidecars. Whoever sent them, they never reach the model server.
const STEERING: [&str; 17] = [
    "x-llm-d-inference-fairness-id",
    "x-gateway-inference-fairness-id",
    "x-llm-d-model-name-rewrite",
    "x-gateway-model-name-rewrite",
    "x-llm-d-inference-objective",
    "x-gateway-inference-objective",
    "x-llm-d-slo-ttft-ms",
    "x-slo-ttft-ms",
    "x-llm-d-slo-tpot-ms",
    "x-slo-tpot-ms",
    "x-gateway-destination-endpoint-subset",
    "x-gateway-destination-endpoint-served",
    DROPPED,
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
];
/// Headers of the trace, which a picker may make its own.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// All that is not as expected.
pub(crate) fn check(stage: &Stage<'_>, outcome: &Outcome) -> Vec<String> {
    let mut problems = outcome.problems.clone();
    let expect = &stage.case.expect;
    if expect.silence && outcome.answered {
        problems.push("it was answered".to_owned());
    }
    if expect.error && !outcome.failed {
        problems.push("the stream ended with OK".to_owned());
    }
    match (&expect.refuse, &outcome.refusal) {
        (Some(wanted), Some(refusal)) => {
            problems.extend(refused(wanted, refusal).err());
            return problems;
        }
        (Some(wanted), None) => {
            problems.push(format!("it was not refused with {}", wanted.status));
            return problems;
        }
        (None, Some(refusal)) => {
            let status = refusal.status.map_or(0, |status| status.code);
            let body = String::from_utf8_lossy(&refusal.body);
            problems.push(format!("it was refused with {status}: {body}"));
            return problems;
        }
        (None, None) => {}
    }
    if expect.route.is_some() || expect.order.is_some() {
        problems.extend(routed(stage, &outcome.request).err());
        problems.extend(arrived(stage, outcome).err());
    }
    let cut = stage
        .case
        .interrupt
        .is_some_and(|i| i.at == At::ResponseBody && i.how == How::Cancel);
    if stage.case.response.is_some() && !cut && !expect.silence {
        problems.extend(answered(stage, outcome).err());
    }
    problems
}

/// Destination and metadata.
fn routed(stage: &Stage<'_>, request: &Part) -> Result<(), String> {
    let expect = &stage.case.expect;
    let values: Vec<&str> = values(&request.headers, DESTINATION).collect();
    let [destination] = values[..] else {
        return Err(format!("{} destination headers: {values:?}", values.len()));
    };
    let endpoints: Vec<&str> = destination.split(',').collect();
    let pods: Vec<Option<usize>> = endpoints
        .iter()
        .map(|endpoint| {
            stage
                .pods
                .iter()
                .position(|pod| pod.to_string() == *endpoint)
        })
        .collect();
    let right = match (&expect.order, &expect.route) {
        (Some(order), _) => pods.iter().copied().eq(order.iter().map(|&pod| Some(pod))),
        (None, Some(route)) => matches!(pods[..], [Some(pod)] if route.list().contains(&pod)),
        (None, None) => true,
    };
    if !right {
        let wanted = match (&expect.order, &expect.route) {
            (Some(order), _) => format!("{order:?}"),
            (_, route) => format!("{route:?}"),
        };
        return Err(format!(
            "routed to {destination}, pods {pods:?}; wanted {wanted}"
        ));
    }
    let [(metadata, true)] = &request.metadata[..] else {
        return Err(format!(
            "metadata must come once, with the header and clear_route_cache: {:?}",
            request.metadata
        ));
    };
    check_metadata(metadata, destination, stage)
}

fn check_metadata(metadata: &Struct, destination: &str, stage: &Stage<'_>) -> Result<(), String> {
    let only = |structure: &Struct, keys: &[&str]| match structure
        .fields
        .keys()
        .find(|key| !keys.contains(&key.as_str()))
    {
        Some(key) => Err(format!("metadata has {key}")),
        None => Ok(()),
    };
    only(metadata, &[LB])?;
    let Some(Kind::StructValue(lb)) = field(metadata, LB) else {
        return Err(format!("no metadata namespace {LB}: {metadata:?}"));
    };
    match field(lb, DESTINATION) {
        Some(Kind::StringValue(same)) if same == destination => {}
        other => return Err(format!("header {destination}, metadata {other:?}")),
    }
    let Some(scored) = &stage.case.expect.scores else {
        return only(lb, &[DESTINATION]);
    };
    only(lb, &[DESTINATION, SCORES])?;
    let Some(Kind::StructValue(scores)) = field(lb, SCORES) else {
        return Err(format!("no scores: {lb:?}"));
    };
    let mut names: Vec<String> = scored
        .iter()
        .map(|&pod| stage.pods[pod].to_string())
        .collect();
    let mut given: Vec<String> = scores.fields.keys().cloned().collect();
    names.sort();
    given.sort();
    if given != names {
        return Err(format!("scores of {given:?}, not of {names:?}"));
    }
    let score = |name: &String| match field(scores, name) {
        Some(Kind::NumberValue(score)) => Ok(*score),
        other => Err(format!("the score of {name} is {other:?}")),
    };
    let best = score(&destination.to_owned())?;
    match given.iter().map(score).collect::<Result<Vec<_>, _>>()? {
        all if all.iter().any(|&other| other > best) => Err(format!("not the best score: {all:?}")),
        _ => Ok(()),
    }
}

fn field<'a>(structure: &'a Struct, key: &str) -> Option<&'a Kind> {
    structure.fields.get(key)?.kind.as_ref()
}

/// The request, as the model server sees it.
fn arrived(stage: &Stage<'_>, outcome: &Outcome) -> Result<(), String> {
    let seen = &stage.case.expect.at_server;
    let sent_body = stage.body.clone().unwrap_or_default();
    check_body(
        "the model server",
        &outcome.request,
        &sent_body,
        seen,
        stage.client.request_body,
    )?;
    let mut sent = stage.lower_headers();
    for (name, both) in &stage.case.request.both_values {
        sent.push((name.to_ascii_lowercase(), both.raw_value.clone()));
    }
    sent.retain(|(name, _)| !STEERING.contains(&name.as_str()));
    let mut own = vec![DESTINATION];
    if !sent.iter().any(|(name, _)| name == REQUEST_ID) {
        own.push(REQUEST_ID);
    }
    check_headers(
        "the model server",
        &outcome.request,
        sent,
        seen,
        &own,
        stage.pods,
    )
}

/// The response, as the client sees it.
fn answered(stage: &Stage<'_>, outcome: &Outcome) -> Result<(), String> {
    let Some(response) = &stage.case.response else {
        return Ok(());
    };
    let seen = &stage.case.expect.at_client;
    let sent_body = super::bodies::response_chunks(stage.case, response).concat();
    check_body(
        "the client",
        &outcome.response,
        &sent_body,
        seen,
        stage.client.response_body,
    )?;
    told::check(stage, &outcome.response)?;
    let status = (":status".to_owned(), response.status.to_string());
    let sent = [status]
        .into_iter()
        .chain(response.headers.clone())
        .collect();
    check_headers("the client", &outcome.response, sent, seen, &[], stage.pods)
}

fn check_body(
    who: &str,
    part: &Part,
    sent: &[u8],
    seen: &Seen,
    mode: BodyMode,
) -> Result<(), String> {
    let wanted = seen.body.as_ref().map_or(sent, |body| body.as_bytes());
    if part.body != wanted {
        let show = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
            format!("{} bytes {text:?}", bytes.len())
        };
        let (got, wanted) = (show(&part.body), show(wanted));
        return Err(format!("{who} gets another body: {got}; wanted {wanted}"));
    }
    // Where bodies stream, proxies drop the length.
    let kept = matches!(mode, BodyMode::Buffered | BodyMode::None);
    match values(&part.headers, LENGTH).find(|length| *length != wanted.len().to_string()) {
        Some(length) if kept => Err(format!(
            "{who} gets {} bytes with content-length {length}",
            wanted.len()
        )),
        _ => Ok(()),
    }
}

fn check_headers(
    who: &str,
    part: &Part,
    mut sent: Vec<(String, String)>,
    seen: &Seen,
    own: &[&str],
    pods: &[SocketAddr],
) -> Result<(), String> {
    for (name, wanted) in &seen.headers {
        let wanted = data::fill(wanted, pods);
        let got: Vec<_> = values(&part.headers, name).collect();
        if !matches!(got[..], [value] if fits(value, &wanted)) {
            return Err(format!("{who} gets {name} {got:?}; wanted {wanted}"));
        }
    }
    if let Some(name) = seen
        .absent
        .iter()
        .find(|name| values(&part.headers, name).next().is_some())
    {
        return Err(format!("{who} gets {name}"));
    }
    if let Some((name, _)) = part
        .headers
        .iter()
        .find(|(name, _)| STEERING.contains(&name.as_str()) && !seen.headers.contains_key(name))
    {
        return Err(format!("{who} gets {name}"));
    }
    let aside = |name: &str| {
        own.contains(&name)
            || name == LENGTH
            || TRACE.contains(&name)
            || seen.headers.contains_key(name)
            || seen.absent.iter().any(|absent| absent == name)
    };
    let mut got = part.headers.clone();
    for headers in [&mut sent, &mut got] {
        headers.retain(|(name, _)| !aside(name));
        // Stable: the values of one header stay in their order.
        headers.sort_by(|a, b| a.0.cmp(&b.0));
    }
    match got == sent {
        true => Ok(()),
        false => Err(format!(
            "{who} gets other headers: {got:?}; wanted {sent:?}"
        )),
    }
}

/// The answer in the model server's place.
fn refused(wanted: &Refusal, refusal: &ImmediateResponse) -> Result<(), String> {
    let status = refusal.status.map_or(0, |status| status.code);
    let text = String::from_utf8_lossy(&refusal.body);
    if status != i32::from(wanted.status) {
        return Err(format!(
            "refused with {status}, not {}: {text}",
            wanted.status
        ));
    }
    if refusal.details.is_empty() || refusal.details.contains(char::is_whitespace) {
        return Err(format!("details are no word: {:?}", refusal.details));
    }
    let mutation = refusal.headers.clone().unwrap_or_default();
    check_mutation(&mutation)?;
    let header = |name: &str| {
        let set = mutation
            .set_headers
            .iter()
            .filter_map(|option| option.header.as_ref());
        let mut found = set.filter(|header| header.key.eq_ignore_ascii_case(name));
        let value = found
            .next()
            .map(|h| String::from_utf8_lossy(&h.raw_value).into_owned());
        value.filter(|_| found.next().is_none())
    };
    for (name, value) in [
        ("content-type", Some("application/json".to_owned())),
        (DROPPED, wanted.dropped.clone()),
    ] {
        if header(name) != value {
            return Err(format!("{name} {:?}; wanted {value:?}", header(name)));
        }
    }
    let seconds = header("retry-after").map(|value| value.parse::<u32>());
    if seconds.is_some() != matches!(wanted.status, 429 | 503) || matches!(seconds, Some(Err(_))) {
        return Err(format!("{} with retry-after {seconds:?}", wanted.status));
    }
    envelope(wanted, &text)
}

fn envelope(wanted: &Refusal, text: &str) -> Result<(), String> {
    let body: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("{text} is no JSON: {error}"))?;
    let error = &body["error"];
    let outer = match wanted.envelope {
        Envelope::Anthropic => body["type"] == "error",
        Envelope::Openai => body.as_object().is_some_and(|body| body.len() == 1),
    };
    let message = error["message"].as_str().unwrap_or_default();
    match outer && error["type"] == wanted.kind.as_str() && message.contains(&wanted.says) {
        true => Ok(()),
        false => Err(format!("the envelope is {text}; wanted {wanted:?}")),
    }
}

fn values<'a>(headers: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    let named = headers.iter().filter(move |(known, _)| known == name);
    named.map(|(_, value)| value.as_str())
}

/// `*` stands for anything, `$uuid` for a UUID.
fn fits(value: &str, wanted: &str) -> bool {
    if wanted == "$uuid" {
        return uuid::Uuid::parse_str(value).is_ok();
    }
    match wanted.split_once('*') {
        None => value == wanted,
        Some((before, after)) => {
            value.len() >= before.len() + after.len()
                && value.starts_with(before)
                && value.ends_with(after)
        }
    }
}
