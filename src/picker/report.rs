//! `request-attribute-reporter`: what a response used, as numbers for the gateway; and `destination-endpoint-served-verifier`,
//! which tells clients where the gateway says that the request was served. The latter is there for the conformance tests of
//! the Gateway API Inference Extension, and for nothing else: addresses are no client's business.
//!
//! An attribute is a CEL expression over `usage`, evaluated once, when a response has ended; its value goes into the dynamic
//! metadata of the last reply to the response. `usage` has `prompt_tokens`, `completion_tokens`, `total_tokens` (0 where the
//! server told other counts, but not that one) and, if the server told them, `cached_tokens` in `prompt_tokens_details`,
//! which the llm-d picker calls `prompt_token_details`; both names are known. As there, numbers are doubles, only the whole
//! part of a value is reported, and a value of 0 is not. CEL has no `double * int`: where an expression does not fit doubles
//! (`usage.total_tokens * 2`, an error there) it is evaluated with integers.
//!
//! A response without usage reports nothing, and neither does an expression that fails: that is counted
//! (`response_attribute_errors_total`), and no response ever suffers from it.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::{Context, Env, ExecutionError, ParseErrors, Program, Value};
use prometheus_client::metrics::counter::Counter;
use prost_types::Struct;

use super::control::{DESTINATION, LB};
use super::edits::nested;
use crate::config::params::{NoParams, ReportedAttribute, ReporterParams};
use crate::config::{ConfigErrors, PluginUse};
use crate::dialect::Usage;

/// Bytes of an expression, its operators (brackets and dots among them), and brackets within brackets: it is a line of
/// arithmetic. Parser and evaluation recurse as deep as an expression nests, on a worker's stack.
const LONGEST: usize = 1024;
const OPERATORS: usize = 128;
const DEEPEST: usize = 24;
/// More than anyone reports of a response.
const MOST: usize = 16;
/// For trying out expressions when they are loaded.
const SAMPLE: Usage = Usage {
    input: Some(700),
    output: Some(100),
    cached: Some(300),
};

/// The type of the plugin that tells clients.
const SERVED_VERIFIER: &str = "destination-endpoint-served-verifier";

/// What is told of responses; most configurations tell nothing.
#[derive(Default)]
pub struct Reporters {
    /// Clients are told where a request was served.
    tell_served: bool,
    attributes: Vec<Attribute>,
    /// CEL's standard functions; none if there are no attributes.
    env: Option<Arc<Env>>,
}

struct Attribute {
    plugin: String,
    namespace: String,
    name: String,
    expression: Program,
    condition: Option<Program>,
}

/// Which of CEL's types the numbers of `usage` have.
#[derive(Clone, Copy)]
enum Numbers {
    Doubles,
    Integers,
}

/// Why an expression came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Evaluation(#[from] ExecutionError),
    #[error("gives {0}, not {1}")]
    Type(String, &'static str),
    #[error("its evaluation broke off")]
    Panicked,
}

// === impl Reporters ===

impl Reporters {
    /// Compiles what `plugins` report, and tries it out once.
    pub fn of(plugins: &[PluginUse]) -> Result<Self, ConfigErrors> {
        if plugins.is_empty() {
            return Ok(Self::default());
        }
        let env = Arc::new(Env::stdlib());
        let (mut attributes, mut problems) = (Vec::<Attribute>::new(), Vec::new());
        let mut tell_served = false;
        for plugin in plugins {
            if plugin.entry.name == SERVED_VERIFIER {
                tell_served = true;
                problems.extend(plugin.parameters.read::<NoParams>().err());
                continue;
            }
            let params: ReporterParams = match plugin.parameters.read() {
                Ok(params) => params,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let at = &plugin.parameters;
            if params.attributes.is_empty() {
                problems.push(at.field_problem(
                    "attributes",
                    "is empty; list what to report, each with a `key` and an `expression`",
                ));
            }
            for (n, attribute) in params.attributes.iter().enumerate() {
                let known = &attributes;
                let problem = match Attribute::of(&plugin.name, attribute, &env) {
                    Ok(new) if known.iter().any(|k| k.is_at(&new.namespace, &new.name)) => (
                        "key",
                        "is reported twice; give each its own name".to_owned(),
                    ),
                    Ok(_) if known.len() >= MOST => ("", format!("more than {MOST} in all")),
                    Ok(new) => {
                        attributes.push(new);
                        continue;
                    }
                    Err(problem) => problem,
                };
                let (field, message) = problem;
                let field = format!("attributes[{n}].{field}");
                problems.push(at.field_problem(field.trim_end_matches('.'), &message));
            }
        }
        match problems.is_empty() {
            true => Ok(Self {
                tell_served,
                attributes,
                env: Some(env),
            }),
            false => Err(ConfigErrors(problems)),
        }
    }

    /// Whether clients are told where a request was served.
    pub fn tell_served(&self) -> bool {
        self.tell_served
    }

    /// No attribute is reported.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// Metadata namespaces for a response that used `usage`; what cannot be told is counted in `failed`.
    pub fn report(&self, usage: &Usage, failed: &Counter) -> Option<Struct> {
        let env = self.env.as_ref()?;
        let mut namespaces = Struct::default();
        for attribute in &self.attributes {
            let value = match attribute.value(env, usage) {
                Ok(Some(value)) => value,
                Ok(None) => continue,
                Err(error) => {
                    failed.inc();
                    let (plugin, name) = (&attribute.plugin, &attribute.name);
                    tracing::debug!(plugin, name, %error, "An attribute could not be reported.");
                    continue;
                }
            };
            let space = namespaces.fields.entry(attribute.namespace.clone());
            let space = space.or_insert_with(|| nested(Struct::default()));
            if let Some(prost_types::value::Kind::StructValue(space)) = &mut space.kind {
                space.fields.insert(attribute.name.clone(), value.into());
            }
        }
        (!namespaces.fields.is_empty()).then_some(namespaces)
    }
}

impl fmt::Debug for Reporters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.attributes.iter().map(|attribute| &attribute.name);
        f.debug_list().entries(names).finish()
    }
}

// === impl Attribute ===

impl Attribute {
    /// The error has the field that is wrong.
    fn of(
        plugin: &str,
        params: &ReportedAttribute,
        env: &Arc<Env>,
    ) -> Result<Self, (&'static str, String)> {
        let key = &params.key;
        let wrong = match (&*key.namespace, &*key.name) {
            ("", _) => Some(("key.namespace", "is empty; write for instance envoy.lb")),
            (_, "") => Some(("key.name", "is empty; write the key of the value")),
            (LB, DESTINATION) => {
                Some(("key.name", "is where the request goes; write another name"))
            }
            _ => None,
        };
        if let Some((field, message)) = wrong {
            return Err((field, message.to_owned()));
        }
        let program = |field, text: &str| compile(env, text).map_err(|error| (field, error));
        let attribute = Self {
            plugin: plugin.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            expression: program("expression", &params.expression)?,
            condition: match &params.condition {
                Some(text) => Some(program("condition", text)?),
                None => None,
            },
        };
        // With the names and types of every response; what depends on a response's numbers is no fault of the expression.
        let fault = |failure: Failure| (!failure.depends_on_numbers()).then(|| failure.to_string());
        if let Some(condition) = &attribute.condition
            && let Err(failure) = evaluate(condition, env, &SAMPLE, truth)
            && let Some(fault) = fault(failure)
        {
            return Err(("condition", fault));
        }
        if let Err(failure) = evaluate(&attribute.expression, env, &SAMPLE, number)
            && let Some(fault) = fault(failure)
        {
            return Err(("expression", fault));
        }
        Ok(attribute)
    }

    fn is_at(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// `None`: there is nothing to report.
    fn value(&self, env: &Arc<Env>, usage: &Usage) -> Result<Option<f64>, Failure> {
        let wanted = match &self.condition {
            Some(condition) => evaluate(condition, env, usage, truth)?,
            None => true,
        };
        if !wanted {
            return Ok(None);
        }
        let value = evaluate(&self.expression, env, usage, number)?.trunc();
        Ok((value != 0.0).then_some(value))
    }
}

fn compile(env: &Env, text: &str) -> Result<Program, String> {
    if text.trim().is_empty() {
        return Err("is empty; write for instance usage.completion_tokens".to_owned());
    }
    if text.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    let (operators, depth) = extent(text);
    if operators > OPERATORS || depth > DEEPEST {
        return Err(format!(
            "is too large: {operators} operators, brackets and dots, {depth} brackets deep; {OPERATORS} and {DEEPEST} are the most"
        ));
    }
    let compiled = catch_unwind(AssertUnwindSafe(|| env.compile(text)));
    let compiled = compiled.map_err(|_| "cannot be compiled".to_owned())?;
    compiled.map_err(|ParseErrors { errors }| {
        let told = errors.first().map_or(String::new(), |error| {
            let (line, column) = error.pos;
            format!(", at line {line}, column {column}: {}", error.msg)
        });
        format!("`{}` is not a CEL expression{told}", text.trim())
    })
}

/// Operators in `text`, and brackets within brackets; those in strings too.
fn extent(text: &str) -> (usize, usize) {
    let (mut operators, mut open, mut deepest) = (0, 0_usize, 0);
    for byte in text.bytes().filter(u8::is_ascii_punctuation) {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            b'_' => continue,
            _ => {}
        }
        operators += 1;
        deepest = deepest.max(open);
    }
    (operators, deepest)
}

/// What `program` comes to for `usage`, as `read` takes it.
fn evaluate<T>(
    program: &Program,
    env: &Arc<Env>,
    usage: &Usage,
    read: fn(Value) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let with = |numbers| {
        let mut context = Context::with_env(Arc::clone(env));
        context.add_variable_from_value("usage", variable(usage, numbers));
        // A library's panic would take the response's stream with it.
        let value = catch_unwind(AssertUnwindSafe(|| program.execute(&context)));
        value.map_err(|_| Failure::Panicked)?.map_err(Failure::from)
    };
    match with(Numbers::Doubles) {
        Err(error @ Failure::Evaluation(_)) => read(with(Numbers::Integers).map_err(|_| error)?),
        value => read(value?),
    }
}

fn variable(usage: &Usage, numbers: Numbers) -> Value {
    let number = |tokens: u64| match numbers {
        Numbers::Doubles => Value::Float(tokens as f64),
        Numbers::Integers => Value::Int(i64::try_from(tokens).unwrap_or(i64::MAX)),
    };
    let (input, output) = (usage.input.unwrap_or(0), usage.output.unwrap_or(0));
    let mut fields: HashMap<&str, Value> = HashMap::from([
        ("prompt_tokens", number(input)),
        ("completion_tokens", number(output)),
        ("total_tokens", number(input.saturating_add(output))),
    ]);
    if let Some(cached) = usage.cached {
        let details = || Value::from(HashMap::from([("cached_tokens", number(cached))]));
        fields.insert("prompt_tokens_details", details());
        fields.insert("prompt_token_details", details());
    }
    fields.into()
}

fn truth(value: Value) -> Result<bool, Failure> {
    match value {
        Value::Bool(truth) => Ok(truth),
        other => Err(Failure::of_type(&other, "true or false")),
    }
}

fn number(value: Value) -> Result<f64, Failure> {
    match value {
        Value::Float(number) if number.is_finite() => Ok(number),
        Value::Int(number) => Ok(number as f64),
        Value::UInt(number) => Ok(number as f64),
        other => Err(Failure::of_type(&other, "a number")),
    }
}

// === impl Failure ===

impl Failure {
    fn of_type(value: &Value, wanted: &'static str) -> Self {
        Self::Type(format!("{value:?}"), wanted)
    }

    /// Another response might do.
    fn depends_on_numbers(&self) -> bool {
        matches!(
            self,
            Self::Evaluation(
                ExecutionError::DivisionByZero(_)
                    | ExecutionError::RemainderByZero(_)
                    | ExecutionError::Overflow(..)
                    | ExecutionError::IndexOutOfBounds(_)
            )
        )
    }
}

#[cfg(test)]
mod tests;
