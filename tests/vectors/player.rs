//! Plays a case as one of the clients: sends its messages, takes the replies, and does with them what a proxy does.
//!
//! What comes out is the request as the model server would see it and the response as the client would, so that
//! what is expected of them is the same for all clients. That every reply is one that the protocol allows, here and now,
//! is checked on the way ([`super::rules`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use pointsman::proto::ext_proc::ImmediateResponse;
use pointsman::proto::ext_proc::processing_request::Request;

use super::bodies;
use super::clients::{BodyMode, Client};
use super::data::{At, How, Response};
use super::link::{self, Link, Next};
use super::rules::{Kind, Part, Taken, take};
use super::stage::Stage;

const SERVED: &str = "x-gateway-destination-endpoint-served";

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The answer in the model server's place.
    pub(crate) refusal: Option<ImmediateResponse>,
    /// As the model server would see it.
    pub(crate) request: Part,
    /// As the client would see it.
    pub(crate) response: Part,
    /// The stream ended with an error.
    pub(crate) failed: bool,
    /// Any reply came at all.
    pub(crate) answered: bool,
    /// What the protocol does not allow.
    pub(crate) problems: Vec<String>,
}

struct Player<'a> {
    stage: &'a Stage<'a>,
    /// None if the client goes away before it.
    response: Option<Response>,
    outcome: Outcome,
}

/// `Err` = it makes no sense to go on.
type Step<T = ()> = Result<T, String>;

/// Plays the case.
pub(crate) async fn play(stage: &Stage<'_>) -> Outcome {
    let given = stage.case.response.clone();
    let mut player = Player {
        stage,
        response: given.or_else(|| stage.case.interrupt.is_none().then(Response::bare)),
        outcome: Outcome::default(),
    };
    player.outcome.request.headers = stage.lower_headers();
    if let Err(problem) = player.run().await {
        player.outcome.problems.push(problem);
    }
    player.outcome
}

// === impl Player ===

impl Player<'_> {
    async fn run(&mut self) -> Step {
        let client = self.stage.client;
        if client.observes {
            let observer = self.observe_request(client);
            return self.observe_response(observer).await;
        }
        let observer = match client.observer {
            true => Some(self.observe_request(client)),
            false => None,
        };
        if observer.is_some() {
            self.barrier().await?;
        }
        let mut link = Link::open(&self.stage.rig.channel, client, false);
        self.request(&mut link).await?;
        if self.outcome.refusal.is_some() || self.stage.interrupted(At::RequestBody).is_some() {
            return self.finish(link).await;
        }
        let response = self.response.clone();
        if let Some(response) = response.filter(|_| !client.skips_response) {
            self.response(&mut link, &response).await?;
        }
        self.finish(link).await?;
        match observer {
            Some(observer) => self.observe_response(observer).await,
            None => Ok(()),
        }
    }

    async fn request(&mut self, link: &mut Link) -> Step {
        let stage = self.stage;
        let request = &stage.case.request;
        let metadata = stage.request_metadata(&request.metadata);
        let on_body = match &request.body_metadata {
            Some(own) => stage.request_metadata(own),
            None => metadata.clone(),
        };
        let map = link.header_map(&stage.headers, stage.both_values());
        let alone = stage.body.is_none();
        link.send(Request::RequestHeaders(link::headers(map, alone)), metadata);
        let mode = stage.client.request_body;
        let duplex = mode == BodyMode::FullDuplexStreamed;
        if !duplex || alone {
            self.reply(link, Kind::RequestHeaders).await?;
        }
        let Some(body) = stage.body.as_ref().filter(|_| mode != BodyMode::None) else {
            self.outcome.request.body = stage.body.clone().unwrap_or_default().into();
            return Ok(());
        };
        if self.outcome.refusal.is_some() {
            return Ok(());
        }
        let mut pieces = match mode {
            BodyMode::Buffered => vec![body.clone()],
            _ => bodies::pieces(stage.case, body, stage.client.piece_bytes),
        };
        let unseen = match mode {
            BodyMode::BufferedPartial => pieces.split_off(1).concat(),
            _ => Vec::new(),
        };
        let trailers = !request.trailers.is_empty();
        let interrupted = stage.interrupted(At::RequestBody);
        for (piece, end) in stage.messages(pieces, request.end, trailers) {
            if end && interrupted.is_some() && piece.is_empty() {
                break;
            }
            let end = end && interrupted.is_none() && unseen.is_empty();
            if end && stage.case.expect.nothing_early {
                self.barrier().await?;
                if duplex && link.has_reply() {
                    return Err("replied before the end of the body".to_owned());
                }
            }
            let message = Request::RequestBody(link::body(piece.clone(), end));
            link.send(message, on_body.clone());
            if !duplex {
                self.outcome.request.pending = piece;
                self.reply(link, Kind::RequestBody).await?;
            }
            if self.outcome.refusal.is_some() {
                return Ok(());
            }
        }
        if interrupted.is_some() {
            return Ok(());
        }
        self.outcome.request.body.extend_from_slice(&unseen);
        if trailers {
            let given: Vec<_> = request.trailers.clone().into_iter().collect();
            let map = link.header_map(&given, []);
            link.send(Request::RequestTrailers(link::trailers(map)), on_body);
        }
        if duplex {
            self.reply(link, Kind::RequestHeaders).await?;
        }
        let kind = if trailers {
            Kind::RequestBodyOrTrailers
        } else {
            Kind::RequestBody
        };
        while duplex && self.outcome.refusal.is_none() && !self.outcome.request.is_complete() {
            self.reply(link, kind).await?;
        }
        if trailers && self.outcome.refusal.is_none() && !self.outcome.request.trailed {
            self.reply(link, Kind::RequestTrailers).await?;
        }
        Ok(())
    }

    async fn response(&mut self, link: &mut Link, response: &Response) -> Step {
        let stage = self.stage;
        let (headers, chunks) = self.begin_response(link, response);
        self.outcome.response.headers = headers;
        self.reply(link, Kind::ResponseHeaders).await?;
        self.in_flight().await;
        let mode = stage.client.response_body;
        if chunks.is_empty() || mode == BodyMode::None {
            self.outcome.response.body = chunks.concat();
            return Ok(());
        }
        let duplex = mode == BodyMode::FullDuplexStreamed;
        let pieces = match mode {
            BodyMode::Buffered => vec![chunks.concat().into()],
            _ => chunks,
        };
        let trailers = !response.trailers.is_empty();
        let interrupted = stage.interrupted(At::ResponseBody);
        let mut sent = 0;
        for (piece, end) in stage.messages(pieces, response.end, trailers) {
            if end && interrupted.is_some() && piece.is_empty() {
                break;
            }
            let end = end && interrupted.is_none();
            sent += piece.len();
            link.send(Request::ResponseBody(link::body(piece.clone(), end)), None);
            if !duplex {
                self.outcome.response.pending = piece;
                self.reply(link, Kind::ResponseBody).await?;
            }
            while duplex && response.lockstep && self.outcome.response.body.len() < sent {
                self.reply(link, Kind::ResponseBody).await?;
            }
        }
        if interrupted.is_some() {
            return Ok(());
        }
        if trailers {
            let given: Vec<_> = response.trailers.clone().into_iter().collect();
            let map = link.header_map(&given, []);
            link.send(Request::ResponseTrailers(link::trailers(map)), None);
        }
        let kind = if trailers {
            Kind::ResponseBodyOrTrailers
        } else {
            Kind::ResponseBody
        };
        while duplex && !self.outcome.response.is_complete() {
            self.reply(link, kind).await?;
        }
        if trailers && !self.outcome.response.trailed {
            self.reply(link, Kind::ResponseTrailers).await?;
        }
        Ok(())
    }

    /// Sends the response's headers; gives them back with the chunks that are to follow.
    fn begin_response(
        &self,
        link: &mut Link,
        response: &Response,
    ) -> (Vec<(String, String)>, Vec<Bytes>) {
        let stage = self.stage;
        let chunks = bodies::response_chunks(stage.case, response);
        let status = (":status".to_owned(), response.status.to_string());
        let headers: Vec<_> = [status]
            .into_iter()
            .chain(response.headers.clone())
            .collect();
        let map = link.header_map(&headers, []);
        let served = response.served.map(|pod| {
            let served = serde_json::json!({ SERVED: stage.pods[pod].to_string() });
            BTreeMap::from([("envoy.lb".to_owned(), served)])
        });
        let metadata = served.as_ref().and_then(link::metadata);
        let alone = chunks.is_empty() && response.trailers.is_empty();
        link.send(
            Request::ResponseHeaders(link::headers(map, alone)),
            metadata,
        );
        (headers, chunks)
    }

    fn observe_request(&self, client: &Client) -> Link {
        let stage = self.stage;
        let mut observer = Link::open(&stage.rig.channel, client, true);
        let map = observer.header_map(&stage.headers, stage.both_values());
        let headers = link::headers(map, stage.body.is_none());
        observer.send(Request::RequestHeaders(headers), None);
        observer
    }

    /// The observer sees the response, and says nothing to it.
    async fn observe_response(&mut self, mut observer: Link) -> Step {
        if let Some(response) = &self.response.clone() {
            let (headers, chunks) = self.begin_response(&mut observer, response);
            self.in_flight().await;
            self.outcome.response.headers = headers;
            self.outcome.response.body = chunks.concat();
            let trailers = !response.trailers.is_empty();
            if !chunks.is_empty() {
                for (piece, end) in self.stage.messages(chunks, response.end, trailers) {
                    observer.send(Request::ResponseBody(link::body(piece, end)), None);
                }
            }
            if trailers {
                let given: Vec<_> = response.trailers.clone().into_iter().collect();
                let map = observer.header_map(&given, []);
                observer.send(Request::ResponseTrailers(link::trailers(map)), None);
            }
        }
        observer.half_close();
        match observer.next().await {
            Next::Ended => Ok(()),
            other => Err(format!("an observing stream was answered: {other:?}")),
        }
    }

    /// Ends the stream as the case says, and takes what still comes.
    async fn finish(&mut self, mut link: Link) -> Step {
        let case = self.stage.case;
        match case.interrupt.map(|interrupt| interrupt.how) {
            Some(How::Cancel) if self.outcome.refusal.is_none() => return Ok(()),
            Some(How::Cancel | How::HalfClose) | None => link.half_close(),
        }
        loop {
            match link.next().await {
                Next::Ended => return Ok(()),
                Next::Failed(status) => {
                    self.outcome.failed = true;
                    return match case.expect.error {
                        true => Ok(()),
                        false => Err(format!("the stream failed: {status}")),
                    };
                }
                Next::Nothing => return Err("the stream does not end".to_owned()),
                // What was still on its way when the case broke off.
                Next::Reply(reply) if case.interrupt.is_some_and(|i| i.at == At::ResponseBody) => {
                    self.taken(take(*reply, Kind::ResponseBody, self.stage.client)?)?;
                }
                Next::Reply(reply) => return Err(format!("a reply too many: {reply:?}")),
            }
        }
    }

    async fn reply(&mut self, link: &mut Link, kind: Kind) -> Step {
        match link.next().await {
            Next::Reply(reply) => {
                let taken = take(*reply, kind, self.stage.client)?;
                self.taken(taken)
            }
            Next::Ended => Err(format!(
                "the stream ended with OK before {kind:?} was answered"
            )),
            Next::Nothing => Err(format!("{kind:?} was not answered")),
            Next::Failed(status) => {
                self.outcome.failed = true;
                Err(format!(
                    "the stream failed before {kind:?} was answered: {status}"
                ))
            }
        }
    }

    fn taken(&mut self, taken: Taken) -> Step {
        self.outcome.answered = true;
        match taken {
            Taken::Refusal(refusal) => {
                self.outcome.refusal = Some(refusal);
                Ok(())
            }
            Taken::Request(change) => self.outcome.request.apply(change),
            Taken::Response(change) => self.outcome.response.apply(change),
        }
    }

    async fn in_flight(&mut self) {
        let stage = self.stage;
        let name = |pod: usize| super::rig::pod_name(stage.case, pod);
        let wanted: Vec<(String, f64)> = stage
            .case
            .expect
            .in_flight
            .iter()
            .map(|(&pod, &n)| (name(pod), n))
            .collect();
        let seen = stage.rig.until(|page| {
            let gauges = page.by_endpoint("endpoint_in_flight");
            match wanted.iter().all(|gauge| gauges.contains(gauge)) {
                true => Ok(()),
                false => Err(format!(
                    "in flight during the response: {gauges:?}, not {wanted:?}"
                )),
            }
        });
        if let Err(problem) = seen.await {
            self.outcome.problems.push(problem);
        }
    }

    /// Lets the picker do what it has to do: by a question that it answers after that, if it answers questions.
    async fn barrier(&self) -> Step {
        if self.stage.rig.page().await?.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok(())
    }
}
