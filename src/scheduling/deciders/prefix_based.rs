//! `prefix-based-pd-decider`: requests of which the decode endpoint has too little in its cache.
//!
//! `nonCachedTokens` (0 = never) and `promptTokens` (0 = any length). Formula: tokens ≥ promptTokens and tokens − cached ≥
//! nonCachedTokens, where `tokens` is the prompt's (estimated) length and `cached` how much of it the chosen decode endpoint
//! has; what is not known is not cached. Source: the llm-d picker. For prefill: short or cached prompts are not worth a
//! transfer.

use super::super::{Context, Decider};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct PrefixBased {
    pub(in crate::scheduling) non_cached_tokens: u64,
    pub(in crate::scheduling) prompt_tokens: u64,
}

impl Decider for PrefixBased {
    fn disaggregate(&self, cx: &Context<'_>, decode: Option<u32>) -> bool {
        let tokens = u64::from(cx.request.input_tokens());
        let cached = decode.map_or(0, |decode| cx.prefix.tokens(decode));
        self.non_cached_tokens > 0
            && tokens >= self.prompt_tokens
            && tokens.saturating_sub(u64::from(cached)) >= self.non_cached_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Given, snapshot};
    use super::super::super::{PrefixView, RequestView};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn the_formula() {
        let snapshot = snapshot(2);
        for (non_cached_tokens, prompt_tokens, bytes, cached, expected) in [
            // 0 = never, however long.
            (0, 0, 4_000_000, &[][..], false),
            (16, 0, 63, &[], false),
            (16, 0, 64, &[], true),
            // The decode endpoint is the second.
            (16, 0, 64, &[16, 0], true),
            (16, 0, 64, &[0, 1], false),
            (16, 0, 4_000, &[0, 984], true),
            (16, 0, 4_000, &[0, 985], false),
            (16, 0, 4_000, &[0, 2_000], false),
            (16, 1_000, 3_999, &[], false),
            (16, 1_000, 4_000, &[], true),
        ] {
            let decider = PrefixBased {
                non_cached_tokens,
                prompt_tokens,
            };
            let request = RequestView {
                model: "",
                adapter: "",
                prompt_bytes: bytes,
                has_body: true,
                multimodal: false,
                headers: &Given(&[]),
            };
            let cx = Context {
                request: &request,
                snapshot: &snapshot,
                load: &LoadView::default(),
                prefix: PrefixView {
                    matched_tokens: cached,
                    ..Default::default()
                },
                failed: &[],
                earlier: None,
                now_ms: 1,
            };
            let got = decider.disaggregate(&cx, Some(1));
            assert_eq!(got, expected, "{decider:?} {bytes} {cached:?}");
        }
    }
}
