//! KV events: what vLLM tells of its prefix cache over ZeroMQ.
//!
//! A PUB socket a server sends batches of three frames: topic, number (8 bytes, big-endian, from 0), batch ([`encode`]).
//! Who sees a gap in the numbers asks the ROUTER socket, with the first number that is missing, for all that are still
//! kept; the last answer has the number 2⁶⁴ − 1 and is empty.

mod encode;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use zeromq::{
    Endpoint, PubSocket, RouterSocket, Socket as _, SocketRecv as _, SocketSend as _, ZmqError,
    ZmqMessage,
};

use super::engine::{Notice, Outbox};
use encode::Format;

/// A batch that is not full goes after this time, as llm-d-inference-sim's.
const FLUSH: Duration = Duration::from_secs(1);

/// The number of the answer that ends a replay.
const END: u64 = u64::MAX;

/// How servers publish. Names as llm-d-inference-sim's flags have them.
#[derive(Clone, Debug)]
pub struct KvEvents {
    /// Where the PUB socket listens: `tcp://*:PORT`, port 0 = any that is free.
    pub zmq_endpoint: String,
    /// Where the ROUTER socket listens; absent: nothing can be replayed.
    pub replay_endpoint: Option<String>,
    /// Batches that can be replayed.
    pub replay_queue_size: usize,
    /// Events that go together at most.
    pub event_batch_size: usize,
    /// Maps instead of arrays.
    pub map_format: bool,
}

/// Why there is no publisher.
#[derive(Debug, thiserror::Error)]
pub enum KvEventsError {
    /// Not an address that can be listened at.
    #[error("{0:?} is not tcp://*:PORT: servers listen, and are dialled")]
    Endpoint(String),
    /// The last server's port.
    #[error("{0:?} leaves no port for server {1}: ports are counted up")]
    Ports(String, u16),
    /// The port is taken, as a rule.
    #[error("{endpoint}: {source}")]
    Bind {
        /// Where.
        endpoint: String,
        /// Why not.
        source: ZmqError,
    },
    /// A server of fixed times.
    #[error("a server of fixed times has no prefix cache to tell of")]
    NoCache,
}

/// A server's publisher, until it is dropped.
#[derive(Debug)]
pub(super) struct Publisher {
    tasks: Vec<JoinHandle<()>>,
    /// Where it listens: PUB, then ROUTER.
    endpoints: Vec<String>,
}

/// The last batches, oldest first.
#[derive(Debug)]
struct Kept {
    batches: VecDeque<(u64, Bytes)>,
    most: usize,
}

// === impl KvEvents ===

impl KvEvents {
    /// Whether the endpoints are such that this and all servers before it can have theirs.
    pub fn check(&self, last: u16) -> Result<(), KvEventsError> {
        for endpoint in [Some(&self.zmq_endpoint), self.replay_endpoint.as_ref()] {
            endpoint
                .map(|endpoint| listen_at(endpoint, last))
                .transpose()?;
        }
        Ok(())
    }
}

/// Where a server listens: vLLM counts ports up by the rank, we by the server.
fn listen_at(endpoint: &str, server: u16) -> Result<String, KvEventsError> {
    let port = endpoint.strip_prefix("tcp://*:");
    let port: Option<u16> = port.and_then(|port| port.parse().ok());
    let port = match port {
        None => return Err(KvEventsError::Endpoint(endpoint.to_owned())),
        Some(0) => 0,
        Some(port) => port
            .checked_add(server)
            .ok_or_else(|| KvEventsError::Ports(endpoint.to_owned(), server))?,
    };
    Ok(format!("tcp://0.0.0.0:{port}"))
}

// === impl Publisher ===

impl Publisher {
    /// Listens, and publishes what comes into the outbox.
    pub(super) async fn start(
        config: &KvEvents,
        server: u16,
        topic: String,
        block_size: u64,
        outbox: Arc<Outbox>,
    ) -> Result<Self, KvEventsError> {
        let mut publish = PubSocket::new();
        let bound = bind(&mut publish, &config.zmq_endpoint, server).await?;
        let mut endpoints = vec![bound.to_string()];
        let kept = Arc::new(Mutex::new(Kept {
            batches: VecDeque::new(),
            most: config.replay_queue_size,
        }));
        let mut tasks = Vec::new();
        if let Some(endpoint) = &config.replay_endpoint {
            let mut router = RouterSocket::new();
            endpoints.push(bind(&mut router, endpoint, server).await?.to_string());
            tasks.push(tokio::spawn(replay(router, Arc::clone(&kept))));
        }
        let format = Format {
            maps: config.map_format,
            block_size,
        };
        let batch = config.event_batch_size;
        tasks.push(tokio::spawn(async move {
            let mut stream = Stream {
                socket: publish,
                topic: topic.into(),
                format,
                number: 0,
                kept,
            };
            loop {
                outbox.filled().await;
                // A full batch goes at once, the rest when its time has come.
                let flush = tokio::time::sleep(FLUSH);
                tokio::pin!(flush);
                while outbox.len() < batch {
                    tokio::select! {
                        () = outbox.filled() => {}
                        () = &mut flush => break,
                    }
                }
                while outbox.len() > 0 {
                    stream.send(outbox.take(batch)).await;
                }
            }
        }));
        Ok(Self { tasks, endpoints })
    }

    /// Where it listens: PUB, then ROUTER.
    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }
}

async fn bind<S: zeromq::Socket>(
    socket: &mut S,
    endpoint: &str,
    server: u16,
) -> Result<Endpoint, KvEventsError> {
    let endpoint = listen_at(endpoint, server)?;
    let bound = socket.bind(&endpoint).await;
    bound.map_err(|source| KvEventsError::Bind { endpoint, source })
}

impl Drop for Publisher {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What goes out.
struct Stream {
    socket: PubSocket,
    topic: Bytes,
    format: Format,
    /// Of the next batch.
    number: u64,
    kept: Arc<Mutex<Kept>>,
}

// === impl Stream ===

impl Stream {
    async fn send(&mut self, notices: Vec<Notice>) {
        let mut changes = Vec::with_capacity(notices.len());
        for notice in notices {
            match notice {
                Notice::Change(change) => changes.push(change),
                Notice::Lost => {
                    self.batch(std::mem::take(&mut changes)).await;
                    // A number that nobody gets.
                    self.number += 1;
                }
                Notice::Restarted => {
                    changes.clear();
                    self.number = 0;
                    self.kept.lock().batches.clear();
                }
            }
        }
        self.batch(changes).await;
    }

    async fn batch(&mut self, changes: Vec<super::step::BlockChange>) {
        if changes.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        let payload = Bytes::from(self.format.batch(now, &changes));
        self.kept.lock().push(self.number, payload.clone());
        let frames = vec![self.topic.clone(), number(self.number), payload];
        self.number += 1;
        if let Ok(message) = ZmqMessage::try_from(frames)
            && let Err(error) = self.socket.send(message).await
        {
            tracing::warn!(%error, "KV events: a batch could not be sent");
        }
    }
}

/// Answers `[identity, "", first]` with every batch from that number on, as `[identity, "", number, batch]`.
async fn replay(mut router: RouterSocket, kept: Arc<Mutex<Kept>>) {
    loop {
        let Ok(asked) = router.recv().await else {
            return;
        };
        let [identity, empty, first] = &asked.into_vec()[..] else {
            continue;
        };
        let Ok(first) = <[u8; 8]>::try_from(&first[..]) else {
            continue;
        };
        let first = u64::from_be_bytes(first);
        let mut answers: Vec<_> = {
            let kept = kept.lock();
            let those = kept.batches.iter().filter(|(number, _)| *number >= first);
            those.cloned().collect()
        };
        answers.push((END, Bytes::new()));
        for (n, payload) in answers {
            let frames = vec![identity.clone(), empty.clone(), number(n), payload];
            let Ok(message) = ZmqMessage::try_from(frames) else {
                break;
            };
            // Who has gone asks again.
            if router.send(message).await.is_err() {
                break;
            }
        }
    }
}

fn number(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

// === impl Kept ===

impl Kept {
    fn push(&mut self, number: u64, payload: Bytes) {
        self.batches.push_back((number, payload));
        while self.batches.len() > self.most {
            self.batches.pop_front();
        }
    }
}
