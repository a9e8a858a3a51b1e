//! Numbers of endpoints that a configuration names: `customMetrics` of `core-metrics-extractor`, and what `dcgm-extractor`
//! tells of GPUs.

use super::Context;
use crate::config::{PickerConfig, PluginUse, Problem};
use crate::pool::slab::attribute_key;

/// What produces attributes, if a plugin does not say which.
const EXTRACTOR: &str = "core-metrics-extractor";

/// What it gives where GPUs are read of a dcgm-exporter.
const DCGM_EXTRACTOR: &str = "dcgm-extractor";
/// The greatest utilisation of an endpoint's GPUs, 0 to 1: all that it gives, as in the reference.
const GPU_UTILIZATION: &str = "GPUUtilization";

/// One attribute, as a plugin reads it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute {
    /// On a metrics page, by its key.
    Scraped(u64),
    /// On a page of an exporter, which is believed for so many milliseconds.
    GpuUtilization(u64),
}

// === impl Attribute ===

impl Attribute {
    /// `name` as the parameter `field`, produced by `producer`.
    pub(super) fn of(
        plugin: &PluginUse,
        field: &str,
        name: &str,
        producer: &str,
        config: &PickerConfig,
    ) -> Result<Self, Problem> {
        if name.is_empty() {
            return Err(plugin.parameters.field_problem(field, "is empty"));
        }
        let problem = |field, message: &str| Err(plugin.parameters.field_problem(field, message));
        let dcgm = config.sources.dcgm.as_ref();
        let is_dcgm = dcgm.is_some_and(|dcgm| dcgm.extractor_parameters.plugin() == producer);
        if is_dcgm || producer == DCGM_EXTRACTOR {
            let Some(dcgm) = dcgm else {
                let message = format!(
                    "`{producer}` gives nothing: dataLayer.sources lists no dcgm-data-source"
                );
                return problem("producer", &message);
            };
            if name != GPU_UTILIZATION {
                let message =
                    format!("`{name}` is not what {DCGM_EXTRACTOR} gives; write {GPU_UTILIZATION}");
                return problem(field, &message);
            }
            return Ok(Self::GpuUtilization(
                dcgm.source.staleness().as_millis() as u64
            ));
        }
        let sources = config.sources.metrics.as_ref();
        let extractor = sources.map(|sources| sources.extractor_parameters.plugin());
        if !(producer.is_empty() || producer == EXTRACTOR || extractor == Some(producer)) {
            let message = format!(
                "`{producer}` gives no attributes in this version; {EXTRACTOR} does, by its customMetrics"
            );
            return problem("producer", &message);
        }
        Ok(Self::Scraped(attribute_key(name)))
    }

    /// Its value at a candidate; `None` if the last page did not tell it, or is too old.
    pub(super) fn at(self, cx: &Context<'_>, candidate: u32) -> Option<f32> {
        let (segment, i) = cx.snapshot.cell(candidate);
        match self {
            Self::Scraped(_) if !cx.load.fresh[candidate as usize] => None,
            Self::Scraped(key) => segment.attributes[i].load().as_ref()?.get(key),
            Self::GpuUtilization(most_ms) => segment.gpu_cells.utilization(i, cx.now_ms, most_ms),
        }
    }
}
