//! The page of a process: what it is, and what its pools count.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;

use super::super::process::ProcessMetrics;
use super::page::Page;
use super::{Metrics, PREFIX, STABILITY};

/// Whose metrics a page has.
#[derive(Debug)]
pub struct Exposition {
    /// Names that the clients of all languages have.
    common: Registry,
    /// What is the process's and no pool's.
    process: Mutex<Registry>,
    pools: Vec<(String, Arc<Metrics>)>,
}

// === impl Exposition ===

impl Exposition {
    /// The one pool of a process, whose series have no label more.
    pub fn of_one(metrics: Arc<Metrics>) -> Self {
        Self::of(vec![(String::new(), metrics)])
    }

    /// Several, by what their series have as the label `pool`: `<namespace>/<name>`, with nothing in it that would have to be
    /// escaped.
    pub fn of_pools(pools: impl IntoIterator<Item = (String, Arc<Metrics>)>) -> Self {
        let labelled = |(name, metrics)| (format!("pool=\"{name}\""), metrics);
        Self::of(pools.into_iter().map(labelled).collect())
    }

    fn of(pools: Vec<(String, Arc<Metrics>)>) -> Self {
        let mut common = Registry::default();
        common.register_collector(Box::new(ProcessMetrics));
        Self {
            common,
            process: Mutex::new(Registry::with_prefix(PREFIX)),
            pools,
        }
    }

    /// Adds what the process itself measures.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.process.lock());
    }

    /// All series as text of [`super::CONTENT_TYPE`].
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let (mut page, mut text) = (Page::default(), String::new());
        encode_registry(&mut text, &self.common)?;
        page.add(&text, "", "");
        text.clear();
        encode_registry(&mut text, &self.process.lock())?;
        page.add(&text, STABILITY, "");
        for (label, metrics) in &self.pools {
            metrics.add_to(&mut page, label)?;
        }
        Ok(page.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_told_apart_by_a_label() {
        let pools = ["n/a", "n/b"].map(|name| (name.to_owned(), Arc::new(Metrics::new())));
        pools[1].1.series("m", "m", "f", 0).failed("Unknown");
        let page = Exposition::of_pools(pools).encode().unwrap();
        assert_eq!(page.matches("# TYPE llm_d_epp_info ").count(), 1);
        for pool in ["n/a", "n/b"] {
            let info = format!("llm_d_epp_info{{pool=\"{pool}\",commit=");
            assert_eq!(page.matches(&info).count(), 1, "{page}");
        }
        let failed = "llm_d_epp_request_error_total{pool=\"n/b\",model_name=\"m\"";
        assert_eq!(page.matches("llm_d_epp_request_error_total{").count(), 1);
        assert!(page.contains(failed), "{page}");
        assert_eq!(page.matches("\nprocess_cpu_seconds_total ").count(), 1);
        let alone = Exposition::of_one(Arc::new(Metrics::new()));
        assert!(!alone.encode().unwrap().contains("pool="));
    }
}
