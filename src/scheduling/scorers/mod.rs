//! Scorers, one file each.

pub(super) mod active_request;
pub(super) mod blocking_testing;
pub(super) mod context_length_aware;
pub(super) mod endpoint_attribute;
pub(super) mod gpu_cotenant;
pub(super) mod gpu_memory;
pub(super) mod header_label_affinity;
pub(super) mod kv_cache_utilization;
pub(super) mod latency;
pub(super) mod load_aware;
pub(super) mod lora_affinity;
pub(super) mod no_hit_lru;
pub(super) mod prefix_cache;
pub(super) mod queue;
pub(super) mod running_requests;
pub(super) mod session_affinity;
pub(super) mod speed;
pub(super) mod token_load;
pub(super) mod topology_affinity;
pub(super) mod work;

use super::NEUTRAL;

/// `(max − v) / (max − min)` over the candidates: the least gets 1, the most 0; all equal, all 1. Of the llm-d
/// picker's queue and running-requests scorers. An unknown `v` is the mean of the known ones plus our own requests in
/// flight, which nothing else would count; with none known it is our own in flight.
fn least_is_best(column: &[f32], in_flight: &[u32], candidates: &[u32], out: &mut [f32]) {
    let unknown = mean_known(column, candidates).unwrap_or(0.0);
    let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
    for (out, &candidate) in out.iter_mut().zip(candidates) {
        let at = candidate as usize;
        let mut value = column[at];
        if value.is_nan() {
            value = unknown + in_flight[at] as f32;
        }
        *out = value;
        // Not `f32::min`: there is no NaN here that it would have to look out for.
        min = if value < min { value } else { min };
        max = if value > max { value } else { max };
    }
    let out = &mut out[..candidates.len()];
    let range = max - min;
    if range > 0.0 {
        out.iter_mut().for_each(|out| *out = (max - *out) / range);
    } else {
        out.fill(1.0);
    }
}

/// The mean of the candidates' values that are known; `None` if none is.
fn mean_known(column: &[f32], candidates: &[u32]) -> Option<f32> {
    let (mut sum, mut known) = (0.0, 0u32);
    for &candidate in candidates {
        let value = column[candidate as usize];
        sum += if value.is_nan() { 0.0 } else { value };
        known += u32::from(!value.is_nan());
    }
    (known > 0).then(|| sum / known as f32)
}

/// What is NaN becomes the mean of the rest, which neither attracts nor repels; [`NEUTRAL`] if all is.
fn mean_for_unknown(scores: &mut [f32]) {
    let known = scores.iter().filter(|score| !score.is_nan());
    let (sum, count) = known.fold((0.0, 0u32), |(sum, count), score| (sum + score, count + 1));
    if count as usize == scores.len() {
        return;
    }
    let mean = if count > 0 {
        sum / count as f32
    } else {
        NEUTRAL
    };
    let unknown = scores.iter_mut().filter(|score| score.is_nan());
    unknown.for_each(|score| *score = mean);
}

#[cfg(test)]
mod tests {
    fn least_is_best(values: &[f32], in_flight: &[u32]) -> Vec<f32> {
        let candidates: Vec<u32> = (0..values.len() as u32).collect();
        let mut out = vec![f32::NAN; values.len()];
        super::least_is_best(values, in_flight, &candidates, &mut out);
        out
    }

    #[test]
    fn the_references_vectors() {
        for (values, expected) in [
            (vec![10.0, 5.0, 0.0], vec![0.0, 0.5, 1.0]),
            (vec![3.0, 3.0], vec![1.0, 1.0]),
            (vec![7.0], vec![1.0]),
        ] {
            let idle = vec![0; values.len()];
            assert_eq!(least_is_best(&values, &idle), expected, "{values:?}");
        }
    }

    #[test]
    fn an_unknown_value_is_the_mean_and_what_we_sent() {
        let nan = f32::NAN;
        for (values, in_flight, expected) in [
            (vec![10.0, nan, 0.0], vec![9, 0, 9], vec![0.0, 0.5, 1.0]),
            (vec![10.0, nan, 0.0], vec![0, 5, 0], vec![0.0, 0.0, 1.0]),
            // It may well be the worst.
            (vec![10.0, nan, 0.0], vec![0, 15, 0], vec![0.5, 0.0, 1.0]),
            (vec![4.0, nan], vec![0, 0], vec![1.0, 1.0]),
            (vec![4.0, nan], vec![0, 1], vec![1.0, 0.0]),
            (vec![nan, nan, nan], vec![2, 0, 4], vec![0.5, 1.0, 0.0]),
            (vec![nan, nan], vec![0, 0], vec![1.0, 1.0]),
        ] {
            let got = least_is_best(&values, &in_flight);
            assert_eq!(got, expected, "{values:?} {in_flight:?}");
        }
    }
}
