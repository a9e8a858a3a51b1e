//! Durations, sizes and booleans as values of flags.

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

/// The spellings of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("`{text}` is not a boolean; write true or false")),
    }
}
