use super::*;

const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";
const PROFILES: &str = "schedulingProfiles:\n- {name: prefill, plugins: [{pluginRef: queue-scorer}]}\n- {name: decode, plugins: [{pluginRef: queue-scorer}]}\n";

/// A file with `plugins` and two profiles.
fn loaded(plugins: &str) -> Result<PickerConfig, String> {
    let text = format!("{HEAD}plugins:\n- type: queue-scorer\n{plugins}{PROFILES}");
    let options = LoadOptions {
        allow_experimental: true,
    };
    load(&text, options).map_err(|errors| errors.to_string())
}

fn disagg(config: &PickerConfig) -> &DisaggSpec {
    match &config.handler.spec {
        HandlerSpec::Disagg(spec) => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_decider_may_be_declared_after_the_handler_and_pickers_are_injected_by_profile() {
    let config = loaded(
        "- type: disagg-profile-handler\n  parameters: {deciders: {prefill: d}}\n- {type: always-disagg-pd-decider, name: d}\n",
    )
    .unwrap();
    let spec = disagg(&config);
    assert_eq!(spec.decode, 1);
    let (profile, decider) = spec.prefill.as_ref().unwrap();
    assert_eq!(
        (*profile, decider.as_ref().unwrap().name.as_str()),
        (0, "d")
    );
    assert!(spec.encode.is_none());
    for name in ["prefill", "decode"] {
        let injected = format!("max-score-picker: profile `{name}` has no picker");
        assert!(config.injected.contains(&injected), "{:?}", config.injected);
    }
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn without_a_decider_prefill_runs_always_or_never() {
    let config = loaded("- type: disagg-profile-handler\n").unwrap();
    assert!(disagg(&config).prefill.is_none());
    let warning = config.warnings[0].to_string();
    assert!(
        warning.contains("profile `prefill` never runs"),
        "{warning}"
    );
    let config =
        loaded("- type: disagg-profile-handler\n  parameters: {stageOrder: prefill-first}\n")
            .unwrap();
    assert!(matches!(disagg(&config).prefill, Some((0, None))));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn a_header_chooses_between_profiles() {
    let config = loaded(
        "- type: header-profile-handler\n  parameters: {headerName: X-Phase, defaultProfile: prefill}\n",
    )
    .unwrap();
    assert!(
        matches!(&config.handler.spec, HandlerSpec::Header { header, default: 0 } if header == "x-phase")
    );
    let options = LoadOptions {
        allow_experimental: true,
    };
    let one = "plugins: [{type: header-profile-handler}, {type: queue-scorer}]\n";
    let config = load(&format!("{HEAD}{one}"), options).unwrap();
    assert!(matches!(
        config.handler.spec,
        HandlerSpec::Header { default: 0, .. }
    ));
}

#[test]
fn deprecated_handlers_become_the_new_ones() {
    let config = loaded(
        "- type: prefill-header-handler\n- type: disagg-headers-handler\n  parameters: {prefillProfile: prefill}\n- type: pd-profile-handler\n  parameters: {primaryPort: 8000, prefixPluginName: x}\n- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 9}}\n",
    )
    .unwrap();
    let spec = disagg(&config);
    assert_eq!((spec.decode, spec.primary_port), (1, Some(8000)));
    let (_, decider) = spec.prefill.as_ref().unwrap();
    assert_eq!(decider.as_ref().unwrap().name, "prefix-based-pd-decider");
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    for warning in &warnings {
        assert!(warning.contains("deprecated; "), "{warning}");
    }
    assert!(
        warnings[2].contains("write disagg-profile-handler"),
        "{warnings:?}"
    );
    let one = "plugins: [{type: data-parallel-profile-handler}, {type: queue-scorer}]\n";
    let config = load(&format!("{HEAD}{one}"), LoadOptions::default()).unwrap();
    let spec = &config.handler.spec;
    assert!(matches!(
        spec,
        HandlerSpec::DataParallel { primary_port: 8000 }
    ));
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn what_is_wrong_with_a_handler_is_told_with_its_remedy() {
    let decider = "- type: prefix-based-pd-decider\n";
    for (plugins, expected) in [
        (
            "",
            "line 7: schedulingProfiles: single-profile-handler runs one profile and there are 2; declare a disagg-profile-handler",
        ),
        (
            "- type: single-profile-handler\n",
            "line 8: schedulingProfiles: single-profile-handler runs one profile and there are 2",
        ),
        (
            "- type: data-parallel-profile-handler\n",
            "line 8: schedulingProfiles: data-parallel-profile-handler runs one profile",
        ),
        (
            "- type: disagg-profile-handler\n- type: header-profile-handler\n",
            "line 6: plugins: more than one profile handler; keep one",
        ),
        (
            "- type: header-profile-handler\n  parameters: {defaultProfile: encode}\n",
            "line 6: plugin `header-profile-handler`: parameters.defaultProfile: no profile is called `encode`",
        ),
        (
            "- type: header-profile-handler\n  parameters: {headerName: a b}\n",
            "line 6: plugin `header-profile-handler`: parameters.headerName: `a b` is not the name of a header",
        ),
        (
            "- type: disagg-profile-handler\n  parameters: {profiles: {decode: decod}}\n",
            "parameters.profiles.decode: no profile is called `decod`; did you mean `decode`?",
        ),
        (
            "- type: disagg-profile-handler\n  parameters: {deciders: {prefill: x}}\n",
            "parameters.deciders.prefill: no plugin is called `x`; declare it under `plugins`",
        ),
        (
            "- type: disagg-profile-handler\n  parameters: {deciders: {prefill: queue-scorer}}\n",
            "parameters.deciders.prefill: `queue-scorer` is a scorer, not a decider",
        ),
        (
            "- type: disagg-profile-handler\n  parameters: {stageOrder: encode-first}\n",
            "parameters.stageOrder: unknown variant `encode-first`",
        ),
        (
            "- type: pd-profile-handler\n",
            "parameters.deciderPluginName: no plugin is called `prefix-based-pd-decider`",
        ),
        (
            "- type: disagg-headers-handler\n  parameters: {x: 1}\n- type: disagg-profile-handler\n",
            "plugin `disagg-headers-handler`: parameters: unknown field `x`",
        ),
    ] {
        let got = loaded(plugins).unwrap_err();
        assert!(
            got.contains(expected),
            "{plugins}\ngave\n{got}\nnot\n{expected}"
        );
        assert_eq!(got.lines().count(), 1, "{got}");
    }
    let first = "- type: disagg-profile-handler\n  parameters: {stageOrder: prefill-first, deciders: {prefill: prefix-based-pd-decider}}\n";
    let got = loaded(&format!("{first}{decider}")).unwrap_err();
    assert!(got.contains("or write decode-first"), "{got}");
}

#[test]
fn who_asks_where_endpoints_are_finds_whom_to_ask() {
    let of = |plugins: &str| {
        let options = LoadOptions {
            allow_experimental: true,
        };
        let text = format!("{HEAD}plugins:\n- type: queue-scorer\n{plugins}");
        load(&text, options).map_err(|errors| errors.to_string())
    };
    let filter = "- type: topology-affinity-filter\n  parameters: {topologyProducerName: b}\n";
    let two = "- type: topology-extractor\n- {type: topology-extractor, name: b, parameters: {hostname: x/slice}}\n";
    let config = of(&format!("{filter}{two}")).unwrap();
    let producer = config.profiles[0].filters[0].producer.as_ref().unwrap();
    assert!(
        producer.to_json().contains(r#""hostname":"x/slice""#),
        "{}",
        producer.to_json()
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let got = of(filter).unwrap_err();
    assert!(got.contains("line 6: plugin `topology-affinity-filter`: parameters.topologyProducerName: no topology-extractor is called `b`"), "{got}");
    let config = of("- type: topology-affinity-scorer\n").unwrap();
    assert!(config.warnings[0].to_string().contains("has no effect"));
    let got = of("- type: topology-extractor\n  parameters: {host: x}\n").unwrap_err();
    assert!(got.contains("unknown field `host`"), "{got}");
}
