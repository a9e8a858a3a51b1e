//! Formats with comma-separated values.

use std::io::BufRead;

use serde::Deserialize;
use time::PrimitiveDateTime;
use time::format_description::{self, OwnedFormatItem};

use super::super::WorkloadError;
use super::super::build::{Builder, NewRow};
use super::Lines;
use super::json::LengthsRow;

const AZURE: &str = "an Azure trace has the columns TIMESTAMP,ContextTokens,GeneratedTokens, a line being 2023-11-16 18:15:46.6805900,374,44";
const LENGTHS: &str = "the columns are t,in,out, with seconds and tokens, and, if there are any, session,think,adapter";
/// Some have no fraction, some a zone, which is UTC.
const TIME: &str = "[year]-[month]-[day] [hour]:[minute]:[second][optional [.[subsecond]]]";

#[derive(Deserialize)]
struct AzureRow<'a> {
    #[serde(rename = "TIMESTAMP")]
    timestamp: &'a str,
    #[serde(rename = "ContextTokens")]
    prompt: u32,
    #[serde(rename = "GeneratedTokens")]
    output: u32,
}

pub(super) fn azure<R: BufRead>(lines: &mut Lines<R>) -> Result<Builder, WorkloadError> {
    let mut builder = Builder::new(0);
    let format = format_description::parse_owned::<2>(TIME)
        .unwrap_or_else(|error| unreachable!("a constant: {error}"));
    each(lines, AZURE, |lines, record, headers| {
        let row: AzureRow<'_> = record
            .deserialize(Some(headers))
            .map_err(|error| lines.bad(what(error.kind()), AZURE))?;
        let at = timestamp(row.timestamp, &format).ok_or_else(|| {
            let problem = format!("`TIMESTAMP` is `{}`", row.timestamp);
            lines.bad(problem, AZURE)
        })?;
        let new = NewRow {
            at: lines.time("TIMESTAMP", at)?,
            prompt: row.prompt,
            output: row.output,
            ..NewRow::default()
        };
        lines.add(&mut builder, &new)
    })?;
    Ok(builder)
}

pub(super) fn lengths<R: BufRead>(lines: &mut Lines<R>) -> Result<Builder, WorkloadError> {
    let mut builder = Builder::new(0);
    each(lines, LENGTHS, |lines, record, headers| {
        let row: LengthsRow = record
            .deserialize(Some(headers))
            .map_err(|error| lines.bad(what(error.kind()), LENGTHS))?;
        row.add(lines, &mut builder)
    })?;
    Ok(builder)
}

/// Hands every record to `take`. No format here has quotes, so a line is a record: it is bounded and has a number.
fn each<R: BufRead>(
    lines: &mut Lines<R>,
    remedy: &str,
    mut take: impl FnMut(&Lines<R>, &csv::StringRecord, &csv::StringRecord) -> Result<(), WorkloadError>,
) -> Result<(), WorkloadError> {
    let mut headers = None;
    let mut record = csv::StringRecord::new();
    while lines.advance()? {
        let text = std::str::from_utf8(&lines.text);
        let text = text.map_err(|error| lines.bad(error.to_string(), remedy))?;
        record.clear();
        record.extend(
            text.trim_start_matches('\u{feff}')
                .split(',')
                .map(str::trim),
        );
        let Some(headers) = &headers else {
            headers = Some(record.clone());
            continue;
        };
        if record.len() != headers.len() {
            let problem = format!("{} values for {} columns", record.len(), headers.len());
            return Err(lines.bad(problem, remedy));
        }
        take(lines, &record, headers)?;
    }
    Ok(())
}

/// Where it is, is told elsewhere.
fn what(kind: &csv::ErrorKind) -> String {
    match kind {
        csv::ErrorKind::Deserialize { err, .. } => match err.field() {
            Some(field) => format!("value {}: {}", field + 1, err.kind()),
            None => err.kind().to_string(),
        },
        other => format!("{other:?}"),
    }
}

/// Seconds since 1970.
fn timestamp(text: &str, format: &OwnedFormatItem) -> Option<f64> {
    let text = text.strip_suffix("+00:00").unwrap_or(text);
    let time = PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
    Some(time.unix_timestamp_nanos() as f64 / 1e9)
}
