//! Files of traffic, by format.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::build::{Builder, Full};
use super::{Adapters, Part, Trace, WorkloadError};

mod inference_perf;
mod json;
mod recorded;
mod table;
#[cfg(test)]
mod tests;

/// Bytes of one line, and of a whole YAML file: 100,000 prompt tokens in blocks of 16 are 50 KB.
const LONGEST_LINE: u64 = 16 << 20;
/// Bytes in which a file shows its format.
const PEEK: usize = 64 << 10;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Mooncake's JSON lines: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of blocks of 512 tokens.
    Mooncake,
    /// Azure's CSV: `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`. No prefixes.
    Azure,
    /// CSV or JSON lines with `t` (s), `in` and `out`, and if they are there `session`, `think` (s) and `adapter`.
    Lengths,
    /// The YAML of an inference-perf load test of shape `shared_prefix`.
    InferencePerf,
    /// JSON lines of a measured run: `arrival_time`, `input_toks`, `output_toks`, and when its tokens came.
    Measured,
    /// JSON lines with `arrival_ms`, `input_length`, `output_length` and `block16_ids` of blocks of 16 tokens.
    Blocks16,
    /// What `pointsman serve --record` wrote.
    Recorded,
}

/// How to read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// `None`: told from the file's beginning.
    pub format: Option<Format>,
    /// Of what is drawn: times within the step of a trace that was rounded, Poisson arrivals, the order of prompts, adapters.
    pub seed: u64,
    /// Of a measured run: the file with the blocks of its prompts.
    pub blocks: Option<PathBuf>,
    /// What of it is taken.
    pub part: Part,
    /// Adapters for a trace that names none.
    pub adapters: Option<Adapters>,
}

/// The lines of a file.
struct Lines<R> {
    file: String,
    reader: R,
    text: Vec<u8>,
    number: u64,
}

/// Reads the trace at `path`.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Trace, WorkloadError> {
    let file = path.display().to_string();
    let mut reader = open(path)?;
    let head = reader
        .fill_buf()
        .map_err(|source| io_error(&file, source))?;
    let format = match options.format {
        Some(format) => format,
        None => detect(head).ok_or_else(|| WorkloadError::UnknownFormat { file: file.clone() })?,
    };
    let blocks = match &options.blocks {
        Some(blocks) if format == Format::Measured => {
            Some(Lines::new(blocks.display().to_string(), open(blocks)?))
        }
        Some(_) => {
            return Err(WorkloadError::Scale(format!(
                "{file}: only a measured run takes its blocks from another file; leave that out"
            )));
        }
        None => None,
    };
    let trace = read_from(Lines::new(file, reader), blocks, format, options.seed)?;
    let trace = match options.adapters {
        Some(adapters) => trace.with_adapters(adapters, options.seed)?,
        None => trace,
    };
    trace.part(options.part)
}

fn read_from<R: BufRead>(
    mut lines: Lines<R>,
    blocks: Option<Lines<R>>,
    format: Format,
    seed: u64,
) -> Result<Trace, WorkloadError> {
    let builder = match format {
        Format::Mooncake => json::mooncake(&mut lines, seed)?,
        Format::Blocks16 => json::blocks16(&mut lines)?,
        Format::Measured => json::measured(&mut lines, blocks)?,
        Format::Recorded => recorded::recorded(&mut lines)?,
        Format::InferencePerf => inference_perf::inference_perf(&mut lines, seed)?,
        Format::Azure => table::azure(&mut lines)?,
        Format::Lengths => match lines.first()? {
            Some(b'{') => json::lengths(&mut lines)?,
            _ => table::lengths(&mut lines)?,
        },
    };
    let file = lines.file;
    builder.finish().ok_or(WorkloadError::Empty { file })
}

fn open(path: &Path) -> Result<BufReader<File>, WorkloadError> {
    let opened = File::open(path);
    let file = opened.map_err(|source| io_error(&path.display().to_string(), source))?;
    Ok(BufReader::with_capacity(PEEK, file))
}

fn io_error(file: &str, source: std::io::Error) -> WorkloadError {
    WorkloadError::Io {
        file: file.to_owned(),
        source,
    }
}

/// The format of a file that begins with `head`.
fn detect(head: &[u8]) -> Option<Format> {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let line = text.lines().next()?;
    let has = |keys: &[&str]| keys.iter().all(|key| line.contains(key));
    if line.starts_with('{') {
        let quoted = |keys: &[&str]| keys.iter().all(|key| line.contains(&format!("\"{key}\"")));
        return [
            (Format::Recorded, &["pointsman_arrivals"][..]),
            (Format::Blocks16, &["arrival_ms", "input_length"]),
            (Format::Measured, &["input_toks", "arrival_time"]),
            (Format::Mooncake, &["timestamp", "input_length"]),
            (Format::Lengths, &["t", "in", "out"]),
        ]
        .into_iter()
        .find_map(|(format, keys)| quoted(keys).then_some(format));
    }
    if has(&["TIMESTAMP", "ContextTokens"]) {
        return Some(Format::Azure);
    }
    let columns: Vec<_> = line.split(',').map(str::trim).collect();
    if ["t", "in", "out"].iter().all(|name| columns.contains(name)) {
        return Some(Format::Lengths);
    }
    let top = |key| text.lines().any(|line| line.starts_with(key));
    (top("load:") && top("data:")).then_some(Format::InferencePerf)
}

// === impl Lines ===

impl<R: BufRead> Lines<R> {
    fn new(file: String, reader: R) -> Self {
        Self {
            file,
            reader,
            text: Vec::new(),
            number: 0,
        }
    }

    /// The first byte that is not white space.
    fn first(&mut self) -> Result<Option<u8>, WorkloadError> {
        let file = &self.file;
        let head = self.reader.fill_buf();
        let head = head.map_err(|source| io_error(file, source))?;
        let head = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
        Ok(head
            .iter()
            .find(|byte| !byte.is_ascii_whitespace())
            .copied())
    }

    /// Goes to the next line that is not blank; `false`: there is none.
    fn advance(&mut self) -> Result<bool, WorkloadError> {
        use std::io::Read as _;
        loop {
            self.text.clear();
            let mut line = (&mut self.reader).take(LONGEST_LINE);
            let read = line.read_until(b'\n', &mut self.text);
            let read = read.map_err(|source| io_error(&self.file, source))?;
            self.number += 1;
            if read == 0 {
                return Ok(false);
            }
            if read as u64 == LONGEST_LINE {
                return Err(self.bad("the line is longer than 16 MiB", "cut it"));
            }
            if !self.text.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn bad(&self, problem: impl Into<String>, remedy: impl Into<String>) -> WorkloadError {
        WorkloadError::Bad {
            file: self.file.clone(),
            line: self.number,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    fn full(&self, what: Full) -> WorkloadError {
        WorkloadError::TooLarge {
            file: self.file.clone(),
            what,
        }
    }

    /// Reads the line as JSON.
    fn json<'a, T: serde::Deserialize<'a>>(&'a self, remedy: &str) -> Result<T, WorkloadError> {
        let text = self
            .text
            .strip_prefix(b"\xEF\xBB\xBF")
            .unwrap_or(&self.text);
        let mut json = serde_json::Deserializer::from_slice(text);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let message = error.inner().to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            match path.as_str() {
                "." => self.bad(message, remedy),
                path => self.bad(format!("`{path}`: {message}"), remedy),
            }
        })?;
        match json.end() {
            Ok(()) => Ok(value),
            Err(_) => Err(self.bad("there is something after the object", remedy)),
        }
    }

    /// A time must be a number that goes on counting.
    fn time(&self, field: &str, seconds: f64) -> Result<f64, WorkloadError> {
        // A year 33,658 in seconds is enough for every clock, and leaves microseconds exact enough.
        if seconds.is_finite() && (0.0..1e12).contains(&seconds) {
            return Ok(seconds);
        }
        Err(self.bad(
            format!("`{field}` is not a time"),
            "write a number of 0 or more",
        ))
    }
}

impl<R: BufRead> Lines<R> {
    /// Adds a row of the line.
    fn add(
        &self,
        builder: &mut Builder,
        row: &super::build::NewRow<'_>,
    ) -> Result<(), WorkloadError> {
        builder.row(row).map_err(|what| self.full(what))
    }
}

/// Reads `text` as if it were the file `t`.
#[cfg(test)]
pub(super) fn read_text(
    text: &str,
    blocks: Option<&str>,
    format: Option<Format>,
    seed: u64,
) -> Result<Trace, WorkloadError> {
    let file = || "t".to_owned();
    let format = format.or_else(|| detect(text.as_bytes()));
    let format = format.ok_or_else(|| WorkloadError::UnknownFormat { file: file() })?;
    let blocks = blocks.map(|text| Lines::new("b".to_owned(), text.as_bytes()));
    read_from(Lines::new(file(), text.as_bytes()), blocks, format, seed)
}
