//! What happens to requests before they are scheduled: parsers, and flow control, of which only the saturation detector is
//! built yet.

use super::super::catalog::Kind;
use super::super::document::{Document, FlowControl, PriorityBand, Reference};
use super::super::{Problem, units};
use super::{Parser, Resolver};

// === impl Resolver ===

impl Resolver {
    pub(super) fn parsers(&mut self, document: &Document) -> Vec<Parser> {
        let mut references: Vec<&Reference> = Vec::new();
        if let Some(handler) = &document.request_handler {
            references.extend(&handler.parsers);
        }
        if let Some(parser) = &document.parser {
            let line = parser.plugin_ref.referenced.line();
            self.warnings.push(Problem::new(
                line,
                "parser: deprecated; write requestHandler.parsers",
            ));
            references.push(parser);
        }
        let mut parsers = Vec::new();
        for reference in references {
            let field = "requestHandler.parsers.pluginRef";
            let found = self.find(&reference.plugin_ref, field, &[Kind::Parser]);
            parsers.extend(found.and_then(|declared| Parser::from_type(declared.entry.name)));
        }
        if parsers.is_empty() {
            parsers = Parser::ALL.to_vec();
            let names: Vec<_> = parsers.iter().map(|parser| parser.type_name()).collect();
            self.injected
                .push(format!("{}: no parser is listed", names.join(", ")));
        }
        parsers
    }

    pub(super) fn flow_control(&mut self, document: &Document) {
        let Some(flow_control) = &document.flow_control else {
            return;
        };
        let FlowControl {
            max_bytes,
            max_requests,
            default_request_ttl,
            no_endpoint_request_ttl,
            default_priority_band,
            default_negative_priority_band,
            priority_bands,
            usage_limit_policy_plugin_ref,
            saturation_detector: _,
            enable_eviction,
        } = &flow_control.value;
        let limits = [max_bytes, max_requests].map(Option::is_some);
        let times = [default_request_ttl, no_endpoint_request_ttl].map(Option::is_some);
        let bands = [default_priority_band, default_negative_priority_band].map(Option::is_some);
        let others = [
            usage_limit_policy_plugin_ref.is_some(),
            !priority_bands.is_empty(),
            *enable_eviction,
        ];
        if [&limits[..], &times, &bands, &others]
            .concat()
            .contains(&true)
        {
            self.warnings.push(Problem::new(
                flow_control.referenced.line(),
                "flowControl: flow control is not supported yet, so nothing of this but saturationDetector has an effect",
            ));
        }
        for (field, limit) in [("maxBytes", max_bytes), ("maxRequests", max_requests)] {
            let field = format!("flowControl.{field}");
            self.check(limit.as_ref(), &field, units::quantity);
        }
        for (field, ttl) in [
            ("defaultRequestTTL", default_request_ttl),
            ("noEndpointRequestTTL", no_endpoint_request_ttl),
        ] {
            self.check(
                ttl.as_ref(),
                &format!("flowControl.{field}"),
                units::duration,
            );
        }
        if let Some(policy) = usage_limit_policy_plugin_ref {
            let field = "flowControl.usageLimitPolicyPluginRef";
            self.not_built(policy, field, "usage limit policy");
        }
        for (field, band) in [
            ("defaultPriorityBand", default_priority_band),
            (
                "defaultNegativePriorityBand",
                default_negative_priority_band,
            ),
        ] {
            if let Some(band) = band {
                self.band(band, &format!("flowControl.{field}"));
            }
        }
        for band in priority_bands {
            self.band(band, "flowControl.priorityBands");
        }
    }

    fn band(&mut self, band: &PriorityBand, field: &str) {
        self.check(
            band.max_bytes.as_ref(),
            &format!("{field}.maxBytes"),
            units::quantity,
        );
        self.check(
            band.max_requests.as_ref(),
            &format!("{field}.maxRequests"),
            units::quantity,
        );
        for (name, policy, noun) in [
            (
                "fairnessPolicyRef",
                &band.fairness_policy_ref,
                "fairness policy",
            ),
            (
                "orderingPolicyRef",
                &band.ordering_policy_ref,
                "ordering policy",
            ),
        ] {
            if let Some(policy) = policy {
                self.not_built(policy, &format!("{field}.{name}"), noun);
            }
        }
    }
}

// === impl Parser ===

impl Parser {
    const ALL: [Self; 5] = [
        Self::OpenAi,
        Self::Anthropic,
        Self::VllmHttp,
        Self::SglangHttp,
        Self::Passthrough,
    ];

    /// What configurations call it.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai-parser",
            Self::Anthropic => "anthropic-parser",
            Self::VllmHttp => "vllmhttp-parser",
            Self::SglangHttp => "sglanghttp-parser",
            Self::Passthrough => "passthrough-parser",
        }
    }

    fn from_type(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.type_name() == name)
    }
}
