//! Labels of a series.

/// Name and value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// Labels in braces as Python's client prints them: sorted by name, values escaped. No labels, no braces.
pub(super) fn sorted(labels: &[Label<'_>]) -> String {
    let mut labels = labels.to_vec();
    labels.sort_unstable();
    let mut out = String::new();
    for (n, (name, value)) in labels.iter().enumerate() {
        out.push(if n == 0 { '{' } else { ',' });
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_escaped() {
        assert_eq!(sorted(&[]), "");
        let labels = sorted(&[("model_name", "a\"b\\c\nd"), ("engine", "0")]);
        assert_eq!(labels, r#"{engine="0",model_name="a\"b\\c\nd"}"#);
    }
}
