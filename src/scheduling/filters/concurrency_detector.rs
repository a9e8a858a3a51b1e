//! `concurrency-detector` in a profile: keeps the endpoints that have less of ours in flight than they may.
//!
//! An endpoint passes if its requests (mode `requests`), its tokens (`tokens`), or both (`hybrid`) are fewer than
//! `⌊maxConcurrency · (1 + headroom)⌋`, `⌊maxTokenConcurrency · (1 + headroom)⌋`. It does not fail open: a request that
//! finds every endpoint full is answered with 429. What is in flight is our own count, which no scrape delays; it ends
//! with the response, so the response must come by (full duplex, or an observer). Parameters: see [`crate::admission`].
//! Source: the llm-d picker. Use it as a hard limit where an engine must never get more than so many requests.

use super::super::{Context, Filter};
use crate::config::params::{ConcurrencyDetectorParams, ConcurrencyMode};
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct ConcurrencyDetector {
    mode: ConcurrencyMode,
    requests: u64,
    tokens: u64,
}

// === impl ConcurrencyDetector ===

impl ConcurrencyDetector {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params = ConcurrencyDetectorParams::of(&plugin.parameters)?;
        // A float becomes the nearest integer there is.
        let limit = |ideal: i64| (ideal as f64 * (1.0 + params.headroom)) as u64;
        Ok(Self {
            mode: params.concurrency_mode,
            requests: limit(params.max_concurrency),
            tokens: limit(params.max_token_concurrency),
        })
    }
}

impl Filter for ConcurrencyDetector {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        candidates.retain(|&candidate| {
            let at = candidate as usize;
            let requests = u64::from(cx.load.in_flight[at]) < self.requests;
            let tokens = cx.load.tokens[at] < self.tokens;
            match self.mode {
                ConcurrencyMode::Requests => requests,
                ConcurrencyMode::Tokens => tokens,
                ConcurrencyMode::Hybrid => requests && tokens,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{kept_for, snapshot};
    use super::*;
    use crate::pool::LoadView;

    fn made(parameters: &str) -> Result<ConcurrencyDetector, String> {
        let text = format!(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{{type: concurrency-detector, parameters: {parameters}}}]\nflowControl: {{saturationDetector: {{pluginRef: concurrency-detector}}}}\n"
        );
        let config = crate::config::load(&text, Default::default()).unwrap();
        ConcurrencyDetector::of(&config.detector).map_err(|problem| problem.message)
    }

    #[test]
    fn the_limit_is_a_limit() {
        let load = LoadView {
            in_flight: vec![9, 10, 2, 0],
            tokens: vec![0, 10, 100, 121],
            ..Default::default()
        };
        for (parameters, expected) in [
            ("{maxConcurrency: 10}", vec![0, 2, 3]),
            ("{maxConcurrency: 10, headroom: 0.19}", vec![0, 1, 2, 3]),
            ("{maxConcurrency: 10, headroom: 0.09}", vec![0, 2, 3]),
            ("{maxConcurrency: 1}", vec![3]),
            (
                "{concurrencyMode: tokens, maxTokenConcurrency: 100, headroom: 0.2}",
                vec![0, 1, 2],
            ),
            (
                "{concurrencyMode: hybrid, maxConcurrency: 10, maxTokenConcurrency: 100}",
                vec![0],
            ),
            (
                "{concurrencyMode: hybrid, maxConcurrency: 1, maxTokenConcurrency: 1}",
                vec![],
            ),
        ] {
            let filter = made(parameters).unwrap();
            let got = kept_for(&filter, &snapshot(4), &load, 0, &[]);
            assert_eq!(got, expected, "{parameters}");
        }
    }

    #[test]
    fn parameters_are_checked() {
        for (parameters, expected) in [
            (
                "{maxConcurrency: 0}",
                "parameters.maxConcurrency: 0 is not above 0",
            ),
            (
                "{maxTokenConcurrency: -1}",
                "parameters.maxTokenConcurrency: -1 is not above 0",
            ),
            ("{headroom: -1}", "parameters.headroom: -1 is negative"),
            (
                "{concurrencyMode: both}",
                "unknown variant `both`, expected one of `requests`, `tokens`, `hybrid`",
            ),
        ] {
            let got = made(parameters).unwrap_err();
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
