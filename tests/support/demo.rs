//! `pointsman demo`, as its user runs it.

use std::path::Path;

use pointsman::cli::demo::envoy;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Program, pointsman, until};

/// Its command with these flags.
pub(crate) async fn command(flags: &[&str]) -> Command {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = pointsman();
    command
        .env("ENVOY_BIN", envoy::find(cache).await.unwrap())
        .arg("demo")
        .args(flags);
    command
}

/// Starts it; what it prints is in the folder.
pub(crate) fn start(command: &mut Command) -> (Program, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let demo = Program::start("demo", folder.path(), command).unwrap();
    (demo, folder)
}

/// Starts it, waits until it ends by itself, as it should, and returns what it printed.
pub(crate) async fn watched(command: &mut Command) -> String {
    let (mut demo, _folder) = start(command);
    let ended = demo.ended().await.unwrap();
    let printed = demo.printed();
    assert!(ended.success(), "{printed}");
    printed
}

/// Waits until it has printed `what`.
pub(crate) async fn prints(demo: &mut Program, what: &str) {
    let demo = std::sync::Mutex::new(demo);
    until(what, async || {
        let mut demo = demo.lock().unwrap();
        demo.check().unwrap();
        demo.printed().contains(what).then_some(())
    })
    .await;
}

/// The columns of the last line that begins with `name`.
pub(crate) fn last_row(printed: &str, name: &str) -> Vec<String> {
    let row = printed.lines().rfind(|line| line.starts_with(name));
    let row = row.unwrap_or_else(|| panic!("{printed}"));
    row.split_whitespace().map(str::to_owned).collect()
}
