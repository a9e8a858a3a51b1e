//! The decision: bytes and headers in, endpoints out. Plain code: no `await`, no lock that is held.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost_types::{Struct, Value};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::Picker;
use super::control::{CONTROL, DESTINATION, FAIRNESS, LB, MODEL_REWRITE, REQUEST_ID, SCORES};
use super::denial::Denial;
use super::desk::Progress;
use super::subset;
use crate::dialect::{self, Api, DecodeError, RequestFacts};
use crate::extproc::{HeaderEdits, Headers, Held, Metadata, RequestBody, Verdict};
use crate::pool::slab::lora_key;
use crate::pool::{LoadView, Member, Reservation, Snapshot, Tokens, clock_ms};
use crate::scheduling::{self, Decision, RequestView, Scratch, input_tokens};
use crate::telemetry::inflight::Counted;
use crate::telemetry::metrics::RequestSeries;

/// The flow of requests that name none.
const DEFAULT_FLOW: &str = "default-flow";

/// What a decision is made from.
pub(super) struct Question {
    pub(super) headers: Arc<Headers>,
    pub(super) metadata: Arc<Metadata>,
    pub(super) api: Api,
    pub(super) body: RequestBody,
    /// Given to the request if it has none.
    pub(super) request_id: Option<String>,
}

/// What was decided.
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) reservation: Reservation,
    /// In the gauges, if they are kept.
    pub(super) counted: Option<Counted>,
    /// Where it goes.
    pub(super) picked: Arc<Member>,
    pub(super) series: Arc<RequestSeries>,
    /// The model's name, if the request is sent on under another: as it came, and as it goes.
    pub(super) renamed: Option<Renamed>,
    pub(super) streaming: bool,
}

/// A model that the client and the model server call differently.
#[derive(Clone, Debug)]
pub(super) struct Renamed {
    /// The client's name; `None` if it gave none, or if we have not seen it.
    pub(super) from: Option<String>,
    pub(super) to: String,
}

/// The body as read.
#[derive(Default)]
struct Read {
    /// Its bytes, in the pieces in which they came or, decoded, in one. Empty if it was not read: there is none, or we do
    /// not understand it.
    plain: Vec<Bytes>,
    /// It came compressed.
    encoded: bool,
    facts: RequestFacts,
}

/// What a worker keeps from one decision to the next.
struct Desktop {
    candidates: Vec<u32>,
    load: LoadView,
    scratch: Scratch,
    rng: SmallRng,
}

thread_local! {
    static DESKTOP: RefCell<Desktop> = RefCell::new(Desktop {
        candidates: Vec::new(),
        load: LoadView::default(),
        scratch: Scratch::default(),
        rng: SmallRng::from_rng(&mut rand::rng()),
    });
}

// === impl Picker ===

impl Picker {
    pub(super) fn decide(&self, question: Question, progress: &Progress) -> Result<Answer, Denial> {
        let headers = &*question.headers;
        let read = match &question.body {
            RequestBody::Whole(pieces, held) => self.read(question.api, headers, pieces, held)?,
            RequestBody::None | RequestBody::Unseen => Read::default(),
        };
        let body_bytes = match &question.body {
            RequestBody::Whole(pieces, _) => pieces.iter().map(Bytes::len).sum(),
            RequestBody::None | RequestBody::Unseen => 0,
        };
        progress.parsed();

        let rewrite = headers.first_of(&MODEL_REWRITE);
        let incoming = read.facts.model.as_deref();
        let target = rewrite.or(incoming).unwrap_or_default();
        if target.is_empty() && read.is_whole() && needs_model(question.api) {
            return Err(Denial::BadRequest(
                "model not found in request body".to_owned(),
            ));
        }
        let producers = self.scheduler.producers();
        let flow = self.flow(headers);
        let series = self
            .metrics
            .series(incoming.unwrap_or_default(), target, flow, 0);
        series.total.inc();
        series.request_bytes.observe(body_bytes as f64);

        let picked = DESKTOP.with_borrow_mut(|desktop| {
            self.pick(
                headers,
                &question.metadata,
                target,
                &read.facts,
                body_bytes,
                desktop,
            )
        });
        let (snapshot, decision) = picked.inspect_err(|denial| {
            series.failed(denial.error_code());
            self.metrics.not_scheduled(target);
        })?;
        let primary = snapshot.member(decision.endpoints[0]);
        let id = &primary.endpoint.id;
        let mut tokens = Tokens::default();
        let mut counted = None;
        if let Some(inflight) = &producers.inflight {
            let input = input_tokens(read.facts.prompt_bytes);
            tokens = inflight.weigh(input, read.facts.max_tokens);
            let at = (id.namespace.as_str(), id.name.as_str());
            let sum = tokens.input.saturating_add(tokens.output);
            let gauges = &self.metrics.inflight;
            counted = Some(gauges.count(&inflight.name, &series, at, sum));
        }
        let reservation = Reservation::of(&primary.slot, tokens);
        primary
            .slot
            .adapter_sent(lora_key(adapter(&read.facts, target)));
        self.metrics
            .scheduled(target, &id.namespace, &id.name, primary.endpoint.port);

        // A body that was whole but not read goes on as it is, under the name that is in it.
        let unseen = matches!(question.body, RequestBody::Unseen);
        let renamed = rewrite
            .filter(|&to| Some(to) != incoming && (unseen || read.is_whole()))
            .map(|to| Renamed {
                from: incoming.map(str::to_owned),
                to: to.to_owned(),
            });
        let streaming = read.facts.stream;
        let mut edits = edits(headers, &snapshot, &decision, question.request_id);
        let new_body = renamed
            .as_ref()
            .filter(|_| read.is_whole())
            .map(|renamed| rename(&read, renamed, headers, &mut edits));
        Ok(Answer {
            verdict: Verdict {
                metadata: Some(metadata_of(
                    &snapshot,
                    &decision,
                    &edits,
                    self.options.emit_scores,
                )),
                headers: edits,
                body: new_body,
            },
            reservation,
            counted,
            picked: Arc::clone(primary),
            series,
            renamed,
            streaming,
        })
    }

    /// The flow that a request says it belongs to, or that a producer says it does.
    pub(super) fn flow<'a>(&self, headers: &'a Headers) -> &'a str {
        let named = headers.first_of(&FAIRNESS);
        let produced = || self.scheduler.producers().flow(headers);
        named.or_else(produced).unwrap_or(DEFAULT_FLOW)
    }

    /// Finds what the request asks for. An encoding that we cannot read is no fault: route on load.
    fn read(
        &self,
        api: Api,
        headers: &Headers,
        pieces: &[Bytes],
        held: &Held,
    ) -> Result<Read, Denial> {
        if api == Api::Passthrough {
            return Ok(Read::default());
        }
        let joined = match pieces {
            [] => Bytes::new(),
            [piece] => piece.clone(),
            pieces => {
                held.copy(pieces.iter().map(Bytes::len).sum())?;
                pieces.concat().into()
            }
        };
        let encoding = headers.get("content-encoding").unwrap_or_default();
        let decoded = match self.decode(encoding, &joined, held)? {
            Ok(decoded) => decoded,
            Err(error @ DecodeError::Unsupported(_)) => {
                tracing::debug!(%error, "A body cannot be read; the request is routed on load.");
                return Ok(Read::default());
            }
            // The model server's to say.
            Err(DecodeError::Corrupt { .. }) if api == Api::CountTokens => {
                return Ok(Read::default());
            }
            Err(error) => return Err(error.into()),
        };
        let facts = dialect::inspect(api, decoded.as_ref().unwrap_or(&joined))?;
        Ok(Read {
            encoded: decoded.is_some(),
            plain: decoded.map_or_else(|| pieces.to_vec(), |plain| vec![plain]),
            facts,
        })
    }

    /// `None`: the body is not encoded.
    fn decode(
        &self,
        encoding: &str,
        body: &[u8],
        held: &Held,
    ) -> Result<Result<Option<Bytes>, DecodeError>, Denial> {
        if encoding.is_empty() {
            return Ok(Ok(None));
        }
        // How much it will be is only known afterwards.
        let most = self.options.max_body;
        held.copy(most)?;
        let decoded = dialect::decode(encoding, body, most);
        let used = match &decoded {
            Ok(Some(plain)) => plain.len(),
            _ => 0,
        };
        held.give_back(most - used);
        Ok(decoded.map(|plain| plain.map(Bytes::from)))
    }

    fn pick(
        &self,
        headers: &Headers,
        metadata: &Metadata,
        model: &str,
        facts: &RequestFacts,
        body_bytes: usize,
        desktop: &mut Desktop,
    ) -> Result<(Arc<Snapshot>, Decision), Denial> {
        let begun = Instant::now();
        let snapshot = self.pool.snapshot();
        let now = clock_ms();
        if self.options.subset_filter {
            subset::candidates(metadata, &snapshot, &mut desktop.candidates);
        } else {
            desktop.candidates.clear();
            desktop.candidates.extend(0..snapshot.len() as u32);
        }
        let staleness = self.options.metrics_staleness.as_millis() as u64;
        desktop.load.gather(&snapshot, now, staleness);
        let request = RequestView {
            model,
            adapter: adapter(facts, model),
            prompt_bytes: facts.prompt_bytes,
            body_bytes,
            headers,
        };
        let cx = scheduling::Context {
            request: &request,
            snapshot: &snapshot,
            load: &desktop.load,
            now_ms: now,
        };
        let decision = self.scheduler.schedule(
            &cx,
            &mut desktop.candidates,
            &mut desktop.scratch,
            &mut desktop.rng,
            self.options.emit_scores,
        )?;
        for follower in self.scheduler.followers() {
            follower.picked(&cx, decision.endpoints[0]);
        }
        self.metrics
            .scheduling
            .observe(begun.elapsed().as_secs_f64());
        Ok((snapshot, decision))
    }
}

/// The LoRA adapter asked for: servers that know no adapter beside the model name it as the model.
fn adapter<'a>(facts: &'a RequestFacts, model: &'a str) -> &'a str {
    let named = facts.lora.as_deref().filter(|name| !name.is_empty());
    named.unwrap_or(model)
}

/// These carry a model by their specification. The others may leave it out, or it is the model server's to miss it.
fn needs_model(api: Api) -> bool {
    !matches!(
        api,
        Api::Passthrough
            | Api::Conversations
            | Api::CountTokens
            | Api::VllmGenerate
            | Api::SglangGenerate
    )
}

impl scheduling::RequestHeaders for Headers {
    fn get(&self, name: &str) -> Option<&str> {
        Headers::get(self, name)
    }
}

// === impl Read ===

impl Read {
    /// All of the body was read.
    fn is_whole(&self) -> bool {
        !self.plain.is_empty()
    }
}

/// The destination, and out with what only concerns us.
fn edits(
    headers: &Headers,
    snapshot: &Snapshot,
    decision: &Decision,
    request_id: Option<String>,
) -> HeaderEdits {
    let mut list = String::new();
    for &position in &decision.endpoints {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&snapshot.member(position).address);
    }
    let mut set = vec![(DESTINATION.into(), Bytes::from(list))];
    if let Some(id) = request_id {
        set.push((REQUEST_ID.into(), id.into()));
    }
    HeaderEdits {
        set,
        remove: control_headers(headers),
    }
}

/// The control headers that are there.
pub(super) fn control_headers(headers: &Headers) -> Vec<&'static str> {
    CONTROL
        .into_iter()
        .filter(|name| headers.contains(name))
        .collect()
}

/// The same destination once more, where no client can write it.
fn metadata_of(
    snapshot: &Snapshot,
    decision: &Decision,
    edits: &HeaderEdits,
    emit_scores: bool,
) -> Struct {
    let destination = String::from_utf8_lossy(&edits.set[0].1).into_owned();
    let mut lb = Struct::default();
    lb.fields
        .insert(DESTINATION.to_owned(), Value::from(destination));
    if emit_scores {
        let mut scores = Struct::default();
        for &(position, score) in &decision.scores {
            let address = snapshot.member(position).address.to_string();
            scores.fields.insert(address, Value::from(f64::from(score)));
        }
        lb.fields.insert(SCORES.to_owned(), nested(scores));
    }
    let mut namespaces = Struct::default();
    namespaces.fields.insert(LB.to_owned(), nested(lb));
    namespaces
}

fn nested(fields: Struct) -> Value {
    Value {
        kind: Some(prost_types::value::Kind::StructValue(fields)),
    }
}

/// The body under the new name: every other byte as it came, except that a compressed body goes on decoded.
fn rename(
    read: &Read,
    renamed: &Renamed,
    headers: &Headers,
    edits: &mut HeaderEdits,
) -> Vec<Bytes> {
    let parts = match &read.facts.model_span {
        Some(span) => dialect::spliced_parts(&read.plain, span, &renamed.to),
        None => dialect::inserted_parts(&read.plain, &renamed.to),
    };
    if read.encoded {
        edits.remove.push("content-encoding");
    }
    if headers.contains("content-length") {
        let length: usize = parts.iter().map(Bytes::len).sum();
        edits
            .set
            .push(("content-length".into(), length.to_string().into()));
    }
    parts
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{self, LoadOptions};
    use crate::picker::{Desk, PickerOptions};
    use crate::pool::slab::{LoraState, Scrape};
    use crate::pool::{Endpoint, EndpointId, Pool};
    use crate::scheduling::registry;
    use crate::telemetry::metrics::Metrics;
    use std::time::Duration;

    const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: lora-affinity-scorer}]
";

    fn picker() -> Picker {
        picker_of(CONFIG)
    }

    /// Of three endpoints, each with an adapter.
    pub(in crate::picker) fn picker_of(config: &str) -> Picker {
        let pool = Arc::new(Pool::default());
        let endpoints = (0..3).map(|n| Endpoint {
            id: EndpointId {
                namespace: "default".into(),
                name: format!("e{n}"),
            },
            address: [10, 0, 0, n].into(),
            port: 80,
            labels: Default::default(),
        });
        let snapshot = pool.replace(endpoints.collect());
        for (member, adapter) in snapshot.members().iter().zip(["a", "b", "m"]) {
            let page = Scrape {
                lora: Some(LoraState {
                    max: 1,
                    running: [lora_key(adapter)].into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            member.slot.record(&page, 0, clock_ms());
        }
        let options = LoadOptions {
            allow_experimental: true,
        };
        let config = config::load(config, options).unwrap();
        let minute = Duration::from_secs(60);
        let options = PickerOptions {
            metrics_staleness: minute,
            subset_filter: true,
            emit_scores: false,
            parsers: Vec::new(),
            max_body: 1 << 20,
        };
        let scheduler = registry::build(&config).unwrap();
        let metrics = Arc::new(Metrics::new());
        Picker::new(
            pool,
            scheduler,
            options,
            metrics,
            Desk::new(1, minute, minute),
        )
    }

    fn destination(picker: &Picker, api: Api, body: &str) -> String {
        let facts = dialect::inspect(api, body.as_bytes()).unwrap();
        let model = facts.model.clone().unwrap_or_default();
        let (headers, metadata) = (Headers::default(), Metadata::default());
        let (snapshot, decision) = DESKTOP
            .with_borrow_mut(|desktop| {
                picker.pick(&headers, &metadata, &model, &facts, body.len(), desktop)
            })
            .unwrap();
        snapshot.member(decision.endpoints[0]).address.to_string()
    }

    #[test]
    fn the_adapter_is_the_one_beside_the_model_or_else_the_model() {
        let picker = picker();
        let sglang = |body| destination(&picker, Api::SglangGenerate, body);
        assert_eq!(
            sglang(r#"{"text":"x","model":"a","lora_path":"b"}"#),
            "10.0.0.1:80"
        );
        assert_eq!(
            sglang(r#"{"text":"x","model":"m","lora_path":""}"#),
            "10.0.0.2:80"
        );
        let chat = r#"{"model":"a","messages":[{"role":"user","content":"x"}]}"#;
        assert_eq!(
            destination(&picker, Api::ChatCompletions, chat),
            "10.0.0.0:80"
        );
    }
}
