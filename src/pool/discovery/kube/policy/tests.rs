use super::*;
use kube::runtime::watcher::Event;
use serde_json::Value;
use serde_json::json;

fn ours() -> OurPool {
    OurPool {
        group: api::POOL_GROUP.to_owned(),
        name: "pool".to_owned(),
    }
}

/// Objects by name, each with the second of its creation and its spec.
fn mirror<S: DeserializeOwned + PartialEq>(objects: &[(&str, u8, Value)]) -> Mirror<Policy<S>> {
    let mut mirror = Mirror::default();
    for (name, second, spec) in objects {
        let object = json!({
            "metadata": {"name": name, "uid": name, "generation": 3, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": spec,
        });
        mirror.take(Event::Apply(view(serde_json::from_value(object).unwrap())));
    }
    mirror
}

fn rewrites(objects: &[(&str, u8, Value)]) -> Resolved {
    let with_pool = objects.iter().map(|(name, second, rules)| {
        (
            *name,
            *second,
            json!({"poolRef": {"name": "pool"}, "rules": rules}),
        )
    });
    let with_pool: Vec<_> = with_pool.collect();
    resolve(&ours(), &Mirror::default(), &mirror(&with_pool))
}

/// What each object is told.
fn told(resolved: &Resolved) -> Vec<(&str, &str, &str)> {
    let verdicts = resolved.verdicts.iter();
    verdicts
        .map(|v| (&*v.name, v.standing.word(), &*v.message))
        .collect()
}

fn exact(model: &str, to: &str) -> Value {
    json!({"matches": [{"model": {"value": model}}], "targets": [{"modelRewrite": to}]})
}

fn winner<'a>(resolved: &'a Resolved, model: &str) -> &'a str {
    &resolved.rules.exact[model].rewrite
}

#[test]
fn authors_hear_of_what_is_wrong_or_odd() {
    let mixed = json!([{"targets": [{"modelRewrite": "x", "weight": 1}, {"modelRewrite": "y"}]}]);
    let resolved = rewrites(&[
        ("plain", 1, json!([exact("m", "x")])),
        ("odd", 2, mixed),
        ("wrong", 3, json!([{"targets": []}])),
    ]);
    let noted = resolved.verdicts.iter();
    let noted: Vec<_> = noted.map(|v| (v.standing.word(), v.noted)).collect();
    assert_eq!(
        noted,
        [("accepted", false), ("accepted", true), ("invalid", true)]
    );
    let odd = &resolved.verdicts[1].message;
    assert!(
        odd.starts_with("spec.rules[0].targets[1]: it has no weight"),
        "{odd}"
    );
}

#[test]
fn older_rewrites_and_earlier_rules_count() {
    let resolved = rewrites(&[
        ("young", 9, json!([exact("m", "x"), exact("own", "x")])),
        ("old", 1, json!([exact("m", "y"), exact("m", "z")])),
        ("b-as-old", 1, json!([exact("n", "x")])),
        ("c-as-old", 1, json!([exact("n", "x")])),
    ]);
    assert_eq!(winner(&resolved, "m"), "old");
    assert_eq!(winner(&resolved, "n"), "b-as-old");
    assert_eq!(
        told(&resolved),
        [
            ("b-as-old", "accepted", "All rules count."),
            (
                "c-as-old",
                "conflicted",
                "spec.rules[0].matches[0]: `b-as-old` has a rule for `n` already"
            ),
            (
                "old",
                "partially_invalid",
                "spec.rules[1].matches[0]: `old` has a rule for `m` already"
            ),
            (
                "young",
                "partially_invalid",
                "spec.rules[0].matches[0]: `old` has a rule for `m` already"
            ),
        ]
    );
    let mut rng = rand::rng();
    assert_eq!(resolved.rules.exact["m"].draw(&mut rng), "y");
}

#[test]
fn a_rule_without_matches_is_for_any_model() {
    let any = json!([{"targets": [{"modelRewrite": "x"}]}]);
    let resolved = rewrites(&[("a", 1, any.clone()), ("b", 2, any)]);
    assert_eq!(&*resolved.rules.any.as_ref().unwrap().rewrite, "a");
    assert_eq!(
        told(&resolved)[1].2,
        "spec.rules[0]: `a` has a rule for any model already"
    );
}

#[test]
fn what_is_wrong_is_named_and_the_rest_counts() {
    let target = |target: Value| json!([exact("m", "x"), {"targets": [target]}]);
    for (rules, standing, message) in [
        (json!([]), "invalid", "spec.rules: there are none"),
        (
            json!([{"matches": []}]),
            "invalid",
            "spec.rules[0].targets: there are none",
        ),
        (
            json!([{"targets": []}, exact("m", "x")]),
            "partially_invalid",
            "spec.rules[0].targets: there are none",
        ),
        (
            json!([exact("", "x")]),
            "invalid",
            "spec.rules[0].matches[0].model.value: it is empty",
        ),
        (
            target(json!({"modelRewrite": ""})),
            "partially_invalid",
            "spec.rules[1].targets[0].modelRewrite: it is empty",
        ),
        (
            target(json!({"modelRewrite": "x", "weight": 0})),
            "partially_invalid",
            "spec.rules[1].targets[0].weight: 0 is not from 1 to 1000000",
        ),
        (
            target(json!({"modelRewrite": "x", "weight": 1000001})),
            "partially_invalid",
            "spec.rules[1].targets[0].weight: 1000001",
        ),
        (
            json!([{"targets": [{"modelRewrite": "x", "weight": 1}, {"modelRewrite": "y"}]}]),
            "accepted",
            "spec.rules[0].targets[1]: it has no weight, beside others",
        ),
        (
            json!([{"matches": [{"model": {"type": "Prefix", "value": "x"}}]}]),
            "invalid",
            "spec.rules[0].matches[0].model.type: unknown variant `Prefix`",
        ),
        (json!("x"), "invalid", "spec.rules: invalid type"),
        (
            json!([{}, {}, {}, {}, {}, {}, {}]),
            "invalid",
            "spec.rules[4].targets: there are none; and 2 more",
        ),
    ] {
        let resolved = rewrites(&[
            ("bad", 1, rules.clone()),
            ("good", 2, json!([exact("good", "x")])),
        ]);
        assert_eq!(winner(&resolved, "good"), "good", "{rules}");
        let told = told(&resolved)[0];
        assert_eq!(told.1, standing, "{rules}");
        assert!(told.2.contains(message), "{told:?}");
    }
}

#[test]
fn objectives_of_our_pool_count() {
    let objective = |pool: Value, priority: Value| json!({"poolRef": pool, "priority": priority});
    let pool = json!({"name": "pool"});
    let of = |field: &str, value: &str| json!({"name": "pool", field: value});
    let objectives = mirror(&[
        ("batch", 1, objective(pool.clone(), json!(-1))),
        ("plain", 2, objective(of("group", ""), json!(null))),
        ("high", 3, objective(pool, json!("high"))),
        ("kind", 4, objective(of("kind", "Service"), json!(1))),
        ("group", 5, objective(of("group", "x-k8s.io"), json!(1))),
        ("other", 6, objective(json!({"name": "other"}), json!(1))),
        ("nothing", 7, json!(null)),
    ]);
    let resolved = resolve(&ours(), &objectives, &Mirror::default());
    let expected = [("batch".to_owned(), -1), ("plain".to_owned(), 0)];
    assert_eq!(resolved.priorities, expected.into());
    let told = told(&resolved);
    assert_eq!((told[0].1, told[0].2), ("accepted", "Its priority is -1."));
    assert!(
        told[2].1 == "invalid" && told[2].2.starts_with("spec.priority: invalid type"),
        "{told:?}"
    );
    assert_eq!(
        told[3],
        (
            "kind",
            "invalid_kind",
            "spec.poolRef.kind: `Service` is not InferencePool"
        )
    );
    assert_eq!((told[4].1, told[5].1), ("other_pool", "other_pool"));
    assert_eq!(told[6].1, "invalid");
    assert!(Standing::WORDS.contains(&told[5].1));
}

#[test]
fn there_are_only_so_many() {
    let rules: Vec<Value> = (0..=MOST_RULES)
        .map(|n| exact(&n.to_string(), "x"))
        .collect();
    let resolved = rewrites(&[
        ("many", 1, json!(rules)),
        ("late", 2, json!([exact("late", "x")])),
    ]);
    assert_eq!(resolved.rules.exact.len(), MOST_RULES);
    assert_eq!(
        (told(&resolved)[0].1, told(&resolved)[1].1),
        ("partially_invalid", "too_many")
    );
    let names: Vec<String> = (0..=MOST_OBJECTIVES).map(|n| format!("o{n:05}")).collect();
    let spec = json!({"poolRef": {"name": "pool"}});
    let objects: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), 1, spec.clone()))
        .collect();
    let resolved = resolve(&ours(), &mirror(&objects), &Mirror::default());
    assert_eq!(resolved.priorities.len(), MOST_OBJECTIVES);
    assert_eq!(told(&resolved)[MOST_OBJECTIVES].1, "too_many");
}
