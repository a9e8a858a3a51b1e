//! When requests are sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::{JoinError, JoinSet};
use tonic::transport::Channel;

use super::exchange::{self, Outcome};
use super::script::Script;
use super::tally::{Tally, Window};

/// Requests that may be under way at a time at a set rate: past it, the rate is not reached, and the report says so.
const MOST_UNDER_WAY: usize = 20_000;

/// What is sent, and over what.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// At least one.
    pub(super) channels: Vec<Channel>,
    pub(super) script: Arc<Script>,
}

// === impl Target ===

impl Target {
    fn exchange(
        &self,
        number: usize,
        due: Instant,
    ) -> impl Future<Output = Outcome> + Send + 'static {
        let channel = self.channels[number % self.channels.len()].clone();
        exchange::run(channel, Arc::clone(&self.script), due)
    }
}

/// Sends `rate` requests a second from now to the end of `window`, answered or not; then waits for the last answer.
pub(super) async fn open_loop(
    target: Target,
    rate: f64,
    window: Window,
) -> Result<Tally, JoinError> {
    let begun = Instant::now();
    let sent = tokio::task::spawn_blocking(move || {
        let mut tally = Tally::new(window);
        let mut requests = JoinSet::new();
        let mut number = 0;
        precise_sleep();
        pace(begun, rate, window.to, |due| {
            while let Some(ended) = requests.try_join_next() {
                take(&mut tally, ended);
            }
            if requests.len() < MOST_UNDER_WAY {
                requests.spawn(target.exchange(number, due));
            } else {
                tally.skip(due);
            }
            number += 1;
        });
        (tally, requests)
    });
    let (mut tally, mut requests) = sent.await?;
    while let Some(ended) = requests.join_next().await {
        take(&mut tally, ended);
    }
    Ok(tally)
}

fn take(tally: &mut Tally, ended: Result<Outcome, JoinError>) {
    match ended {
        Ok(outcome) => tally.add(&outcome),
        Err(_) => tally.error("the load client panicked".to_owned()),
    }
}

/// Keeps `concurrency` requests under way until the end of `window`.
pub(super) async fn closed_loop(
    target: Target,
    concurrency: u32,
    window: Window,
) -> Result<Tally, JoinError> {
    let tally = Arc::new(Mutex::new(Tally::new(window)));
    let mut workers = JoinSet::new();
    for number in 0..concurrency as usize {
        let target = target.clone();
        let tally = Arc::clone(&tally);
        workers.spawn(async move {
            loop {
                let due = Instant::now();
                if due >= window.to {
                    return;
                }
                let outcome = target.exchange(number, due).await;
                tally.lock().add(&outcome);
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    let total = std::mem::replace(&mut *tally.lock(), Tally::new(window));
    Ok(total)
}

/// Calls `each` when it is due, `rate` times a second until `end`. Who is late catches up, at once: none is left
/// out, and none is due later than it would have been.
fn pace(begun: Instant, rate: f64, end: Instant, mut each: impl FnMut(Instant)) {
    for number in 0_u64.. {
        // Of the number, not of the one before, so that no error adds up.
        let offset = Duration::try_from_secs_f64(number as f64 / rate).ok();
        let due = offset.and_then(|offset| begun.checked_add(offset));
        let Some(due) = due.filter(|due| *due < end) else {
            return;
        };
        let rest = due.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
        each(due);
    }
}

/// The kernel may let a thread sleep 50 µs longer than asked. With a slack of 1 ns no core has to be spun for the
/// rest of the way; where it cannot be set, the lag shows it.
fn precise_sleep() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;
    use crate::cli::load::BodyMode;

    #[test]
    fn a_stall_leaves_nothing_out_and_moves_nothing() {
        let end = Instant::now();
        let begun = end - Duration::from_secs(2);
        let mut due = Vec::new();
        // All of it is overdue already: nothing here sleeps.
        pace(begun, 1000.0, end, |at| due.push(at - begun));
        let expected: Vec<_> = (0..2000).map(Duration::from_millis).collect();
        let off = |(a, b): (&Duration, &Duration)| a.abs_diff(*b) > Duration::from_nanos(1);
        assert_eq!(due.len(), expected.len());
        assert!(!due.iter().zip(&expected).any(off));
    }

    #[test]
    fn nothing_is_sent_before_it_is_due() {
        let begun = Instant::now();
        let mut early = 0;
        let mut count = 0;
        pace(begun, 1000.0, begun + Duration::from_millis(20), |due| {
            early += u32::from(Instant::now() < due);
            count += 1;
        });
        assert_eq!((early, count), (0, 20));
    }

    #[test]
    fn the_lowest_rates_send_once() {
        let begun = Instant::now();
        let mut count = 0;
        pace(
            begun,
            f64::MIN_POSITIVE,
            begun + Duration::from_secs(1),
            |_| {
                count += 1;
            },
        );
        assert_eq!(count, 1);
    }

    /// Nobody listens there.
    fn dead_target() -> Target {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = Endpoint::from_shared(address).unwrap();
        let script = Script::new("m", 10, BodyMode::FullDuplex, 0, Duration::ZERO);
        Target {
            channels: vec![endpoint.connect_lazy()],
            script: Arc::new(script),
        }
    }

    #[tokio::test]
    async fn every_request_that_was_due_is_in_the_report() {
        let window = |from: Instant| Window {
            from,
            to: from + Duration::from_millis(100),
        };
        let open = open_loop(dead_target(), 500.0, window(Instant::now()));
        let open = open.await.unwrap();
        let closed = closed_loop(dead_target(), 3, window(Instant::now()));
        let closed = closed.await.unwrap();
        for tally in [open, closed] {
            let errors: Vec<_> = tally.errors.into_iter().collect();
            let expected = "stream ended with Unavailable".to_owned();
            assert_eq!(errors, [(expected, tally.due)]);
            assert!(tally.due > 0 && tally.completed == 0);
        }
    }
}
