//! How the API server is heard of, in numbers.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is told of the API server and of its objects.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// 1 while it answers.
    up: Gauge,
    requests: Family<Code, Counter>,
    watch_errors: Family<Resource, Counter>,
    objects: Family<Objects, Gauge>,
    status_writes: Family<Written, Counter>,
    /// Where agents are looked for.
    without_agent: Family<OfPool, Gauge>,
    /// 1 while this process leads.
    leading: Gauge,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    /// The HTTP status; 0 = there was no answer.
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Objects {
    resource: &'static str,
    standing: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Written {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    name: String,
}

// === impl Counts ===

impl Counts {
    /// All of them in `registry`; who leads only where there is an `election`.
    pub fn register(registry: &mut Registry, election: bool) -> Self {
        let counts = Self::default();
        let all = counts.clone();
        registry.register(
            "kubernetes_api_up",
            "Whether the API server answers",
            all.up,
        );
        let help = "Requests to the API server by HTTP status; 0: no answer";
        registry.register("kubernetes_requests", help, all.requests);
        let help = "Watches and lists that failed; the watch goes on";
        registry.register("kubernetes_watch_errors", help, all.watch_errors);
        let help = "Objects by what became of them";
        registry.register("kubernetes_objects", help, all.objects);
        let help = "Conditions of objectives and rewrites that were to be written";
        registry.register("kubernetes_status_writes", help, all.status_writes);
        let help = "Nodes with endpoints for which no GPU agent was found";
        registry.register("gpu_nodes_without_agent", help, all.without_agent);
        if election {
            let help = "Whether this process holds the lease";
            registry.register("kubernetes_leading", help, all.leading);
        }
        counts
    }

    /// A request was answered with `code`; `None` = not at all.
    pub(super) fn answered(&self, code: Option<u16>) {
        self.up.set(code.is_some().into());
        let code = code.unwrap_or_default();
        self.requests.get_or_create(&Code { code }).inc();
    }

    #[cfg(test)]
    pub(super) fn is_up(&self) -> bool {
        self.up.get() == 1
    }

    #[cfg(test)]
    pub(super) fn are_without_agent(&self, name: &str) -> i64 {
        let name = name.to_owned();
        self.without_agent.get_or_create(&OfPool { name }).get()
    }

    pub(super) fn watch_failed(&self, resource: &'static str) {
        self.watch_errors
            .get_or_create(&Resource { resource })
            .inc();
    }

    /// There are `count` objects like that now.
    pub(super) fn objects(&self, resource: &'static str, standing: &'static str, count: usize) {
        let labels = Objects { resource, standing };
        self.objects.get_or_create(&labels).set(count as i64);
    }

    pub(super) fn status_written(&self, result: &'static str) {
        self.status_writes.get_or_create(&Written { result }).inc();
    }

    /// No agent was found for `count` of the nodes of the pool called `name`.
    pub(super) fn without_agent(&self, name: &str, count: usize) {
        let name = name.to_owned();
        let gauge = self.without_agent.get_or_create(&OfPool { name });
        gauge.set(count as i64);
    }

    pub(super) fn leading(&self, leading: bool) {
        self.leading.set(leading.into());
    }
}
