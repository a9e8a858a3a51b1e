//! The text format.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) kind: String,
    /// The same for all of its samples.
    pub(super) labels: Option<BTreeSet<String>>,
    pub(super) bounds: Vec<String>,
}

/// Reads a page of Prometheus' text format 0.0.4, strictly.
pub(super) fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut lines = page.lines();
    let mut current = String::new();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap();
            let kind = lines.next().unwrap();
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(
                ["counter", "gauge", "histogram"].contains(&kind),
                "{line}: {kind}"
            );
            let fresh = Family {
                kind: kind.to_owned(),
                ..Default::default()
            };
            assert!(
                families.insert(name.to_owned(), fresh).is_none(),
                "{name} is there twice"
            );
            current = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(current.as_str()).unwrap();
        match family.kind.as_str() {
            "histogram" => assert!(["_sum", "_count", "_bucket"].contains(&suffix), "{line}"),
            "counter" => assert!(suffix.is_empty() && name.ends_with("_total"), "{line}"),
            _ => assert!(suffix.is_empty(), "{line}"),
        }
        let mut names = BTreeSet::new();
        // None of the values here has a comma or a quote.
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap();
            let value = value.strip_suffix('"').unwrap();
            assert!(!name.is_empty() && !value.contains('"'), "{line}");
            if name == "le" {
                if !family.bounds.iter().any(|known| known == value) {
                    family.bounds.push(value.to_owned());
                }
            } else {
                assert!(names.insert(name.to_owned()), "{line}");
            }
        }
        assert_eq!(*family.labels.get_or_insert(names.clone()), names, "{line}");
    }
    families
}
