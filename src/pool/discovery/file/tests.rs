use super::*;

#[test]
fn yaml_and_json() {
    let yaml = "endpoints:\n- {name: a, address: 10.0.0.1, port: \"8000\", labels: {k: v}}\n- {name: a, namespace: n, address: \"[fd00::1]\", port: 8001}\n";
    let json = r#"{"endpoints":[{"name":"a","address":"10.0.0.1","port":"8000","labels":{"k":"v"}},{"name":"a","namespace":"n","address":"fd00::1","port":8001}]}"#;
    let contents = parse(yaml).unwrap();
    assert_eq!(contents, parse(json).unwrap());
    let endpoints = contents.endpoints;
    assert_eq!(endpoints[0].id.to_string(), "default/a");
    assert_eq!(endpoints[0].labels["k"], "v");
    assert_eq!(endpoints[1].socket_addr().to_string(), "[fd00::1]:8001");
    let empty = parse("endpoints: []").unwrap();
    assert!(empty.endpoints.is_empty() && empty.objectives.is_empty());
}

#[test]
fn what_an_endpoint_runs_on_may_be_said() {
    let text = "endpoints:\n- {name: a, address: 10.0.0.1, port: 1, node: n1, gpus: [GPU-1, MIG-2]}\n- {name: b, address: 10.0.0.2, port: 1}\n";
    let endpoints = parse(text).unwrap().endpoints;
    let expected = Hardware {
        node: Some("n1".to_owned()),
        node_address: None,
        gpus: vec!["GPU-1".to_owned(), "MIG-2".to_owned()],
        whole_node: false,
    };
    assert_eq!(endpoints[0].hardware, expected);
    assert_eq!(endpoints[1].hardware, Hardware::default());
}

#[test]
fn objectives_have_priorities() {
    let text = "endpoints: []\nobjectives:\n- {name: batch, priority: -2147483648}\n- {name: chat, priority: 2147483647}\n- name: plain\n";
    let got = parse(text).unwrap().objectives;
    let expected = [("batch", i32::MIN), ("chat", i32::MAX), ("plain", 0)];
    assert_eq!(got, expected.map(|(name, p)| (name.to_owned(), p)).into());
}

#[test]
fn there_are_only_so_many_objectives() {
    let entries: String = (0..=MOST_OBJECTIVES)
        .map(|n| format!("- {{name: o{n}}}\n"))
        .collect();
    let error = parse(&format!("endpoints: []\nobjectives:\n{entries}")).unwrap_err();
    assert_eq!(error, "objectives: there are 1001; keep to 1000");
}

#[test]
fn errors_name_the_entry_and_the_field() {
    for (text, expected) in [
        (
            "endpoints:\n- {name: a, address: host, port: 1}",
            "endpoint `a`: address `host`",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, port: 0}",
            "endpoint `a`: port",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, port: x}",
            "endpoint `a`: port",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, port: 1}\n- {name: a, address: 1.2.3.5, port: 1}",
            "is there twice",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, port: 1}\n- {name: b, namespace: n, address: 1.2.3.4, port: \"1\"}",
            "endpoints `default/a` and `n/b` have one address, 1.2.3.4:1",
        ),
        (
            "endpoints:\n- {name: a, adress: 1.2.3.4, port: 1}",
            "line 2: endpoints[0]: unknown field `adress`; did you mean `address`?",
        ),
        ("endpoints:\n- {name: a, port: 1}", "address"),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, port: 1, node: \"\"}",
            "endpoint `a`: node: write the node's name",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, port: 1, gpus: [GPU-1, \"0\"]}",
            "endpoint `a`: gpus[1]: `0` is not the UUID of a GPU",
        ),
        (
            "endpoints:\n- {name: a, address: 1.2.3.4, port: 1, gpus: [GPU-1, GPU-1]}",
            "endpoint `a`: gpus[1]: GPU-1 is there twice",
        ),
        (
            "endpoints: []\nobjectives:\n- {name: a, priorty: 1}",
            "line 3: objectives[0]: unknown field `priorty`; did you mean `priority`?",
        ),
        (
            "endpoints: []\nobjectives:\n- {name: a, priority: 1}\n- {name: a, priority: 1}",
            "objective `a` is there twice; give each its own name",
        ),
        (
            "endpoints: []\nobjectives:\n- {name: a, priority: 2147483648}",
            "objective `a`: priority 2147483648 is not from -2147483648 to 2147483647",
        ),
        (
            "endpoints: []\nobjectives:\n- {name: a, priority: high}",
            "line 3: objectives[0].priority",
        ),
        (
            "endpoints: []\nobjectives:\n- {name: \"\"}",
            "objectives: `name` is empty",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// An endpoint for each character of `names`.
fn document(names: &str) -> String {
    let entry = |(n, name)| format!("- {{name: {name}, address: 10.0.0.{n}, port: 1}}\n");
    let entries: String = names.chars().enumerate().map(entry).collect();
    format!("endpoints:\n{entries}")
}

#[tokio::test]
async fn edits_are_followed_and_bad_ones_are_not() {
    let dir = std::env::temp_dir().join(format!("pointsman-discovery-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("endpoints.yaml");
    let put = |names: &str| {
        let next = dir.join("next");
        std::fs::write(&next, document(names)).unwrap();
        std::fs::rename(next, &path).unwrap();
    };
    put("a");
    let pool = Arc::new(Pool::default());
    let stop = CancellationToken::new();
    let task = spawn(Arc::clone(&pool), path.clone(), true, stop.clone()).unwrap();
    assert_eq!(pool.snapshot().len(), 1);
    std::fs::write(&path, "endpoints: nonsense").unwrap();
    tokio::time::sleep(PACE.quiet * 4).await;
    assert_eq!(pool.snapshot().len(), 1);
    put("abc");
    while pool.snapshot().len() != 3 {
        tokio::time::sleep(PACE.quiet / 5).await;
    }
    // Objectives alone are a change too, and stay as they are while the file is bad.
    let next = dir.join("next");
    let with_objective = document("abc") + "objectives: [{name: batch, priority: -1}]\n";
    std::fs::write(&next, with_objective).unwrap();
    std::fs::rename(next, &path).unwrap();
    while pool.objectives.priority("batch") != -1 {
        tokio::time::sleep(PACE.quiet / 5).await;
    }
    std::fs::write(&path, "endpoints: []\nobjectives: nonsense").unwrap();
    tokio::time::sleep(PACE.quiet * 4).await;
    let kept = (pool.objectives.priority("batch"), pool.snapshot().len());
    assert_eq!(kept, (-1, 3));
    stop.cancel();
    task.unwrap().await.unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}
