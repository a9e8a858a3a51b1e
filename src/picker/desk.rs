//! Where decisions are made: on a worker when one is free, and never waited for longer than the budget.
//!
//! A decision is a few microseconds of plain code, so it belongs on the workers that read the requests. But a parser
//! or a plugin that blocks would take those workers with it. So at most [`Desk::new`]'s `inline` decisions run on
//! workers at a time, the others on threads that are made for blocking; the runtime has at least one worker more than
//! that, which is left to run the timers and tell the clients. The threads are [`BLOCKING`] at most: when all of
//! them are stuck, requests are refused at once instead of piling up.
//!
//! That one worker may be asleep, though: of the workers that have nothing to do one waits for sockets and timers,
//! the others for it. If that one gets the decision that blocks, nobody waits for sockets any more, and nobody is
//! woken. So a thread that is none of the runtime's wakes a worker every now and then while decisions are made ([`watch`]).

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::denial::Denial;

/// Decisions on threads of their own at a time.
const BLOCKING: usize = 256;

/// How long the runtime may stand still when a decision blocks the worker that ran it.
const WATCH: Duration = Duration::from_millis(50);

/// Runs decisions within a budget of time. Clones share their places.
#[derive(Clone, Debug)]
pub struct Desk {
    places: Arc<Places>,
    parse: Duration,
    pick: Duration,
}

#[derive(Debug)]
struct Places {
    inline: Semaphore,
    blocking: Semaphore,
}

/// How far a decision is, that is, when its body had been read; shared with whoever waits for it.
///
/// Whoever waits is woken by timers alone. A wake-up from the decision itself would be queued behind it, on the worker
/// that it may be about to block.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<OnceLock<Instant>>);

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
        let places = Arc::new(Places {
            inline: Semaphore::new(inline),
            blocking: Semaphore::new(BLOCKING),
        });
        if let Ok(runtime) = Handle::try_current() {
            let watched = Arc::downgrade(&places);
            let watching = std::thread::Builder::new()
                .name("desk".to_owned())
                .spawn(move || watch(&watched, inline, &runtime));
            if let Err(error) = watching {
                tracing::error!(%error, "Nobody watches over the desk: a plugin that hangs may stop everything.");
            }
        }
        Self {
            places,
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
        let places = Arc::clone(&self.places);
        let mut task = tokio::spawn(places.run(progress.clone(), work));
        tokio::select! {
            biased;
            joined = &mut task => joined.unwrap_or_else(|error| {
                tracing::error!(%error, "A decision panicked.");
                Err(Denial::Broken)
            }),
            late = self.late(&progress) => Err(Denial::Late(late)),
        }
    }

    /// Returns when a budget is used up.
    async fn late(&self, progress: &Progress) -> Late {
        let begun = Instant::now();
        loop {
            let (deadline, late) = match progress.parsed_at() {
                None => (begun + self.parse, Late::Parsing),
                Some(at) => (at + self.pick, Late::Picking),
            };
            let now = Instant::now();
            if now >= deadline {
                return late;
            }
            // Picking may have begun at once.
            sleep_until(deadline.min(now + self.pick)).await;
        }
    }
}

/// Wakes a worker of `runtime` again and again while any of the `inline` places is taken. The worker finds nothing to
/// do and goes back to sleep, but on its way it takes over the sockets and timers if nobody has them.
fn watch(places: &Weak<Places>, inline: usize, runtime: &Handle) {
    while let Some(places) = places.upgrade() {
        if places.inline.available_permits() < inline {
            runtime.spawn(async {});
        }
        drop(places);
        std::thread::sleep(WATCH);
    }
}

// === impl Places ===

impl Places {
    async fn run<T, F>(self: Arc<Self>, progress: Progress, work: F) -> Result<T, Denial>
    where
        T: Send + 'static,
        F: FnOnce(&Progress) -> Result<T, Denial> + Send + 'static,
    {
        if let Ok(_permit) = self.inline.try_acquire() {
            return work(&progress);
        }
        let Ok(_permit) = self.blocking.try_acquire() else {
            return Err(Denial::Stuck);
        };
        let ended = tokio::task::spawn_blocking(move || work(&progress)).await;
        ended.unwrap_or_else(|error| {
            tracing::error!(%error, "A decision panicked.");
            Err(Denial::Broken)
        })
    }
}

// === impl Progress ===

impl Progress {
    /// The body has been read.
    pub(super) fn parsed(&self) {
        self.0.get_or_init(Instant::now);
    }

    fn parsed_at(&self) -> Option<Instant> {
        self.0.get().copied()
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
    async fn a_pick_that_blocks_is_not_given_the_time_for_parsing() {
        let desk = Desk::new(1, Duration::from_secs(3600), Duration::from_millis(50));
        let (_gate, wait) = mpsc::channel::<()>();
        let late = desk
            .run(move |progress| {
                progress.parsed();
                let _ = wait.recv();
                Ok(())
            })
            .await;
        assert!(matches!(late, Err(Denial::Late(Late::Picking))), "{late:?}");
    }

    /// Woken by the driver, the worker that waited in it makes the decision; the other one sleeps beside it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn timers_go_on_when_the_worker_that_ran_them_blocks() {
        let desk = Arc::new(desk(Duration::from_millis(50)));
        let (gate, wait) = mpsc::channel::<()>();
        let at_desk = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            desk.run(move |_| {
                let _ = wait.recv();
                Ok(())
            })
            .await
        });
        // Not by the runtime's clock: it is what may stand still.
        let (sender, answered) = mpsc::channel();
        tokio::spawn(async move { sender.send(at_desk.await) });
        let late = answered.recv_timeout(Duration::from_secs(20));
        drop(gate);
        assert!(
            matches!(late, Ok(Ok(Err(Denial::Late(Late::Parsing))))),
            "{late:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn when_all_places_are_stuck_requests_are_refused_at_once() {
        let desk = Arc::new(desk(Duration::from_secs(3600)));
        let gates: Vec<_> = (0..BLOCKING + 1).map(|_| mpsc::channel::<()>()).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) = gates.into_iter().unzip();
        let stuck: Vec<_> = receivers
            .into_iter()
            .map(|wait| {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    desk.run(move |_| {
                        let _ = wait.recv();
                        Ok(())
                    })
                    .await
                })
            })
            .collect();
        while desk.places.inline.available_permits() + desk.places.blocking.available_permits() > 0
        {
            tokio::task::yield_now().await;
        }
        assert!(matches!(desk.run(|_| Ok(())).await, Err(Denial::Stuck)));
        drop(senders);
        for task in stuck {
            assert!(task.await.unwrap().is_ok());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_an_answer() {
        let broken = desk(Duration::from_secs(60))
            .run::<(), _>(|_| panic!("on purpose"))
            .await;
        assert!(matches!(broken, Err(Denial::Broken)));
    }
}
