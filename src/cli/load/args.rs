//! The flags of `load`.

use std::time::Duration;

use clap::value_parser;
use http::uri::Authority;

use crate::cli::units::{bytes, duration};

/// The script holds a whole request.
const MOST_PROMPT: usize = 256 << 20;
const MOST_RATE: f64 = 1e6;

/// Arguments of `load`.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// The picker: host:port.
    #[arg(long, value_parser = address, default_value = "127.0.0.1:9002")]
    pub(super) address: Authority,
    /// Connect with TLS; the certificate is not verified.
    #[arg(long)]
    pub(super) tls: bool,
    /// Requests a second; 0 = as many as --concurrency gives.
    #[arg(long, value_parser = rate, allow_negative_numbers = true, default_value = "0")]
    pub(super) rate: f64,
    /// Requests under way at a time, if there is no rate.
    #[arg(long, value_parser = value_parser!(u32).range(1..=100_000), allow_negative_numbers = true, default_value_t = 32)]
    pub(super) concurrency: u32,
    /// For how long to measure.
    #[arg(long, value_parser = positive_duration, default_value = "10s")]
    pub(super) duration: Duration,
    /// For how long to send before that.
    #[arg(long, value_parser = duration, default_value = "2s")]
    pub(super) warmup: Duration,
    /// HTTP/2 connections.
    #[arg(long, value_parser = value_parser!(u16).range(1..=1000), allow_negative_numbers = true, default_value_t = 2)]
    pub(super) connections: u16,
    /// Bytes of prompt in a request; 400k and 1Mi are understood.
    #[arg(long, value_parser = prompt_bytes, allow_negative_numbers = true, default_value = "200")]
    pub(super) prompt_bytes: usize,
    /// Different prompts, sent in turns; they have nothing in common that a cache could hold.
    #[arg(long, value_parser = value_parser!(u32).range(1..=99_999_999), allow_negative_numbers = true, default_value_t = 1)]
    pub(super) prompts: u32,
    /// How bodies are sent.
    #[arg(long, value_enum, default_value_t = BodyMode::FullDuplex)]
    pub(super) body_mode: BodyMode,
    /// Chunks of a streamed response; 0 = the stream ends with the request, as in the decision-only profile.
    #[arg(long, value_parser = value_parser!(u32).range(0..=1_000_000), allow_negative_numbers = true, default_value_t = 0)]
    pub(super) response_chunks: u32,
    /// Time between two of them, to the millisecond; 0 = as fast as the picker takes them.
    #[arg(long, value_parser = duration, default_value = "10ms")]
    pub(super) chunk_interval: Duration,
    /// The model asked for.
    #[arg(long, default_value = "meta-llama/Llama-3.1-8B-Instruct")]
    pub(super) model: String,
    /// The picker's process: its CPU time and memory are reported too.
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// Print one JSON object instead of a table.
    ///
    /// What is not known is null. Its keys:
    ///   duration_seconds    of the measured time
    ///   offered_rate        --rate; null without
    ///   rate                completed requests a second
    ///   completed           requests that ended well within the measured time, whenever they were due
    ///   due                 requests that were due within it: those of latency_ms, and errors, and not_sent
    ///   errors              of those due, an object: what went wrong, how often
    ///   not_sent            of those due: too many others were under way
    ///   latency_ms          of those due, whenever they ended: from due to the destination; p50, p90, p99, p99.9, max
    ///   client_lag_ms       of those due, the part that is the client's own: from due to the first message handed to
    ///                       the transport; the same quantiles
    ///   cpu_seconds         of the process --pid, within the measured time
    ///   cpu_ms_per_request  cpu_seconds over completed
    ///   rss_bytes           of the process --pid, at the end of the measured time
    #[arg(long, verbatim_doc_comment)]
    pub(super) json: bool,
}

/// How request bodies are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BodyMode {
    /// FULL_DUPLEX_STREAMED
    FullDuplex,
    /// BUFFERED
    Buffered,
    /// STREAMED
    Streamed,
}

fn address(text: &str) -> Result<Authority, String> {
    text.parse::<Authority>()
        .ok()
        .filter(|address| !address.host().is_empty() && address.port_u16().is_some())
        .ok_or_else(|| "write host:port, or [address]:port for IPv6".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|rate| (0.0..=MOST_RATE).contains(rate))
        .ok_or_else(|| format!("not in 0..={MOST_RATE} a second"))
}

fn prompt_bytes(text: &str) -> Result<usize, String> {
    match bytes(text)? {
        0..=MOST_PROMPT => bytes(text),
        _ => Err("a prompt has at most 256Mi".to_owned()),
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|duration| {
        if duration.is_zero() {
            Err("nothing can be measured in no time".to_owned())
        } else {
            Ok(duration)
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: LoadArgs,
    }

    fn parse(flag: &str, value: &str) -> Result<LoadArgs, String> {
        Line::try_parse_from(["load", flag, value])
            .map(|line| line.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_range() {
        for (flag, value, reason) in [
            ("--rate", "-1", "not in 0..=1000000 a second"),
            ("--rate", "NaN", "not in 0..=1000000 a second"),
            ("--rate", "inf", "not in 0..=1000000 a second"),
            ("--prompts", "0", "0 is not in 1..=99999999"),
            ("--rate", "x", "not in 0..=1000000 a second"),
            ("--concurrency", "0", "0 is not in 1..=100000"),
            ("--connections", "0", "0 is not in 1..=1000"),
            ("--connections", "-1", "-1 is not in 1..=1000"),
            ("--response-chunks", "-1", "-1 is not in 0..=1000000"),
            ("--response-chunks", "1000001", "is not in 0..=1000000"),
            ("--prompt-bytes", "-1", "`-1` is not a quantity"),
            ("--prompt-bytes", "257Mi", "a prompt has at most 256Mi"),
            ("--duration", "0s", "nothing can be measured in no time"),
            ("--address", "picker", "write host:port"),
            ("--address", ":9002", "write host:port"),
            ("--address", "a:b", "write host:port"),
        ] {
            let error = parse(flag, value).unwrap_err();
            assert!(error.contains(flag) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn bounds_are_in_range() {
        assert_eq!(parse("--rate", "0").unwrap().rate, 0.0);
        assert_eq!(parse("--rate", "0.5").unwrap().rate, 0.5);
        assert_eq!(parse("--prompt-bytes", "0").unwrap().prompt_bytes, 0);
        let prompt = parse("--prompt-bytes", "400k").unwrap().prompt_bytes;
        assert_eq!(prompt, 400_000);
        for address in ["[::1]:9002", "picker.example:9002"] {
            assert_eq!(parse("--address", address).unwrap().address, address);
        }
    }
}
