//! Logs to standard error. Prompts never get there: no message in this program carries a body.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging: what this program says at `level`, what the crates under it say from warnings up. `RUST_LOG`, where it
/// is set, overrules both. A second call does nothing.
pub fn init(level: LevelFilter, format: LogFormat) {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) if !directives.is_empty() => EnvFilter::new(directives),
        _ => EnvFilter::new(directives(level)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only where a subscriber is set already, as in tests.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// The frame dumps of an HTTP/2 library are of no use to whoever asks a picker for its debug messages.
fn directives(level: LevelFilter) -> String {
    let others = level.min(LevelFilter::WARN);
    format!(
        "{others},{}={level},gpu_probes={level}",
        env!("CARGO_CRATE_NAME")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LevelFilter) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives(level)))
            .with_writer(move || writer.clone())
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!("our trace");
            tracing::debug!("our debug");
            tracing::info!("our info");
            tracing::error!("our error");
            tracing::debug!(target: "h2::codec", "their debug");
            tracing::info!(target: "h2::codec", "their info");
            tracing::warn!(target: "h2::codec", "their warning");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn verbosity_is_about_our_own_messages() {
        let debug = ["our debug", "our info", "our error", "their warning"];
        assert_eq!(logged(LevelFilter::DEBUG), debug);
        assert_eq!(logged(LevelFilter::INFO), debug[1..]);
        assert_eq!(logged(LevelFilter::ERROR), ["our error"]);
    }
}
