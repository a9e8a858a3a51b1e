//! The decision: bytes and headers in, endpoints out. Plain code: no `await`, no lock that is held.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::choose::{Asked, Chosen, Ground, NotChosen, Workspace};
use super::control::{FAIRNESS, IF_AVAILABLE, MODEL_REWRITE, PREFER, REQUEST_ID};
use super::denial::Denial;
use super::desk::Progress;
use super::edits::{edits, metadata_of, sent_to};
use super::prompt::{self, Prompt};
use super::steering::Steering;
use super::subset;
use super::{Picker, Policy};
use crate::dialect::{self, Api, DecodeError, RequestFacts};
use crate::extproc::{HeaderEdits, Headers, Held, Metadata, RequestBody, Verdict};
use crate::pool::slab::lora_key;
use crate::pool::{Member, Reservation, Snapshot, Tokens, clock_ms};
use crate::prefix::Prediction;
use crate::scheduling::{self, RequestView};
use crate::telemetry::inflight::Counted;
use crate::telemetry::metrics::{RequestSeries, Stage};
use crate::telemetry::record::Recorded;

/// The flow of requests that name none.
const DEFAULT_FLOW: &str = "default-flow";

/// What a decision is made from.
pub(super) struct Question {
    pub(super) policy: Arc<Policy>,
    pub(super) headers: Arc<Headers>,
    pub(super) metadata: Arc<Metadata>,
    pub(super) api: Api,
    pub(super) body: RequestBody,
    /// Given to the request if it has none.
    pub(super) request_id: Option<String>,
    /// When it was asked.
    pub(super) asked: Instant,
}

/// What was decided.
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) reservation: Reservation,
    /// In the gauges, if they are kept.
    pub(super) counted: Option<Counted>,
    /// What each profile that ran chose, by the profile's position; where it goes is first.
    pub(super) ran: Vec<(usize, Arc<Member>)>,
    /// What is cached of its prompt where it goes, if that is known.
    pub(super) prediction: Option<Prediction>,
    /// At the endpoints that work on the request before its first token.
    pub(super) before: Vec<(Reservation, Option<Counted>)>,
    /// Where the request goes, if that is not the endpoint's own address.
    pub(super) via: Option<SocketAddr>,
    pub(super) series: Arc<RequestSeries>,
    /// The model's name, if the request is sent on under another: as it came, and as it goes.
    pub(super) renamed: Option<Renamed>,
    pub(super) streaming: bool,
    /// By what it is known if it comes again, if somebody wants to know.
    pub(super) known_by: Option<u64>,
    /// It is in a capture.
    pub(super) recorded: Option<Recorded>,
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
pub(super) struct Read {
    /// Its bytes, in the pieces in which they came or, decoded, in one. Empty if it was not read: there is none, or we do
    /// not understand it.
    pub(super) plain: Vec<Bytes>,
    /// It came compressed.
    encoded: bool,
    pub(super) facts: RequestFacts,
}

thread_local! {
    /// What a worker keeps from one decision to the next.
    static DESKTOP: RefCell<Workspace> =
        RefCell::new(Workspace::new(SmallRng::from_rng(&mut rand::rng())));
}

// === impl Question ===

impl Question {
    /// The request's id: its own, or the one that it is given.
    fn id(&self) -> &str {
        let own = self.headers.first_of(&[REQUEST_ID]);
        own.or(self.request_id.as_deref()).unwrap_or_default()
    }
}

// === impl Picker ===

impl Picker {
    pub(super) fn decide(&self, question: Question, progress: &Progress) -> Result<Answer, Denial> {
        let begun = Instant::now();
        let took = |stage, time: Duration| self.metrics.stage(stage, time.as_secs_f64());
        took(Stage::Wait, begun.duration_since(question.asked));
        let headers = &*question.headers;
        let steering = self.steering(headers, &question.metadata);
        let read = match &question.body {
            RequestBody::Whole(pieces, held) => self.read(question.api, headers, pieces, held)?,
            RequestBody::None | RequestBody::Unseen => Read::default(),
        };
        let body_bytes: usize = match &question.body {
            RequestBody::Whole(pieces, _) => pieces.iter().map(Bytes::len).sum(),
            RequestBody::None | RequestBody::Unseen => 0,
        };
        let has_body = body_bytes > 0 || matches!(question.body, RequestBody::Unseen);
        progress.parsed();
        took(Stage::Parse, begun.elapsed());

        let incoming = read.facts.model.as_deref();
        // What is not read may be of any model: no rule is for it.
        let rule = read.is_whole().then(|| self.pool.rewrites.rule(incoming));
        let rule = rule.flatten();
        let drawn = rule
            .as_ref()
            .map(|rule| DESKTOP.with_borrow_mut(|space| rule.draw(&mut space.rng)));
        let rewrite = drawn.or_else(|| steering.first_of(&MODEL_REWRITE));
        let target = rewrite.or(incoming).unwrap_or_default();
        if target.is_empty() && read.is_whole() && needs_model(question.api) {
            return Err(Denial::BadRequest(
                "model not found in request body".to_owned(),
            ));
        }
        let flow = flow(&question.policy, &steering);
        let priority = self.priority(steering);
        let series = self
            .metrics
            .series(incoming.unwrap_or_default(), target, flow, priority);
        series.total.inc();
        if let Some(rule) = &rule {
            self.metrics
                .rewritten(&rule.rewrite, incoming.unwrap_or_default(), target);
        }
        series.request_bytes.observe(body_bytes as f64);

        let picked = DESKTOP.with_borrow_mut(|space| {
            self.pick(&question, priority, target, &read, has_body, space)
        });
        let recorded = self.record(&question, target, &read, picked.is_err());
        let (snapshot, chosen, known_by) = picked.map_err(|not_chosen| {
            if let NotChosen::Schedule(_) = not_chosen {
                self.metrics.not_scheduled(target);
            }
            let denial = Denial::from(not_chosen);
            series.failed(denial.error_code());
            denial
        })?;
        let (decision, decided) = (chosen.decision, chosen.at);
        let primary = snapshot.member(decision.endpoints[0]);
        let inflight = question.policy.scheduler.producers.inflight.as_ref();
        let book = |member: &Member, tokens: Tokens| {
            let id = &member.endpoint.id;
            let counted = inflight.map(|inflight| {
                let at = (id.namespace.as_str(), id.name.as_str());
                let sum = tokens.input.saturating_add(tokens.output);
                let gauges = &self.metrics.inflight;
                gauges.count(&inflight.name, &series, at, sum)
            });
            (Reservation::of(&member.slot, tokens), counted)
        };
        let (reservation, counted) = book(primary, chosen.tokens);
        let prefill = decision.prefill;
        let prefill = prefill.map(|at| book(snapshot.member(at), chosen.prefill_tokens));
        let encode = decision.encode.iter();
        let encode = encode.map(|&at| book(snapshot.member(at), Tokens::default()));
        let before = prefill.into_iter().chain(encode).collect();
        let id = &primary.endpoint.id;
        primary
            .slot
            .adapter_sent(lora_key(adapter(&read.facts, target)));
        self.metrics
            .scheduled(target, &id.namespace, &id.name, primary.endpoint.port);
        self.picks[decision.reason as usize].inc();
        let (handler, r#type) = &question.policy.scheduler.name;
        let (prefill, encode) = (decision.prefill.is_some(), !decision.encode.is_empty());
        self.metrics
            .staged((handler, r#type), target, prefill, encode);

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
        let answer = Answer {
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
            ran: decision
                .ran
                .iter()
                .map(|&(profile, chosen)| (profile, Arc::clone(snapshot.member(chosen))))
                .collect(),
            prediction: chosen.prediction,
            before,
            via: decision.primary_port.map(|port| sent_to(primary, port)),
            series,
            renamed,
            streaming,
            known_by,
            recorded,
        };
        took(Stage::Answer, decided.elapsed());
        Ok(answer)
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
                let pool = self.options.pool_id.as_deref();
                tracing::debug!(pool, %error, "A body cannot be read; the request is routed on load.");
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

    /// Whose request it is.
    pub(super) fn tenant<'a>(&self, question: &'a Question) -> Option<&'a str> {
        let header = self.options.tenant_header.as_deref();
        let steering = self.steering(&question.headers, &question.metadata);
        header.and_then(|name| steering.get(name))
    }

    fn pick(
        &self,
        question: &Question,
        priority: i32,
        model: &str,
        read: &Read,
        has_body: bool,
        space: &mut Workspace,
    ) -> Result<(Arc<Snapshot>, Chosen, Option<u64>), NotChosen> {
        let (facts, policy) = (&read.facts, &*question.policy);
        let snapshot = self.pool.snapshot();
        if self.options.subset_filter {
            subset::candidates(&question.metadata, &snapshot, &mut space.candidates);
        } else {
            space.candidates.clear();
            space.candidates.extend(0..snapshot.len() as u32);
        }
        let approx = policy.scheduler.producers.prefix.as_ref();
        let prompt = approx
            .filter(|_| prompt::is_prefilled(question.api) && !facts.continues)
            .and_then(|approx| {
                let scope = prompt::scope(self.tenant(question), model, facts);
                Prompt::of(approx, &snapshot, &scope, &read.plain, facts)
            });
        let now_ms = clock_ms();
        let known_by = policy.scheduler.minds_failures().then(|| {
            let tenant = self.tenant(question);
            self.retries
                .key(tenant, model, prompt.as_ref(), &read.plain)
        });
        let known_by = known_by.flatten();
        let asked = Asked {
            request: RequestView {
                model,
                adapter: adapter(facts, model),
                prompt_bytes: facts.prompt_bytes,
                has_body,
                multimodal: facts.multimodal,
                headers: &*question.headers,
            },
            id: question.id(),
            retry: known_by.and_then(|key| self.retries.look(key, now_ms)),
            prompt,
            priority,
            max_tokens: facts.max_tokens,
            only_if_cached: only_if_cached(&question.headers),
            scores: self.options.emit_scores,
        };
        let ground = Ground {
            policy,
            snapshot: &snapshot,
            prefix: &self.prefix,
            metrics: &self.metrics,
            decisions: self.decisions.as_ref(),
            now_ms,
        };
        let chosen = ground.choose(&asked, space)?;
        Ok((snapshot, chosen, known_by))
    }
}

/// Whether the request is to be decoded only where its KV cache is (RFC 7240: `Prefer: if-available`). Its sender would
/// rather have it prefilled elsewhere first.
fn only_if_cached(headers: &Headers) -> bool {
    let preferences = headers.all(PREFER).flat_map(|value| value.split(','));
    let mut names = preferences.map(|preference| preference.split(';').next().unwrap_or_default());
    names.any(|name| name.trim().eq_ignore_ascii_case(IF_AVAILABLE))
}

/// The LoRA adapter asked for: servers that know no adapter beside the model name it as the model.
pub(super) fn adapter<'a>(facts: &'a RequestFacts, model: &'a str) -> &'a str {
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

/// The flow that a request says it belongs to, or that a producer says it does.
pub(super) fn flow<'a>(policy: &Policy, steering: &'a Steering<'a>) -> &'a str {
    let named = steering.first_of(&FAIRNESS);
    let produced = || policy.scheduler.producers.flow(steering);
    named.or_else(produced).unwrap_or(DEFAULT_FLOW)
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
pub(super) mod tests;
