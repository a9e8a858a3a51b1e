//! Which series of a page is meant.

/// A metric name, with labels that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricSpec {
    /// The whole name.
    pub name: String,
    /// Labels and their values.
    pub labels: Vec<(String, String)>,
}

/// A metric spec that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a metric; write name or name{{label=value,…}}")]
pub struct BadSpec(String);

// === impl MetricSpec ===

impl MetricSpec {
    /// Reads `name` or `name{label=value,…}`; values may be quoted, and must be if they hold anything that has a meaning
    /// outside quotes. Labels can be equal and nothing else: what selects otherwise (`!=`, `=~`) is an error.
    pub fn parse(text: &str) -> Result<Self, BadSpec> {
        Self::read(text.trim()).ok_or_else(|| BadSpec(text.to_owned()))
    }

    fn read(text: &str) -> Option<Self> {
        let (name, mut rest) = name(text, ":")?;
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner.trim_start();
            while !rest.starts_with('}') {
                let (key, after) = label(rest)?;
                labels.push(key);
                rest = match after.trim_start() {
                    end if end.starts_with('}') => end,
                    more => more.strip_prefix(',')?.trim_start(),
                };
            }
            rest = &rest[1..];
        }
        rest.is_empty().then_some(Self {
            name: name.to_owned(),
            labels,
        })
    }
}

/// The name at the beginning of `text`, and what follows. It may hold the characters of `more`.
fn name<'a>(text: &'a str, more: &str) -> Option<(&'a str, &'a str)> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
    let end = text.find(|c| !in_name(c)).unwrap_or(text.len());
    let starts_well = text.starts_with(|c: char| in_name(c) && !c.is_ascii_digit());
    starts_well.then(|| text.split_at(end))
}

/// `label=value` or `label="value"` at the beginning of `text`, and what follows.
fn label(text: &str) -> Option<((String, String), &str)> {
    let (key, rest) = name(text, "")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted
            .split_once('"')
            .filter(|(value, _)| !value.contains('\\'))?,
        None => {
            let special = |c: char| c.is_whitespace() || ",{}\"'=~!".contains(c);
            rest.split_at(rest.find(special)?)
        }
    };
    Some(((key.to_owned(), value.to_owned()), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        for (text, name, labels) in [
            ("a:b", "a:b", &[][..]),
            (
                " vllm:num_requests_waiting ",
                "vllm:num_requests_waiting",
                &[],
            ),
            ("a{}", "a", &[]),
            ("a{x=1}", "a", &[("x", "1")]),
            (r#"a:b{x=1, y="two"}"#, "a:b", &[("x", "1"), ("y", "two")]),
            (r#"a{ x = "a,}=~b" , }"#, "a", &[("x", "a,}=~b")]),
            ("a{x=b-c.d/e:f}", "a", &[("x", "b-c.d/e:f")]),
        ] {
            let spec = MetricSpec::parse(text).unwrap();
            let got: Vec<_> = spec
                .labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            assert_eq!((spec.name.as_str(), &*got), (name, labels), "{text}");
        }
    }

    #[test]
    fn what_selects_otherwise_is_an_error() {
        for bad in [
            "",
            "a{",
            "a{x}",
            "a b",
            "{x=1}",
            "a{x=1",
            "a}",
            "a{x=1}b",
            "1a",
            "a{1x=2}",
            "a{x!=1}",
            r#"a{x!="1"}"#,
            "a{x=~1}",
            r#"a{x=~"1.*"}"#,
            "a{x!~1}",
            "a{x==1}",
            "a{x=\"1}",
            "a{x=1 y=2}",
            "a{,}",
            "sum(a)",
            "a[5m]",
            r#"a{x="\d"}"#,
        ] {
            let error = MetricSpec::parse(bad).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("`{bad}` is not a metric")),
                "{error}"
            );
        }
    }
}
