//! One line of the Prometheus text format.

use std::borrow::Cow;

/// A longer line is bad. Those of dcgm-exporter have some 500 bytes.
pub(super) const LONGEST_LINE: usize = 16 << 10;

/// More labels than that on a line, and it is bad.
const MOST_LABELS: usize = 64;

/// A line that holds a value.
#[derive(Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    labels: Vec<(&'a str, Cow<'a, str>)>,
    pub(super) value: f64,
}

impl<'a> Sample<'a> {
    /// The value of the first of `names` that the line has and that is not empty.
    pub(super) fn label(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| {
            let value = self
                .labels
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_ref());
            value.filter(|v| !v.is_empty())
        })
    }

    /// Reads a line; a comment or an empty one is `Ok(None)`, what is malformed `Err`.
    pub(super) fn read(line: &'a str) -> Result<Option<Self>, ()> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        if line.len() > LONGEST_LINE {
            return Err(());
        }
        let end = line
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
            .ok_or(())?;
        let (name, rest) = line.split_at(end);
        if name.is_empty() {
            return Err(());
        }
        let mut labels = Vec::new();
        let mut rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = read_labels(inside, &mut labels)?;
        }
        // A timestamp may follow; it says nothing that is needed.
        let mut words = rest.split_ascii_whitespace();
        let value = words.next().ok_or(())?.parse().map_err(|_| ())?;
        if words.next().is_some_and(|w| w.parse::<f64>().is_err()) || words.next().is_some() {
            return Err(());
        }
        Ok(Some(Self {
            name,
            labels,
            value,
        }))
    }
}

/// Reads labels up to the closing brace; what follows it.
fn read_labels<'a>(
    mut rest: &'a str,
    labels: &mut Vec<(&'a str, Cow<'a, str>)>,
) -> Result<&'a str, ()> {
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (name, after) = rest.split_once('=').ok_or(())?;
        let quoted = after.trim_start().strip_prefix('"').ok_or(())?;
        let end = closing_quote(quoted).ok_or(())?;
        if labels.len() == MOST_LABELS {
            return Err(());
        }
        labels.push((name.trim(), unescape(&quoted[..end])));
        rest = &quoted[end + 1..];
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some(next)) => out.push(next),
            (c, _) => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_line() {
        let line = r#"DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a", modelName="say \"H100\" \\ n",pod=""} 312 1788184174081"#;
        let sample = Sample::read(line).unwrap().unwrap();
        assert_eq!((sample.name, sample.value), ("DCGM_FI_DEV_FB_USED", 312.0));
        assert_eq!(sample.label(&["UUID"]), Some("GPU-a"));
        assert_eq!(sample.label(&["modelName"]), Some(r#"say "H100" \ n"#));
        assert_eq!(
            sample.label(&["pod", "gpu"]),
            Some("0"),
            "an empty label is none"
        );
        assert_eq!(sample.label(&["absent"]), None);
        assert_eq!(Sample::read("up 1").unwrap().unwrap().value, 1.0);
        assert!(Sample::read("up NaN").unwrap().unwrap().value.is_nan());
        assert_eq!(Sample::read("up{} 1e3").unwrap().unwrap().value, 1000.0);
        for nothing in ["", "  ", "# HELP a b", "#"] {
            assert_eq!(Sample::read(nothing), Ok(None));
        }
    }

    #[test]
    fn what_is_malformed_is_an_error() {
        let long = format!("a{{b=\"{}\"}} 1", "x".repeat(LONGEST_LINE));
        let many = format!("a{{{}}} 1", r#"b="c","#.repeat(MOST_LABELS + 1));
        for bad in [
            "name",
            "{} 1",
            "a{b} 1",
            r#"a{b="c} 1"#,
            r#"a{b="c" 1"#,
            r#"a{b=c} 1"#,
            "a x",
            "a 1 x",
            "a 1 2 3",
            r#"a{b="c\"} 1"#,
            &long,
            &many,
        ] {
            assert_eq!(Sample::read(bad), Err(()), "{bad}");
        }
    }
}
