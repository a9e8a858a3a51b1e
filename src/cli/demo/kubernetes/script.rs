//! What somebody does to the demo's own objects while it runs: files come and go, and pods with them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

/// All files, in the order in which they are created.
const FILES: [(&str, &str); 7] = [
    (
        "pool.yaml",
        include_str!("../../../../deploy/demo/pool.yaml"),
    ),
    (
        "llama-0.yaml",
        include_str!("../../../../deploy/demo/llama-0.yaml"),
    ),
    (
        "llama-1.yaml",
        include_str!("../../../../deploy/demo/llama-1.yaml"),
    ),
    (
        "llama-2.yaml",
        include_str!("../../../../deploy/demo/llama-2.yaml"),
    ),
    (
        "objectives.yaml",
        include_str!("../../../../deploy/demo/objectives.yaml"),
    ),
    (
        "rewrites.yaml",
        include_str!("../../../../deploy/demo/rewrites.yaml"),
    ),
    (
        "zz-bad.yaml",
        include_str!("../../../../deploy/demo/zz-bad.yaml"),
    ),
];
/// A pod that is not there from the start.
const LATER: (&str, &str) = (
    "llama-3.yaml",
    include_str!("../../../../deploy/demo/llama-3.yaml"),
);
/// One that goes for a while.
const AWAY: (&str, &str) = FILES[1];
/// Between two changes, if the demo does not end.
const PAUSE: Duration = Duration::from_secs(6);

/// The folder, and how far the script is in it.
pub(super) struct Script {
    folder: PathBuf,
    step: usize,
}

// === impl Script ===

impl Script {
    /// Writes the files into `folder`.
    pub(super) fn write(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let script = Self {
            folder: folder.to_owned(),
            step: 0,
        };
        for (name, text) in FILES {
            script.put((name, text))?;
        }
        Ok(script)
    }

    /// Between two changes of a demo that lasts so long: two pods come or go in it, with time before and after.
    pub(super) fn pause(run_for: Option<Duration>) -> Duration {
        run_for.map_or(PAUSE, |all| PAUSE.min(all / 3))
    }

    /// The next change: one pod more, another less, and back again.
    pub(super) fn step(&mut self) -> anyhow::Result<()> {
        match self.step % 4 {
            0 => self.put(LATER)?,
            1 => self.remove(AWAY.0)?,
            2 => self.put(AWAY)?,
            _ => self.remove(LATER.0)?,
        }
        self.step += 1;
        Ok(())
    }

    fn put(&self, (name, text): (&str, &str)) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        let next = path.with_extension("next");
        std::fs::write(&next, text)
            .and_then(|()| std::fs::rename(&next, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        match std::fs::remove_file(&path) {
            // Whoever looks on may have taken it away.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}
