//! Where endpoints and their load come from: `dataLayer`.

use super::super::catalog::Kind;
use super::super::document::{DataLayer, Document};
use super::super::params::{MetricsSourceParams, Parameters};
use super::super::units;
use super::{Discovery, Resolver, Sources};

// === impl Resolver ===

impl Resolver {
    pub(super) fn data_layer(
        &mut self,
        document: &Document,
    ) -> (Option<Sources>, Option<Discovery>) {
        let layer = document.data_layer.as_ref();
        if let Some(layer) = layer {
            self.between_replicas(layer);
        }
        let sources = self.sources(document);
        let discovery = layer
            .and_then(|l| l.discovery.as_ref())
            .and_then(|reference| {
                let field = "dataLayer.discovery.pluginRef";
                let parameters = self
                    .find(&reference.plugin_ref, field, &[Kind::Discovery])?
                    .parameters
                    .clone();
                self.read(parameters.read()).map(Discovery::File)
            });
        (sources, discovery)
    }

    fn sources(&mut self, document: &Document) -> Option<Sources> {
        let layer = document.data_layer.as_ref();
        let mut source = None;
        let mut extractor = None;
        for listed in layer.map(|l| l.sources.as_slice()).unwrap_or_default() {
            let field = "dataLayer.sources.pluginRef";
            let found = self.find(&listed.plugin_ref, field, &[Kind::Source]);
            source = found.map(|declared| declared.parameters.clone()).or(source);
            for reference in &listed.extractors {
                let field = "dataLayer.sources.extractors.pluginRef";
                let found = self.find(&reference.plugin_ref, field, &[Kind::Extractor]);
                extractor = found
                    .map(|declared| declared.parameters.clone())
                    .or(extractor);
            }
        }
        let inject = layer.and_then(|l| l.inject_defaults).unwrap_or(true);
        if source.is_none() && !inject {
            return None;
        }
        // Declared, but not listed: still the parameters that the user means.
        let declared = |resolver: &mut Self, kind| {
            let at = resolver.of_kind(kind).first().copied()?;
            resolver.declared[at].used = true;
            Some(resolver.declared[at].parameters.clone())
        };
        if source.is_none() {
            self.injected.push(
                "metrics-data-source with core-metrics-extractor: dataLayer.sources is empty"
                    .to_owned(),
            );
        }
        let source = source.or_else(|| declared(self, Kind::Source));
        let extractor = extractor.or_else(|| declared(self, Kind::Extractor));
        let missing = |kind: &str| Parameters::new(kind, None, 0);
        let source = source.unwrap_or_else(|| missing("metrics-data-source"));
        let extractor = extractor.unwrap_or_else(|| missing("core-metrics-extractor"));
        let (read, metrics) = (MetricsSourceParams::of(&source), extractor.read());
        let (read, metrics) = (self.read(read), self.read(metrics));
        Some(Sources {
            source: read?,
            source_parameters: source,
            extractor: metrics?,
            extractor_parameters: extractor,
        })
    }

    fn between_replicas(&mut self, layer: &DataLayer) {
        if let Some(peers) = &layer.peer_discovery {
            let field = "dataLayer.peerDiscovery.pluginRef";
            self.not_built(&peers.plugin_ref, field, "peer discovery");
        }
        if let Some(syncer) = &layer.cross_replica_syncer_plugin_ref {
            let field = "dataLayer.crossReplicaSyncerPluginRef";
            self.not_built(syncer, field, "cross-replica syncer");
        }
        let interval = layer.cross_replica_sync_interval.as_ref();
        let field = "dataLayer.crossReplicaSyncInterval";
        self.check(interval, field, units::duration);
    }
}
