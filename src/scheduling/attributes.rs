//! Numbers of endpoints that a configuration names: `customMetrics` of `core-metrics-extractor`.

use super::Context;
use crate::config::{PickerConfig, PluginUse, Problem};
use crate::pool::slab::attribute_key;

/// What produces attributes, if a plugin does not say which.
const EXTRACTOR: &str = "core-metrics-extractor";

/// One attribute, as a plugin reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute(u64);

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
        let sources = config.sources.metrics.as_ref();
        let extractor = sources.map(|sources| sources.extractor_parameters.plugin());
        if !(producer.is_empty() || producer == EXTRACTOR || extractor == Some(producer)) {
            let message = format!(
                "`{producer}` gives no attributes in this version; {EXTRACTOR} does, by its customMetrics"
            );
            return Err(plugin.parameters.field_problem("producer", &message));
        }
        Ok(Self(attribute_key(name)))
    }

    /// Its value at a candidate; `None` if the last scrape did not tell it, or is too old.
    pub(super) fn at(self, cx: &Context<'_>, candidate: u32) -> Option<f32> {
        if !cx.load.fresh[candidate as usize] {
            return None;
        }
        let (segment, i) = cx.snapshot.cell(candidate);
        segment.attributes[i].load().as_ref()?.get(self.0)
    }
}
