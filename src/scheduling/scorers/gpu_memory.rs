//! `gpu-memory-scorer` (ours): who has less GPU memory left than is enough gets less.
//!
//! ```text
//! pre-allocates   room = KV blocks · tokens a block · bytes a token, at most what its GPUs hold of it
//!                 headroom = (1 − KV cache use) · room
//! does not        headroom = free memory less the growth of foreign processes (pool/gpu/memory.rs)
//!                 room = headroom + what its GPUs hold of it
//! score           min(1, headroom / (enough · the greatest room of the candidates))
//! ```
//!
//! Bytes, so that a slice of 10 GB and a board of 80 can be compared: as long as the large ones have enough, a small one
//! is worth what it has beside that. More than `enough` (0.25) is no better: among equals whoever is spared because it is slow
//! has the emptiest cache, and would be sent all of it back; and where all are full, what little is left is no reason to
//! spare anybody (simulation: docs/simulation.md).
//!
//! An engine that pre-allocates (vLLM, SGLang, TensorRT-LLM) tells its KV cache's use: what NVML says of its GPU is flat,
//! and what is free is inside of what it holds. Bytes a token are `kvBytesPerToken` (2 · layers · KV heads · head size ·
//! bytes of a number, over all GPUs; 131072 for Llama-3.1-8B in bf16), or without it learned: the least of what any
//! candidate's GPUs hold of it by the tokens that its cache can hold. That is too much by the weights, and least so where the
//! GPU is largest; as it is one number for all, engines of one model are compared exactly, a slice of 10 GB with a board of
//! 80. Set it where models differ, or where some pre-allocate and some do not.
//!
//! What is not known, or older than `maxAge` (10s), is the mean of what is. Where nothing is known, nobody is preferred: so it
//! is in the default profile. Parameters: `enough`, `kvBytesPerToken`, `maxAge`. Source: our own.

use serde::{Deserialize, Serialize};

use super::super::{Context, NEUTRAL, Scorer, age_ms};
use super::mean_for_unknown;
use crate::config::{PluginUse, Problem};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct GpuMemory {
    /// Of the greatest room.
    enough: f32,
    /// As it was given.
    bytes_per_token: Option<f64>,
    max_age_ms: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    enough: f32,
    kv_bytes_per_token: Option<f64>,
    max_age: String,
}

/// What is known of a candidate.
struct Known {
    /// What its GPUs hold of it, and what it can still take; in bytes.
    held: Option<f64>,
    free: Option<f64>,
    /// Tokens that its KV cache can hold; 0 = not known.
    tokens: f64,
    /// NaN = not known.
    kv_usage: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            enough: 0.25,
            kv_bytes_per_token: None,
            max_age: "10s".to_owned(),
        }
    }
}

// === impl GpuMemory ===

impl GpuMemory {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        if !(0.01..=1.0).contains(&params.enough) {
            let message = "is not a number from 0.01 to 1";
            return Err(plugin.parameters.field_problem("enough", message));
        }
        let bytes = params.kv_bytes_per_token;
        if bytes.is_some_and(|bytes| !(1.0..=1e9).contains(&bytes)) {
            let message = "is not a number of bytes from 1 to 1000000000";
            return Err(plugin.parameters.field_problem("kvBytesPerToken", message));
        }
        Ok(Self {
            enough: params.enough,
            bytes_per_token: bytes,
            max_age_ms: age_ms(plugin, "maxAge", &params.max_age)?,
        })
    }

    fn known(&self, cx: &Context<'_>, candidate: u32) -> Known {
        let (s, i) = cx.snapshot.cell(candidate);
        let memory = s.gpu_cells.memory(i, cx.now_ms, self.max_age_ms);
        let kv_usage = cx.load.kv_usage.get(candidate as usize);
        Known {
            held: memory.map(|memory| memory.held as f64),
            free: memory.map(|memory| memory.free as f64),
            tokens: s.kv_tokens(i) as f64,
            kv_usage: kv_usage.map_or(f64::NAN, |&usage| usage.into()),
        }
    }

    /// What was given, or what is learned of the candidates. NaN: nothing is known.
    fn bytes_per_token(&self, cx: &Context<'_>, candidates: &[u32]) -> f64 {
        if let Some(bytes) = self.bytes_per_token {
            return bytes;
        }
        let known = candidates
            .iter()
            .map(|&candidate| self.known(cx, candidate));
        let bytes = known.filter_map(|known| Some(known.held? / known.tokens));
        // One whose GPUs hold nothing of it has not begun, or is looked for on the wrong ones.
        bytes
            .filter(|bytes| bytes.is_finite() && *bytes > 0.0)
            .fold(f64::NAN, f64::min)
    }

    /// Headroom and room, in bytes; NaN: not known.
    fn headroom(&self, known: &Known, bytes_per_token: f64) -> (f64, f64) {
        // It may be that it has not told its blocks yet: an engine that tells the use of a cache has one.
        let pre_allocates = known.tokens > 0.0 || !known.kv_usage.is_nan();
        if !pre_allocates {
            let free = known.free.unwrap_or(f64::NAN);
            return (free, free + known.held.unwrap_or(0.0));
        }
        if known.tokens == 0.0 || (known.held.is_none() && self.bytes_per_token.is_none()) {
            return (f64::NAN, f64::NAN);
        }
        let cache = known.tokens * bytes_per_token;
        let cache = known.held.map_or(cache, |held| cache.min(held));
        (cache * (1.0 - known.kv_usage), cache)
    }
}

impl Scorer for GpuMemory {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let out = &mut out[..candidates.len()];
        let nothing = |&candidate: &u32| {
            let (s, i) = cx.snapshot.cell(candidate);
            s.gpu_cells.memory_age(i, cx.now_ms).is_none()
        };
        if self.bytes_per_token.is_none() && candidates.iter().all(nothing) {
            return out.fill(NEUTRAL);
        }
        let bytes_per_token = self.bytes_per_token(cx, candidates);
        let mut most = 0.0_f64;
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let (headroom, room) = self.headroom(&self.known(cx, candidate), bytes_per_token);
            *out = headroom as f32;
            most = most.max(room);
        }
        let enough = most as f32 * self.enough;
        if enough > 0.0 {
            // What is not known stays so.
            let beside = |out: f32| if out > enough { 1.0 } else { out / enough };
            out.iter_mut().for_each(|out| *out = beside(*out));
        }
        mean_for_unknown(out);
    }
}

#[cfg(test)]
mod tests;
