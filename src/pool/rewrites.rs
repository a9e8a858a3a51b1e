//! The models that requests are sent on for, by those that they ask for: what Kubernetes keeps as InferenceModelRewrites.
//!
//! Discovery fills them. A rule for the very model goes before one for any; which of several rules for the same is in force is
//! for discovery to say: there is one of each here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rand::{Rng, RngExt as _};

/// Rules that are kept.
pub const MOST_RULES: usize = 10_000;

/// The rules that are in force.
#[derive(Debug, Default)]
pub struct Rewrites(ArcSwap<InForce>);

#[derive(Debug, Default)]
struct InForce {
    rules: Rules,
    /// Of rewrites, of the models that they are for, and of those that they send to.
    names: HashSet<Box<str>>,
}

/// Rules by the model that is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// For the very model.
    pub exact: HashMap<String, Arc<Rule>>,
    /// For any other, and for requests that name none.
    pub any: Option<Arc<Rule>>,
}

/// What becomes of the requests that match.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The rewrite that it is of.
    pub rewrite: Arc<str>,
    /// The model and, cumulated, the weight of each target that may be drawn.
    targets: Box<[(String, u64)]>,
}

// === impl Rewrites ===

impl Rewrites {
    /// Makes `rules` the only ones. Returns whether that is a change.
    pub fn replace(&self, rules: Rules) -> bool {
        let changed = self.0.load().rules != rules;
        if changed {
            let names = rules.names().map(Box::from).collect();
            self.0.store(Arc::new(InForce { rules, names }));
        }
        changed
    }

    /// The rule for requests that ask for `model`, if there is one.
    pub fn rule(&self, model: Option<&str>) -> Option<Arc<Rule>> {
        let rules = &self.0.load().rules;
        let exact = model.and_then(|model| rules.exact.get(model));
        exact.or(rules.any.as_ref()).cloned()
    }

    /// Whether `name` is that of a rewrite in force, of a model that one is for, or of one that it sends to.
    pub fn is_named(&self, name: &str) -> bool {
        self.0.load().names.contains(name)
    }
}

// === impl Rules ===

impl Rules {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.exact.len() + usize::from(self.any.is_some())
    }

    /// All names in them; some come more than once.
    fn names(&self) -> impl Iterator<Item = &str> {
        let rules = self.exact.values().chain(&self.any);
        let of_rules = rules.flat_map(|rule| {
            let targets = rule.targets.iter().map(|(model, _)| model.as_str());
            targets.chain([&*rule.rewrite])
        });
        self.exact.keys().map(String::as_str).chain(of_rules)
    }
}

// === impl Rule ===

impl Rule {
    /// One of the `targets`, models with their weights, is drawn for each request. Without any weight all are drawn alike; if
    /// some have one, the others are never drawn. `None`: there is nothing to draw.
    pub fn new(rewrite: Arc<str>, targets: Vec<(String, Option<u32>)>) -> Option<Self> {
        let weighted = targets.iter().any(|(_, weight)| weight.is_some());
        let mut sum = 0;
        let drawn = targets.into_iter().filter_map(|(model, weight)| {
            let weight = if weighted { weight? } else { 1 };
            sum += u64::from(weight);
            (weight > 0).then_some((model, sum))
        });
        let targets: Box<[_]> = drawn.collect();
        (!targets.is_empty()).then_some(Self { rewrite, targets })
    }

    /// Draws the model for a request.
    pub fn draw(&self, rng: &mut impl Rng) -> &str {
        let sum = self.targets.last().map_or(1, |&(_, sum)| sum);
        let drawn = if self.targets.len() > 1 {
            rng.random_range(0..sum)
        } else {
            0
        };
        let at = self.targets.partition_point(|&(_, upto)| upto <= drawn);
        &self.targets[at].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    /// Of 10,000 requests, how many go where.
    fn draws(targets: &[(&str, Option<u32>)]) -> HashMap<String, u32> {
        let targets = targets
            .iter()
            .map(|&(model, weight)| (model.to_owned(), weight));
        let rule = Rule::new("r".into(), targets.collect()).unwrap();
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = HashMap::new();
        for _ in 0..10_000 {
            *counts.entry(rule.draw(&mut rng).to_owned()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn weights_are_shares() {
        let counts = draws(&[("a", Some(70)), ("b", Some(30))]);
        assert!((6800..7200).contains(&counts["a"]), "{counts:?}");
        let counts = draws(&[("a", None), ("b", None)]);
        assert!((4800..5200).contains(&counts["a"]), "{counts:?}");
        let counts = draws(&[("a", None), ("b", Some(1)), ("c", Some(1_000_000))]);
        assert!(
            !counts.contains_key("a") && counts["c"] > 9900,
            "{counts:?}"
        );
        assert_eq!(draws(&[("a", Some(5))])["a"], 10_000);
        assert_eq!(Rule::new("r".into(), Vec::new()), None);
        assert_eq!(Rule::new("r".into(), vec![("a".into(), Some(0))]), None);
    }

    #[test]
    fn the_very_model_goes_before_any() {
        let rule = |to: &str| Rule::new("r".into(), vec![(to.to_owned(), None)]).map(Arc::new);
        let rewrites = Rewrites::default();
        assert_eq!(rewrites.rule(Some("m")), None);
        let rules = |any: bool| Rules {
            exact: [("m".to_owned(), rule("exact").unwrap())].into(),
            any: rule("any").filter(|_| any),
        };
        assert!(rewrites.replace(rules(false)) && !rewrites.replace(rules(false)));
        assert_eq!(rewrites.rule(Some("other")), None);
        assert!(rewrites.replace(rules(true)));
        assert_eq!(
            (rewrites.rule(Some("m")), rewrites.rule(Some("M"))),
            (rule("exact"), rule("any"))
        );
        assert_eq!((rewrites.rule(None), rules(true).count()), (rule("any"), 2));
        let names = ["m", "exact", "any", "r", "M"].map(|name| rewrites.is_named(name));
        assert_eq!(names, [true, true, true, true, false]);
    }
}
