//! CPU time and memory of another process, from `/proc`.

use std::time::Instant;

use anyhow::Context as _;

use super::tally::Window;

/// Ticks a second in `/proc/PID/stat`: a constant of Linux's interface, whatever the kernel's own clock.
const TICKS: f64 = 100.0;

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Of all its threads, since it started.
    pub(super) cpu_seconds: f64,
    /// Resident bytes.
    pub(super) rss: u64,
}

/// What a process took over the measured time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    pub(super) cpu_seconds: f64,
    /// Resident bytes at its end.
    pub(super) rss: u64,
}

/// Watches a process from one end of `window` to the other. It blocks: a thread of its own is on time also when the
/// runtime is busy.
pub(super) fn watch(pid: u32, window: Window) -> anyhow::Result<Spent> {
    let usage_at = |at: Instant| {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        Usage::of(pid)
    };
    let before = usage_at(window.from)?;
    let after = usage_at(window.to)?;
    Ok(Spent {
        cpu_seconds: after.cpu_seconds - before.cpu_seconds,
        rss: after.rss,
    })
}

// === impl Usage ===

impl Usage {
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("--pid: {path}"))
        };
        let stat = read("stat")?;
        let status = read("status")?;
        Self::parse(&stat, &status)
            .with_context(|| format!("--pid: /proc/{pid} is not as expected"))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is a name in brackets, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        let rss = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?
            .trim()
            .strip_suffix(" kB")?;
        Some(Self {
            cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS,
            rss: rss.parse::<u64>().ok()? * 1024,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 200";
        let usage = Usage::parse(stat, "Name: x\nVmRSS:\t  2048 kB\n").unwrap();
        assert_eq!((usage.cpu_seconds, usage.rss), (3.0, 2 << 20));
        assert!(Usage::of(std::process::id()).unwrap().rss > 0);
    }
}
