//! Durations and sizes as values of flags.

use std::time::Duration;

use crate::config::units;

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text)
}

/// Bytes.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let bytes = units::quantity(text)?;
    usize::try_from(bytes).map_err(|_| format!("`{text}` is more than this machine can address"))
}
