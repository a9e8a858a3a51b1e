//! The file that drives the fake NVML library.

use std::path::Path;
use std::time::Duration;

use fake_state::State;
use tokio::time::Instant;

use super::Boards;

/// Between two looks at what the engines do.
const PERIOD: Duration = Duration::from_millis(250);

/// Without other news, until the energy counters are told again.
const QUIET: Duration = Duration::from_secs(1);

/// Between two writes, whatever happens.
const LEAST: Duration = Duration::from_millis(10);

/// Keeps the file at what the GPUs do, until a write fails.
pub async fn follow(boards: &Boards, path: &Path) -> std::io::Result<()> {
    let mut written: Option<(State, Instant)> = None;
    loop {
        let state = boards.state();
        let is_news = written.as_ref().is_none_or(|(old, at)| {
            at.elapsed() >= QUIET || without_energy(old) != without_energy(&state)
        });
        if is_news {
            state.write(path)?;
            written = Some((state, Instant::now()));
        }
        tokio::time::sleep(LEAST).await;
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = boards.changed.notified() => {}
        }
    }
}

/// The counters of idle GPUs move too.
fn without_energy(state: &State) -> State {
    let mut state = state.clone();
    for gpu in &mut state.gpus {
        gpu.energy = 0;
    }
    state
}
