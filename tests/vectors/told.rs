//! What replies to a response tell the gateway in metadata.

use std::collections::BTreeMap;

use prost_types::value::Kind;

use super::rules::Part;
use super::stage::Stage;

/// Exactly what the case expects, once.
pub(super) fn check(stage: &Stage<'_>, response: &Part) -> Result<(), String> {
    let told = &stage.case.expect.told;
    let mut numbers: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for (metadata, _) in &response.metadata {
        for (namespace, value) in &metadata.fields {
            let Some(Kind::StructValue(keys)) = &value.kind else {
                return Err(format!("metadata {namespace} is no structure: {value:?}"));
            };
            for (key, value) in &keys.fields {
                let Some(Kind::NumberValue(number)) = value.kind else {
                    return Err(format!(
                        "metadata {namespace}.{key} is no number: {value:?}"
                    ));
                };
                let space = numbers.entry(namespace.clone()).or_default();
                space.insert(key.clone(), number);
            }
        }
    }
    let once = response.metadata.len() == usize::from(!told.is_empty());
    match numbers == *told && once {
        true => Ok(()),
        false => Err(format!(
            "replies to the response have {} times metadata: {numbers:?}; wanted once {told:?}",
            response.metadata.len()
        )),
    }
}
