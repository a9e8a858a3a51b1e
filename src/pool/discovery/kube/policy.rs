//! Objectives and rewrites, and what becomes of each: the tables that requests are looked up in, and a verdict on every
//! object. One that cannot be used costs no other anything.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;

use super::api::{
    self, Custom, Kind, MOST_WEIGHT, ObjectiveSpec, PoolRef, RewriteRule, RewriteSpec,
};
use super::mirror::Mirror;
use crate::pool::objectives::{DEFAULT_PRIORITY, MOST_OBJECTIVES};
use crate::pool::rewrites::{MOST_RULES, Rule, Rules};

/// Problems that one object is told of.
const TOLD: usize = 5;

/// An objective or a rewrite, trimmed to what is used of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy<S> {
    uid: String,
    generation: Option<i64>,
    created: Option<Time>,
    conditions: Vec<Condition>,
    spec: Result<S, String>,
}

/// The pool that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OurPool {
    pub(super) group: String,
    pub(super) name: String,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) generation: Option<i64>,
    /// The conditions that it has now.
    pub(super) conditions: Vec<Condition>,
    pub(super) standing: Standing,
    /// For people: what is wrong, by field.
    pub(super) message: String,
    /// Its author should hear of it: something is wrong, or odd.
    pub(super) noted: bool,
}

/// What became of it, in a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// All of it counts.
    Accepted,
    /// Some of its rules count.
    PartiallyInvalid,
    /// Nothing of it counts: it is wrong.
    Invalid,
    /// Nothing of it counts: an older rewrite has the same rules.
    Conflicted,
    /// There are too many.
    TooMany,
    /// What it refers to is no pool.
    InvalidKind,
    /// It is for another pool, of this group and name.
    OtherPool(PoolRef),
}

/// What all objects come to.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) priorities: HashMap<String, i32>,
    pub(super) rules: Rules,
    pub(super) verdicts: Vec<Verdict>,
}

/// What is wrong with the rules of one rewrite.
#[derive(Debug, Default)]
struct Faults {
    told: Vec<String>,
    invalid: usize,
    conflicts: usize,
    too_many: usize,
}

/// What is kept of an objective or a rewrite, by its name.
pub(super) fn view<S: DeserializeOwned>(mut object: Custom) -> (String, Policy<S>) {
    let conditions = object.status.take().unwrap_or_default();
    let conditions = conditions["conditions"].as_array().into_iter().flatten();
    let conditions = conditions.filter_map(|condition| Condition::deserialize(condition).ok());
    let policy = Policy {
        conditions: conditions.collect(),
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation,
        created: object.metadata.creation_timestamp.clone(),
        spec: api::spec(&mut object),
    };
    (object.name_any(), policy)
}

/// Works out what counts of all objects in the namespace of `ours`.
pub(super) fn resolve(
    ours: &OurPool,
    objectives: &Mirror<Policy<ObjectiveSpec>>,
    rewrites: &Mirror<Policy<RewriteSpec>>,
) -> Resolved {
    let mut resolved = Resolved::default();
    for (name, policy) in oldest_first(objectives) {
        let (standing, message) = match for_us(ours, policy, |spec| &spec.pool_ref) {
            Err(verdict) => verdict,
            Ok(_) if resolved.priorities.len() == MOST_OBJECTIVES => (
                Standing::TooMany,
                format!("There are more than {MOST_OBJECTIVES} objectives; older ones count."),
            ),
            Ok(spec) => {
                let priority = spec.priority.unwrap_or(DEFAULT_PRIORITY);
                resolved.priorities.insert(name.clone(), priority);
                (Standing::Accepted, format!("Its priority is {priority}."))
            }
        };
        let verdict = policy.verdict(Kind::Objective, name, standing, message);
        resolved.verdicts.push(verdict);
    }
    for (name, policy) in oldest_first(rewrites) {
        let mut odd = false;
        let (standing, message) = match for_us(ours, policy, |spec| &spec.pool_ref) {
            Err(verdict) => verdict,
            Ok(spec) => {
                let before = resolved.rules.count();
                let faults = resolved.rules.add(name, &spec.rules);
                odd = !faults.told.is_empty();
                faults.verdict(resolved.rules.count() > before)
            }
        };
        let mut verdict = policy.verdict(Kind::Rewrite, name, standing, message);
        verdict.noted |= odd;
        resolved.verdicts.push(verdict);
    }
    resolved
}

/// The older object counts; of two that are as old, the one that comes first in the alphabet.
fn oldest_first<S: PartialEq>(all: &Mirror<Policy<S>>) -> Vec<(&String, &Policy<S>)> {
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by(|(a, x), (b, y)| (&x.created, a).cmp(&(&y.created, b)));
    all
}

/// What it says, if it can be read and is for our pool.
fn for_us<'a, S>(
    ours: &OurPool,
    policy: &'a Policy<S>,
    pool_ref: impl Fn(&S) -> &PoolRef,
) -> Result<&'a S, (Standing, String)> {
    let spec = policy
        .spec
        .as_ref()
        .map_err(|error| (Standing::Invalid, error.clone()))?;
    let of = pool_ref(spec);
    if !of.is_of_pools() {
        let message = format!("spec.poolRef.kind: `{}` is not InferencePool", of.kind);
        return Err((Standing::InvalidKind, message));
    }
    if (&of.group, &of.name) != (&ours.group, &ours.name) {
        let message = format!("It is for the pool `{}` of {}.", of.name, of.group);
        return Err((Standing::OtherPool(of.clone()), message));
    }
    Ok(spec)
}

// === impl Policy ===

impl<S> Policy<S> {
    fn verdict(&self, kind: Kind, name: &str, standing: Standing, message: String) -> Verdict {
        Verdict {
            kind,
            name: name.to_owned(),
            uid: self.uid.clone(),
            generation: self.generation,
            conditions: self.conditions.clone(),
            noted: standing != Standing::Accepted,
            standing,
            message,
        }
    }
}

// === impl Rules ===

impl Rules {
    /// Adds the rules of the rewrite called `name`, as far as they are right and nothing older is in their place.
    fn add(&mut self, name: &str, rules: &[RewriteRule]) -> Faults {
        let name: Arc<str> = name.into();
        let mut faults = Faults::default();
        if rules.is_empty() {
            faults.invalid("spec.rules: there are none".to_owned());
        }
        for (at, rule) in rules.iter().enumerate() {
            match checked(&name, rule) {
                Ok((made, note)) => {
                    faults
                        .told
                        .extend(note.map(|note| format!("spec.rules[{at}].{note}")));
                    self.place(at, rule, Arc::new(made), &mut faults);
                }
                Err(fault) => faults.invalid(format!("spec.rules[{at}].{fault}")),
            }
        }
        faults
    }

    fn place(&mut self, at: usize, rule: &RewriteRule, made: Arc<Rule>, faults: &mut Faults) {
        if rule.matches.is_empty() {
            match &self.any {
                Some(older) => faults.conflict(format!(
                    "spec.rules[{at}]: `{}` has a rule for any model already",
                    older.rewrite
                )),
                None => self.any = Some(Arc::clone(&made)),
            }
        }
        for (n, matched) in rule.matches.iter().enumerate() {
            let full = self.exact.len() >= MOST_RULES;
            let model = &matched.model.value;
            match self.exact.entry(model.clone()) {
                Entry::Occupied(older) => faults.conflict(format!(
                    "spec.rules[{at}].matches[{n}]: `{}` has a rule for `{model}` already",
                    older.get().rewrite
                )),
                Entry::Vacant(_) if full => faults.too_many(format!(
                    "spec.rules[{at}].matches[{n}]: there are more than {MOST_RULES} models; older rules count"
                )),
                Entry::Vacant(place) => {
                    place.insert(Arc::clone(&made));
                }
            }
        }
    }
}

/// The rule, and what its author should know of it; or what is wrong, by field.
fn checked(rewrite: &Arc<str>, rule: &RewriteRule) -> Result<(Rule, Option<String>), String> {
    if let Some(n) = rule.matches.iter().position(|m| m.model.value.is_empty()) {
        return Err(format!("matches[{n}].model.value: it is empty"));
    }
    for (n, target) in rule.targets.iter().enumerate() {
        if target.model_rewrite.is_empty() {
            return Err(format!("targets[{n}].modelRewrite: it is empty"));
        }
        if let Some(weight) = target.weight
            && !(1..=MOST_WEIGHT).contains(&weight)
        {
            return Err(format!(
                "targets[{n}].weight: {weight} is not from 1 to {MOST_WEIGHT}"
            ));
        }
    }
    let some = rule.targets.iter().any(|target| target.weight.is_some());
    let without = rule
        .targets
        .iter()
        .position(|target| target.weight.is_none());
    let note = without.filter(|_| some).map(|n| {
        format!("targets[{n}]: it has no weight, beside others that have one: it is never drawn")
    });
    let targets = rule.targets.iter();
    let targets = targets.map(|target| (target.model_rewrite.clone(), target.weight));
    let made = Rule::new(Arc::clone(rewrite), targets.collect());
    let made = made.ok_or_else(|| "targets: there are none".to_owned())?;
    Ok((made, note))
}

// === impl Faults ===

impl Faults {
    fn invalid(&mut self, fault: String) {
        self.invalid += 1;
        self.told.push(fault);
    }

    fn conflict(&mut self, fault: String) {
        self.conflicts += 1;
        self.told.push(fault);
    }

    fn too_many(&mut self, fault: String) {
        self.too_many += 1;
        self.told.push(fault);
    }

    /// Of a rewrite of which something counts, or nothing.
    fn verdict(self, counts: bool) -> (Standing, String) {
        let wrong = self.invalid + self.conflicts + self.too_many;
        let standing = match (counts, wrong) {
            (_, 0) => Standing::Accepted,
            (true, _) => Standing::PartiallyInvalid,
            (false, _) if self.invalid > 0 => Standing::Invalid,
            (false, _) if self.conflicts > 0 => Standing::Conflicted,
            (false, _) => Standing::TooMany,
        };
        let more = self.told.len().saturating_sub(TOLD);
        let mut message = self.told[..self.told.len() - more].join("; ");
        if more > 0 {
            message.push_str(&format!("; and {more} more"));
        }
        if message.is_empty() {
            "All rules count.".clone_into(&mut message);
        }
        (standing, message)
    }
}

// === impl Standing ===

impl Standing {
    /// All words, for who counts them.
    pub(super) const WORDS: [&str; 7] = [
        "accepted",
        "partially_invalid",
        "invalid",
        "conflicted",
        "too_many",
        "invalid_kind",
        "other_pool",
    ];

    /// Whether something of it counts.
    pub(super) fn is_in_force(&self) -> bool {
        matches!(self, Self::Accepted | Self::PartiallyInvalid)
    }

    /// The pool that it is for, if that is another one.
    pub(super) fn other_pool(&self) -> Option<&PoolRef> {
        match self {
            Self::OtherPool(other) => Some(other),
            _ => None,
        }
    }

    pub(super) fn word(&self) -> &'static str {
        Self::WORDS[match self {
            Self::Accepted => 0,
            Self::PartiallyInvalid => 1,
            Self::Invalid => 2,
            Self::Conflicted => 3,
            Self::TooMany => 4,
            Self::InvalidKind => 5,
            Self::OtherPool(_) => 6,
        }]
    }
}

#[cfg(test)]
mod tests;
