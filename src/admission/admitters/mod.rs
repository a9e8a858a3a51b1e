//! Admitters, one file each: what may turn away requests of negative priority before they are scheduled.

mod latency_slo;
pub(super) mod probabilistic;

use crate::config::{PluginUse, Problem};
use probabilistic::Probabilistic;

/// `None`: it turns nobody away.
pub(super) fn of(plugin: &PluginUse) -> Result<Option<Probabilistic>, Problem> {
    match plugin.entry.name {
        "probabilistic-admitter" => Probabilistic::of(plugin).map(Some),
        "latency-slo-admitter" => latency_slo::check(plugin).map(|()| None),
        name => {
            let message = format!("plugin type `{name}` cannot be made");
            Err(Problem::new(0, message))
        }
    }
}
