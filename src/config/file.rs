//! Files that change while we run: read within a bound, followed as they are edited.
//!
//! What is watched is a directory: editors and Kubernetes replace files instead of writing into them. Where nothing can be
//! watched (some file systems report no changes, and a node may have no watches left), the file is looked at now and
//! then, so a [`Follower`] says "perhaps it changed": whoever waits for it reads and compares.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// How patiently edits are followed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// An edit is several events: it is over when there was none for this long.
    pub quiet: Duration,
    /// But no edit is waited for longer than this: in a busy folder there always is an event.
    pub longest: Duration,
    /// Without any event, this long after the last look.
    pub poll: Duration,
}

/// Waits for changes in a directory.
#[derive(Debug)]
pub struct Follower {
    pace: Pace,
    changes: mpsc::Receiver<()>,
    /// Without a watcher this keeps `changes` open, so that there are polls alone.
    _sender: mpsc::Sender<()>,
    _watcher: Option<RecommendedWatcher>,
}

/// The text of the file at `path`, which must be no longer than 1 MiB.
pub fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(LARGEST + 1)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!(
            "is longer than {LARGEST} bytes, which is the limit"
        ));
    }
    Ok(text)
}

/// Whether a file may be another one now. Reading is an event too: our own reads must not make us read again.
fn is_change(event: &notify::Result<notify::Event>) -> bool {
    !matches!(event, Ok(event) if matches!(event.kind, EventKind::Access(_)))
}

// === impl Follower ===

impl Follower {
    /// Follows the directory in which the file at `path` is.
    pub fn of_file(path: &Path, pace: Pace) -> Self {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => Self::of_directory(parent, pace),
            _ => Self::of_directory(Path::new("."), pace),
        }
    }

    /// Follows `directory`. If it cannot be watched, that is logged, and there are polls alone.
    pub fn of_directory(directory: &Path, pace: Pace) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let watched = watch(directory, sender.clone());
        let watcher = watched.inspect_err(|error| {
            let directory = directory.display();
            tracing::warn!(%error, "{directory} cannot be watched; it is looked at every {:?}.", pace.poll);
        });
        Self {
            pace,
            changes,
            _sender: sender,
            _watcher: watcher.ok(),
        }
    }

    /// Returns when an edit seems to be over, or when it is time to look anyway.
    pub async fn changed(&mut self) {
        if timeout(self.pace.poll, self.changes.recv()).await.is_err() {
            return;
        }
        let quiet = async { while timeout(self.pace.quiet, self.changes.recv()).await.is_ok() {} };
        let _ = timeout(self.pace.longest, quiet).await;
    }
}

fn watch(directory: &Path, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event| {
        if is_change(&event) {
            // A full channel already holds a wake-up.
            let _ = sender.try_send(());
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        quiet: Duration::from_millis(50),
        longest: Duration::from_millis(500),
        poll: Duration::from_secs(3600),
    };

    /// A follower that is told of changes by hand.
    fn follower(pace: Pace) -> (Follower, mpsc::Sender<()>) {
        let (sender, changes) = mpsc::channel(1);
        let follower = Follower {
            pace,
            changes,
            _sender: sender.clone(),
            _watcher: None,
        };
        (follower, sender)
    }

    #[test]
    fn reading_is_no_change() {
        use notify::event::{AccessKind, AccessMode, Event, Flag, ModifyKind};
        let of = |kind| is_change(&Ok(Event::new(kind)));
        for kind in [
            AccessKind::Open(AccessMode::Any),
            AccessKind::Read,
            AccessKind::Close(AccessMode::Read),
        ] {
            assert!(!of(EventKind::Access(kind)), "{kind:?}");
        }
        assert!(of(EventKind::Modify(ModifyKind::Any)));
        assert!(is_change(&Ok(
            Event::new(EventKind::Other).set_flag(Flag::Rescan)
        )));
        assert!(is_change(&Err(notify::Error::generic("lost"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_folder_holds_nothing_up() {
        let (mut follower, sender) = follower(PACE);
        let busy = async {
            loop {
                let _ = sender.try_send(());
                tokio::time::sleep(PACE.quiet / 5).await;
            }
        };
        // In the test's own time.
        let patience = tokio::time::sleep(PACE.longest * 2);
        tokio::select! {
            () = follower.changed() => {}
            () = busy => {}
            () = patience => panic!("it waits for quiet"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_watched_is_polled() {
        let nowhere = Path::new("/nonexistent/pointsman");
        Follower::of_directory(nowhere, PACE).changed().await;
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "x".repeat(LARGEST as usize)).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, LARGEST);
        std::fs::write(&path, "x".repeat(LARGEST as usize + 1)).unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .contains("is longer than 1048576 bytes")
        );
        assert!(
            read(&dir.path().join("g"))
                .unwrap_err()
                .contains("No such file")
        );
    }
}
