use super::*;
use crate::config::{LoadOptions, load};

fn reporters(attributes: &str) -> Result<Reporters, String> {
    let text = format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: request-attribute-reporter\n  parameters:\n    attributes: {attributes}\n"
    );
    let config = load(&text, LoadOptions::default()).map_err(|errors| errors.to_string())?;
    Reporters::of(&config.reporters).map_err(|errors| errors.to_string())
}

/// What one expression reports of `usage`, and how many errors it made.
fn reported(expression: &str, usage: Usage) -> (Option<f64>, u64) {
    let reporters = reporters(&format!(
        "[{{key: {{name: a}}, expression: '{expression}'}}]"
    ));
    let failed = Counter::default();
    let told = reporters.unwrap().report(&usage, &failed);
    (told.map(|told| at(&told, "envoy.lb", "a")), failed.get())
}

fn at(told: &Struct, namespace: &str, name: &str) -> f64 {
    let Some(prost_types::value::Kind::StructValue(space)) = &told.fields[namespace].kind else {
        panic!("{told:?}");
    };
    let Some(prost_types::value::Kind::NumberValue(number)) = space.fields[name].kind else {
        panic!("{told:?}");
    };
    number
}

fn usage(input: u64, output: u64) -> Usage {
    Usage {
        input: Some(input),
        output: Some(output),
        cached: None,
    }
}

#[test]
fn expressions_of_the_field() {
    let of = usage(7, 10);
    for (expression, expected) in [
        ("usage.completion_tokens", Some(10.0)),
        ("usage.prompt_tokens + usage.completion_tokens", Some(17.0)),
        ("usage.total_tokens", Some(17.0)),
        (
            "(has(usage.prompt_tokens) ? usage.prompt_tokens : 0) + (has(usage.completion_tokens) ? usage.completion_tokens : 0)",
            Some(17.0),
        ),
        // Doubles, as in the reference, and integers, which it cannot multiply them by.
        ("usage.completion_tokens * 2.5", Some(25.0)),
        (
            "usage.completion_tokens * 2 + usage.prompt_tokens",
            Some(27.0),
        ),
        ("usage.completion_tokens / 4.0", Some(2.0)),
        ("usage.completion_tokens / 4", Some(2.0)),
        ("int(usage.prompt_tokens) % 4", Some(3.0)),
        ("usage.completion_tokens > 5 ? 1 : 0", Some(1.0)),
        // Nothing to tell.
        ("usage.prompt_tokens > 100.0 ? 5 : 0", None),
        ("usage.prompt_tokens * 0.1", None),
        ("0 - 3", Some(-3.0)),
    ] {
        assert_eq!(reported(expression, of), (expected, 0), "{expression}");
    }
}

#[test]
fn what_the_server_did_not_tell() {
    let embedding = Usage {
        output: None,
        ..usage(7, 0)
    };
    let sum = "usage.prompt_tokens + usage.completion_tokens";
    assert_eq!(reported(sum, embedding), (Some(7.0), 0));
    for name in ["prompt_tokens_details", "prompt_token_details"] {
        let bare = format!("usage.{name}.cached_tokens");
        let guarded = format!("has(usage.{name}) ? {bare} : 1.0");
        let cached = Usage {
            cached: Some(5),
            ..embedding
        };
        assert_eq!(reported(&bare, cached), (Some(5.0), 0));
        // No response suffers from what cannot be evaluated.
        assert_eq!(reported(&bare, embedding), (None, 1));
        assert_eq!(reported(&guarded, embedding), (Some(1.0), 0));
    }
    assert_eq!(
        reported("1 / int(usage.completion_tokens)", embedding),
        (None, 1)
    );
}

#[test]
fn conditions_keys_and_several_attributes() {
    let reporters = reporters(
        r#"
    - {key: {name: cost}, expression: usage.total_tokens, condition: "has(usage.prompt_tokens)"}
    - {key: {name: never}, expression: usage.total_tokens, condition: "usage.total_tokens < 0.0"}
    - {key: {namespace: billing, name: cost}, expression: "usage.completion_tokens * 3.0"}
    - {key: {namespace: billing, name: seen}, expression: "1"}"#,
    );
    let failed = Counter::default();
    let told = reporters.unwrap().report(&usage(7, 10), &failed).unwrap();
    assert_eq!(at(&told, "envoy.lb", "cost"), 17.0);
    assert_eq!(at(&told, "billing", "cost"), 30.0);
    assert_eq!(at(&told, "billing", "seen"), 1.0);
    let fields = |namespace: &str| match &told.fields[namespace].kind {
        Some(prost_types::value::Kind::StructValue(space)) => space.fields.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (fields("envoy.lb"), fields("billing"), failed.get()),
        (1, 2, 0)
    );
}

#[test]
fn deep_expressions_are_refused_or_evaluated_within_a_workers_stack() {
    let chain = |of: &str| format!("{}1", of.repeat(OPERATORS / extent(of).0));
    for text in [
        chain("1+"),
        chain("-"),
        chain("!"),
        chain("true?1:"),
        format!("{}1", "1 in ".repeat(OPERATORS)),
        format!("usage{}", ".a".repeat(OPERATORS)),
        format!("usage{}", ".a()".repeat(OPERATORS / 3)),
        format!("{}1{}", "(".repeat(DEEPEST), ")".repeat(DEEPEST)),
        format!("{}1{}", "-(".repeat(DEEPEST), ")".repeat(DEEPEST)),
        format!("{}1{}", "int(".repeat(DEEPEST), ")".repeat(DEEPEST)),
        format!("{}1{}", "[".repeat(DEEPEST), "][0]".repeat(DEEPEST)),
        format!("{}1{}", "[1].map(x,".repeat(21), ")".repeat(21)),
    ] {
        assert!(
            text.len() <= LONGEST && extent(&text).0 <= OPERATORS,
            "{text}"
        );
        let _ = reporters(&format!("[{{key: {{name: a}}, expression: '{text}'}}]"));
    }
}

#[test]
fn what_cannot_be_reported_is_told_with_its_line_and_field() {
    let deep = format!("{}1{}", "(".repeat(99), ")".repeat(99));
    let long = "1+".repeat(LONGEST);
    let name = "plugin `request-attribute-reporter`: parameters.attributes";
    for (attributes, expected) in [
        ("[]".to_owned(), format!("line 6: {name}: is empty; list")),
        (
            "\n    - key: {name: a}\n      expression: 'usage.prompt_tokens +'".to_owned(),
            format!(
                "line 8: {name}[0].expression: `usage.prompt_tokens +` is not a CEL expression, at line 1, column"
            ),
        ),
        (
            "\n    - key: {name: a}\n      expression: usage.prompt_token".to_owned(),
            format!("line 8: {name}[0].expression: No such key: prompt_token"),
        ),
        (
            "\n    - key: {name: a}\n      expression: request.tokens".to_owned(),
            format!("line 8: {name}[0].expression: Undeclared reference to 'request'"),
        ),
        (
            "\n    - key: {name: a}\n      expression: usage.total_tokens > 1.0".to_owned(),
            format!("line 8: {name}[0].expression: gives Bool(true), not a number"),
        ),
        (
            "\n    - key: {name: a}\n      expression: usage.total_tokens * 'a'".to_owned(),
            format!("line 8: {name}[0].expression: Unsupported binary operator 'mul'"),
        ),
        (
            "\n    - key: {name: a}\n      expression: '1'\n      condition: usage.total_tokens"
                .to_owned(),
            format!("line 9: {name}[0].condition: gives Float(800.0), not true or false"),
        ),
        (
            "[{key: {name: a}}]".to_owned(),
            format!("line 6: {name}[0].expression: is empty; write"),
        ),
        (
            "[{expression: '1'}]".to_owned(),
            format!("line 6: {name}[0].key.name: is empty"),
        ),
        (
            "[{key: {name: a, namespace: ''}, expression: '1'}]".to_owned(),
            format!("line 6: {name}[0].key.namespace: is empty"),
        ),
        (
            format!("[{{key: {{name: {DESTINATION}}}, expression: '1'}}]"),
            format!("line 6: {name}[0].key.name: is where the request goes"),
        ),
        (
            "[{key: {name: a}, expression: '1'}, {key: {name: a}, expression: '2'}]".to_owned(),
            format!("line 6: {name}[1].key: is reported twice"),
        ),
        (
            "[{key: {name: a}, expresion: '1'}]".to_owned(),
            format!("line 6: {name}[0]: unknown field `expresion`; did you mean `expression`?"),
        ),
        (
            format!("[{{key: {{name: a}}, expression: '{long}'}}]"),
            format!("line 6: {name}[0].expression: is longer than"),
        ),
        (
            format!("[{{key: {{name: a}}, expression: '{deep}'}}]"),
            format!(
                "line 6: {name}[0].expression: is too large: 198 operators, brackets and dots, 99 brackets deep"
            ),
        ),
    ] {
        let got = reporters(&attributes).unwrap_err();
        assert!(got.starts_with(&expected), "{got}\n{expected}");
    }
    let many: Vec<String> = (0..=MOST)
        .map(|n| format!("{{key: {{name: a{n}}}, expression: '1'}}"))
        .collect();
    let got = reporters(&format!("[{}]", many.join(","))).unwrap_err();
    assert!(got.contains("attributes[16]: more than 16"), "{got}");
}
