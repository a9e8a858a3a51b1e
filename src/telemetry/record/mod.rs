//! Capture: the requests that a picker decides on, as arrivals that a simulation can replay ([`format`]). No text, no header.
//!
//! Whoever decides hands an entry to a queue and goes on; a thread of its own numbers the blocks and writes. The queue is
//! bounded in entries and in bytes: what does not fit is dropped and counted, for a capture must never slow a pick.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::metrics::ReasonLabels;

pub mod format;
mod numbers;
#[cfg(test)]
mod tests;
mod writer;

use format::AnswerLine;
use writer::Writer;

/// Tokens in a block of a capture, whatever the picker's own blocks are.
pub const BLOCK_TOKENS: usize = 64;

/// Entries that wait to be written, and bytes of their chains. A prompt of 100,000 tokens has 12.5 KB.
const MOST_QUEUED: usize = 16_384;
const MOST_QUEUED_BYTES: usize = 32 << 20;
/// A quiet capture is flushed so often.
const FLUSH: Duration = Duration::from_secs(1);
/// Files that are tried before one is given up.
const MOST_FILES: u32 = 1_000;

/// The writer was behind.
const BEHIND: &str = "behind";
/// The file is full, or could not be written.
const OVER: &str = "over";

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be made.
    #[error("{}: {source}; give a path in a directory that this process may write to", file.display())]
    Create {
        /// As it was given.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("{}: {source}", file.display())]
    Write {
        /// Where to.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A capture under way.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<Entry>,
    shared: Arc<Shared>,
    started: Instant,
    next: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
    file: PathBuf,
}

/// What deciding and writing share.
#[derive(Debug, Default)]
struct Shared {
    /// Of chains in the queue.
    bytes: AtomicUsize,
    /// Nothing more is written.
    ended: AtomicBool,
    /// Lines by why they are missing: [`BEHIND`], [`OVER`].
    dropped: Family<ReasonLabels, Counter>,
}

/// A request.
#[derive(Debug)]
pub struct Asked<'a> {
    /// When it was to be decided on.
    pub at: Instant,
    /// Its prompt, estimated.
    pub tokens: u32,
    /// Its prompt in blocks of [`BLOCK_TOKENS`].
    pub chain: Vec<u64>,
    /// The most that it lets the server generate.
    pub max_tokens: Option<u64>,
    /// Its model's name, if it has one.
    pub model: &'a str,
    /// Its adapter's name, if it is not the model's.
    pub adapter: &'a str,
    /// What it calls its session, if it does.
    pub session: &'a str,
    /// Who calls it so: another's session of that name is another session.
    pub tenant: &'a str,
    /// It was sent nowhere.
    pub refused: bool,
}

/// What waits to be written.
#[derive(Debug)]
enum Entry {
    Arrival {
        number: u64,
        seconds: f64,
        tokens: u32,
        chain: Vec<u64>,
        max_tokens: Option<u64>,
        /// Hashes of names; 0: none.
        model: u64,
        adapter: u64,
        session: u64,
        refused: bool,
    },
    Answer(AnswerLine),
    Close,
}

/// A request that is in the capture, and whose answer belongs there too.
#[derive(Debug)]
pub struct Recorded {
    recorder: Arc<Recorder>,
    number: u64,
}

// === impl Shared ===

impl Shared {
    fn dropped(&self, reason: &'static str) -> Counter {
        self.dropped.get_or_create_owned(&ReasonLabels { reason })
    }
}

// === impl Recorder ===

impl Recorder {
    /// Begins a capture in `path`; if that is taken, in `path.1`, `path.2` and so on: one that was made before is never
    /// lost, and a process that starts again with the same flags is not held up by it. It ends at `most` bytes.
    pub fn create(path: &Path, most: u64) -> Result<Arc<Self>, RecordError> {
        let (file, path) = create(path)?;
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let started_ms = since_1970.unwrap_or_default().as_millis() as u64;
        let shared = Arc::new(Shared::default());
        // Both are shown from the beginning.
        let _ = (shared.dropped(BEHIND), shared.dropped(OVER));
        let error = |source| RecordError::Write {
            file: path.clone(),
            source,
        };
        let writer = Writer::new(file, most, started_ms).map_err(error)?;
        let (queue, entries) = sync_channel(MOST_QUEUED);
        let thread = {
            let (shared, path) = (Arc::clone(&shared), path.clone());
            let body = move || write(writer, &entries, &shared, &path);
            let thread = std::thread::Builder::new().name("record".to_owned());
            thread.spawn(body).map_err(error)?
        };
        Ok(Arc::new(Self {
            queue,
            shared,
            started: Instant::now(),
            next: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
            file: path,
        }))
    }

    /// Where it goes.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Shows what is missing from it.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "record_dropped",
            "Lines that are missing from the capture of --record, by reason",
            self.shared.dropped.clone(),
        );
    }

    /// Nothing more is taken: nobody needs to prepare an entry.
    pub fn is_over(&self) -> bool {
        self.shared.ended.load(Ordering::Relaxed)
    }

    /// A request. `None`: it is not in the capture.
    pub fn asked(self: &Arc<Self>, asked: Asked<'_>) -> Option<Recorded> {
        let bytes = size_of_val(asked.chain.as_slice());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let of_tenant = |name: &str, seed| match name {
            "" => 0,
            name => xxh3_64_with_seed(name.as_bytes(), seed).max(1),
        };
        let name = |name: &str| of_tenant(name, 0);
        let entry = Entry::Arrival {
            number,
            seconds: asked
                .at
                .saturating_duration_since(self.started)
                .as_secs_f64(),
            tokens: asked.tokens,
            chain: asked.chain,
            max_tokens: asked.max_tokens,
            model: name(asked.model),
            adapter: name(asked.adapter),
            session: of_tenant(asked.session, name(asked.tenant)),
            refused: asked.refused,
        };
        self.put(entry, bytes).then(|| Recorded {
            recorder: Arc::clone(self),
            number,
        })
    }

    /// Writes what waits, and no more after it. Blocks until that is done.
    pub fn close(&self) {
        let thread = self.thread.lock().take();
        // The queue is full only while the writer works, and it always comes to an end.
        let _ = self.queue.send(Entry::Close);
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("The thread that writes the capture panicked.");
        }
    }

    /// `false`: it was dropped.
    fn put(&self, entry: Entry, bytes: usize) -> bool {
        let shared = &self.shared;
        if self.is_over() {
            shared.dropped(OVER).inc();
            return false;
        }
        let fits = shared.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_QUEUED_BYTES;
        if fits && self.queue.try_send(entry).is_ok() {
            return true;
        }
        shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
        shared.dropped(BEHIND).inc();
        false
    }
}

// === impl Recorded ===

impl Recorded {
    /// Its answer has ended; `of` is filled in.
    pub fn answered(self, answer: AnswerLine) {
        let answer = AnswerLine {
            of: self.number,
            ..answer
        };
        self.recorder.put(Entry::Answer(answer), 0);
    }
}

/// The first of `path`, `path.1`, … that is not there yet.
fn create(path: &Path) -> Result<(std::fs::File, PathBuf), RecordError> {
    let mut number = 0;
    loop {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        let name = PathBuf::from(name);
        match std::fs::File::create_new(&name) {
            Ok(file) => return Ok((file, name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MOST_FILES => {
                number += 1;
            }
            Err(source) => return Err(RecordError::Create { file: name, source }),
        }
    }
}

/// Writes what comes until it is told to end, or cannot go on.
fn write(mut writer: Writer, entries: &Receiver<Entry>, shared: &Shared, file: &Path) {
    let mut work = || -> io::Result<&'static str> {
        let mut dirty = false;
        loop {
            let entry = match entries.recv_timeout(FLUSH) {
                Ok(Entry::Close) => return Ok("closed"),
                Ok(entry) => entry,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok("closed"),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    if std::mem::take(&mut dirty) {
                        writer.flush()?;
                    }
                    continue;
                }
            };
            if let Entry::Arrival { chain, .. } = &entry {
                let bytes = size_of_val(chain.as_slice());
                shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            dirty = true;
            if !writer.entry(entry)? {
                return Ok("full");
            }
        }
    };
    let ended = work();
    shared.ended.store(true, Ordering::Relaxed);
    let ended = ended.and_then(|why| {
        writer.end(why, shared.dropped(BEHIND).get())?;
        Ok(why)
    });
    match ended {
        Ok("full") => tracing::warn!(
            file = %file.display(),
            "The capture has reached --record-max-bytes; nothing more is recorded."
        ),
        Ok(_) => {}
        Err(error) => tracing::error!(
            file = %file.display(), %error,
            "The capture cannot be written; nothing more is recorded."
        ),
    }
    // Whoever sends sees `ended`; what waits is dropped with the queue.
}
