//! Where the fake library is: for tests and demos that run from a checkout.

use std::io::{Error, Result};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The environment variable that names the fake library where it was built already.
pub const LIBRARY_VARIABLE: &str = "FAKE_NVML_LIBRARY";

/// The fake library: the one that [`LIBRARY_VARIABLE`] names, else it is built with cargo, once a process.
pub fn library() -> Result<PathBuf> {
    static LIBRARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let built = LIBRARY.get_or_init(|| match std::env::var_os(LIBRARY_VARIABLE) {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("the fake NVML library cannot be built: {error}")),
    });
    built.clone().map_err(Error::other)
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--quiet",
            "-p",
            "fake-nvml",
            "--message-format=json",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()?;
    if !built.status.success() {
        return Err(Error::other(format!("cargo build: {}", built.status)));
    }
    // Each line is a message; the one of the library names its files.
    let messages = built.stdout.split(|byte| *byte == b'\n');
    let mut files = messages.filter_map(|message| {
        let message: serde_json::Value = serde_json::from_slice(message).ok()?;
        (message["target"]["name"] == "fake_nvml")
            .then(|| Some(PathBuf::from(message["filenames"][0].as_str()?)))?
    });
    files
        .next()
        .ok_or_else(|| Error::other("cargo names no file"))
}
