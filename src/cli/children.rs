//! Programs that run beside us: their output goes to a file, they are ended in order, and none outlives us.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::RngExt as _;
use tokio::process::{Child, Command};

/// How long a program may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// Below the ports that outgoing connections get: a port that is free now is still free when it is bound.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// One program. It is killed if it is dropped.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

// === impl Program ===

impl Program {
    /// Starts `command`; what it prints goes to `<folder>/<name>.log`.
    pub fn start(name: &'static str, folder: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C is for us: we end the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name, log, child })
    }

    /// Its process id, as long as it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// An error with the end of what it printed, if it does not run any more.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let printed = self.printed();
                let lines: Vec<&str> = printed.lines().collect();
                let last = lines[lines.len().saturating_sub(10)..].join("\n");
                bail!("{} ended early ({status}):\n{last}", self.name)
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let id = self.id().and_then(|id| i32::try_from(id).ok());
        let pid = id.and_then(rustix::process::Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has ended", self.name))?;
        rustix::process::kill_process(pid, signal)
            .with_context(|| format!("signalling {}", self.name))
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        self.child
            .wait()
            .await
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// Asks it to end, and kills it if it does not.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if self.id().is_some() {
            self.signal(rustix::process::Signal::TERM)?;
        }
        if tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
        }
        Ok(())
    }
}

/// An address on the loopback that nobody listens on, and that this process was not given before.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new(rand::rng().random_range(PORTS)));
    let following = |port: u16| {
        Some(if port + 1 < PORTS.end {
            port + 1
        } else {
            PORTS.start
        })
    };
    for _ in 0..PORTS.len() {
        let Ok(port) = NEXT.fetch_update(Relaxed, Relaxed, following) else {
            break;
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port from {} to {}", PORTS.start, PORTS.end)
}
