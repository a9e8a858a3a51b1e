//! `token-producer` (and its old name `tokenizer`): how many tokens a prompt has.
//!
//! There is one way here, `estimate`: four bytes of prompt a token, which is within a third of the truth for English text
//! and code, and costs nothing. The ways of the llm-d picker that ask a server to tokenise (`vllm`, `udsTokenizerConfig`)
//! are not available. `modelName` says whose tokenizer a server would use, so it has no effect. Source: the llm-d picker.
//! It is added where a plugin needs it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{PluginUse, Problem};

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    #[serde(rename = "estimate")]
    _estimate: Option<Estimate>,
    vllm: Option<Value>,
    uds_tokenizer_config: Option<Value>,
    #[serde(rename = "modelName")]
    _model_name: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Estimate {}

/// Whether the parameters of `plugin` can be obeyed.
pub(super) fn check(plugin: &PluginUse) -> Result<(), Problem> {
    let params: Params = plugin.parameters.read()?;
    for (field, given) in [
        ("vllm", params.vllm.is_some()),
        ("udsTokenizerConfig", params.uds_tokenizer_config.is_some()),
    ] {
        if given {
            let message = "is not supported yet; write `estimate: {}`, which asks no server";
            return Err(plugin.parameters.field_problem(field, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::producer;
    use super::*;

    #[test]
    fn only_estimates() {
        for (parameters, expected) in [
            ("{}", None),
            ("{estimate: {}, modelName: m}", None),
            (
                "{modelName: m, vllm: {url: 'http://localhost:8000'}}",
                Some("parameters.vllm: is not supported yet"),
            ),
            (
                "{udsTokenizerConfig: {socketFile: /s}}",
                Some("parameters.udsTokenizerConfig: is not supported yet"),
            ),
            ("{estimat: {}}", Some("did you mean `estimate`?")),
        ] {
            for name in ["token-producer", "tokenizer"] {
                match (check(&producer(name, parameters)), expected) {
                    (Ok(()), None) => {}
                    (Err(problem), Some(expected)) => {
                        let got = problem.message;
                        assert!(got.contains(expected), "{got}\nnot\n{expected}");
                    }
                    (got, _) => panic!("{parameters}: {got:?}"),
                }
            }
        }
    }
}
