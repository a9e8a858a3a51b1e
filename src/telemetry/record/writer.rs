//! The file: lines in, bytes out, and never more than allowed.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};

use serde::Serialize;

use super::format::{ArrivalLine, EndLine, HeaderLine, VERSION};
use super::numbers::Numbers;
use super::{BLOCK_TOKENS, Entry};

/// Blocks whose numbers are remembered: 64 million tokens' worth, the caches of more than a hundred engines, in some 30 to 60 MB.
pub(super) const REMEMBERED: usize = 1 << 20;
/// Names of models, and of adapters.
const NAMES: usize = 4_096;
/// Names of sessions, in 2 to 4 MB.
const SESSIONS: usize = 1 << 16;
/// For the last line.
const RESERVE: u64 = 128;
const BUFFER: usize = 256 << 10;

/// Writes a capture.
#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    left: u64,
    blocks: Numbers,
    models: Numbers,
    adapters: Numbers,
    sessions: Numbers,
    line: Vec<u8>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(file: File, most: u64, started_ms: u64) -> io::Result<Self> {
        let mut writer = Self {
            file: BufWriter::with_capacity(BUFFER, file),
            left: most.saturating_sub(RESERVE),
            blocks: Numbers::new(REMEMBERED),
            models: Numbers::new(NAMES),
            adapters: Numbers::new(NAMES),
            sessions: Numbers::new(SESSIONS),
            line: Vec::new(),
        };
        writer.put(&HeaderLine {
            pointsman_arrivals: VERSION,
            block_tokens: BLOCK_TOKENS as u32,
            started_ms,
        })?;
        writer.flush()?;
        Ok(writer)
    }

    /// `false`: it does not fit any more.
    pub(super) fn entry(&mut self, entry: Entry) -> io::Result<bool> {
        match entry {
            Entry::Arrival {
                number,
                seconds,
                tokens,
                chain,
                max_tokens,
                model,
                adapter,
                session,
                refused,
            } => {
                let Some(blocks) = runs(&mut self.blocks, &chain) else {
                    return Ok(false);
                };
                let line = ArrivalLine {
                    n: number,
                    t: micros(seconds),
                    r#in: tokens,
                    blocks,
                    max: max_tokens,
                    model: name(&mut self.models, model),
                    adapter: name(&mut self.adapters, adapter),
                    session: name(&mut self.sessions, session),
                    refused,
                };
                self.put(&line)
            }
            Entry::Answer(mut answer) => {
                answer.ttft = answer.ttft.map(micros);
                answer.e2e = micros(answer.e2e);
                self.put(&answer)
            }
            Entry::Close => Ok(true),
        }
    }

    pub(super) fn end(&mut self, why: &str, dropped: u64) -> io::Result<()> {
        self.left += RESERVE;
        self.put(&EndLine {
            end: why.to_owned(),
            dropped,
        })?;
        self.flush()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn put(&mut self, line: &impl Serialize) -> io::Result<bool> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.line.push(b'\n');
        let length = self.line.len() as u64;
        if length > self.left {
            return Ok(false);
        }
        self.left -= length;
        self.file.write_all(&self.line)?;
        Ok(true)
    }
}

fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

/// `None`: there are no more numbers.
fn runs(numbers: &mut Numbers, chain: &[u64]) -> Option<Vec<(u32, u32)>> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &hash in chain {
        let number = numbers.of(hash)?;
        match runs.last_mut() {
            Some((first, length)) if *first + *length == number => *length += 1,
            _ => runs.push((number, 1)),
        }
    }
    Some(runs)
}

/// From 1; 0: none, or no number is left.
fn name<N: TryFrom<u64> + Default>(numbers: &mut Numbers, hash: u64) -> N {
    let number = match hash {
        0 => None,
        hash => numbers.of(hash),
    };
    let number = number.and_then(|number| N::try_from(u64::from(number) + 1).ok());
    number.unwrap_or_default()
}
