//! Where decisions are made: on a worker when one is free, and never waited for longer than the budget.
//!
//! A decision is a few microseconds of plain code, so it belongs on the worker that read the request. But a parser
//! or a plugin that blocks would take that worker with it. So at most [`Desk::new`]'s `inline` decisions run on
//! workers at a time, the others on threads that are made for blocking; the runtime has at least one worker more than
//! that, which is left to run the timers and tell the clients.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::denial::Denial;

/// Runs decisions within a budget of time.
#[derive(Debug)]
pub struct Desk {
    inline: Arc<Semaphore>,
    parse: Duration,
    pick: Duration,
}

/// How far a decision is; shared with whoever waits for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicBool>);

/// What did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// Reading the body.
    Parsing,
    /// Choosing an endpoint.
    Picking,
}

// === impl Desk ===

impl Desk {
    /// At most `inline` decisions on workers at once; `parse` and `pick` are how long a request waits for either.
    pub fn new(inline: usize, parse: Duration, pick: Duration) -> Self {
        Self {
            inline: Arc::new(Semaphore::new(inline)),
            parse,
            pick,
        }
    }

    /// Runs `work`. What it returns too late is dropped, with all that it reserved.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, Denial>
    where
        T: Send + 'static,
        F: FnOnce(&Progress) -> Result<T, Denial> + Send + 'static,
    {
        let progress = Progress::default();
        let seen = progress.clone();
        let mut task = match Arc::clone(&self.inline).try_acquire_owned() {
            Ok(permit) => tokio::spawn(async move {
                let _permit = permit;
                work(&progress)
            }),
            Err(_) => tokio::task::spawn_blocking(move || work(&progress)),
        };
        let joined = match timeout(self.parse, &mut task).await {
            Ok(joined) => joined,
            Err(_) if !seen.is_parsed() => return Err(Denial::Late(Late::Parsing)),
            Err(_) => timeout(self.pick, &mut task)
                .await
                .map_err(|_| Denial::Late(Late::Picking))?,
        };
        joined.unwrap_or_else(|error| {
            tracing::error!(%error, "A decision panicked.");
            Err(Denial::Broken)
        })
    }
}

// === impl Progress ===

impl Progress {
    /// The body has been read.
    pub(super) fn parsed(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_parsed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

// === impl Late ===

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parsing => "reading the request took too long",
            Self::Picking => "choosing an endpoint took too long",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn desk(budget: Duration) -> Desk {
        Desk::new(1, budget, budget)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_blocks_is_answered_for_and_the_next_ones_still_run() {
        let desk = desk(Duration::from_millis(300));
        let mut gates = Vec::new();
        for parsed in [false, true, true] {
            let (gate, wait) = mpsc::channel::<()>();
            gates.push(gate);
            let late = desk
                .run(move |progress| {
                    if parsed {
                        progress.parsed();
                    }
                    let _ = wait.recv();
                    Ok(())
                })
                .await;
            let expected = if parsed { Late::Picking } else { Late::Parsing };
            assert!(
                matches!(late, Err(Denial::Late(l)) if l == expected),
                "{late:?}"
            );
        }
        assert_eq!(desk.run(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_an_answer() {
        let broken = desk(Duration::from_secs(60))
            .run::<(), _>(|_| panic!("on purpose"))
            .await;
        assert!(matches!(broken, Err(Denial::Broken)));
    }
}
