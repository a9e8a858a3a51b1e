//! A picker's own metrics page. Pages are long and asked for often: only the lines in question are read.

use super::expect::Change;

const PREFIX: &str = "llm_d_epp_";

/// A page as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page(pub(crate) String);

/// One series and its value.
struct Sample<'a> {
    labels: &'a str,
    value: f64,
}

// === impl Page ===

impl Page {
    /// The series called `name`, without the prefix.
    fn series(&self, name: &str) -> impl Iterator<Item = Sample<'_>> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(PREFIX)?.strip_prefix(name)?;
            match rest.strip_prefix('{') {
                Some(rest) => {
                    let (labels, value) = rest.rsplit_once('}')?;
                    Sample::new(labels, value)
                }
                None => Sample::new("", rest.strip_prefix(' ')?),
            }
        })
    }

    /// The sum of the series called `name` that have `labels`.
    pub(crate) fn sum<'a>(
        &self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a String, &'a String)> + Clone,
    ) -> f64 {
        let has_all = |sample: &Sample<'_>| {
            let mut labels = labels.clone().into_iter();
            labels.all(|(key, value)| sample.label(key) == Some(value))
        };
        let wanted = self.series(name).filter(has_all);
        wanted.map(|sample| sample.value).sum()
    }

    /// The sum of all series called `name`.
    pub(crate) fn total(&self, name: &str) -> f64 {
        self.series(name).map(|sample| sample.value).sum()
    }

    /// The gauge `name` of each endpoint, in the order of their names.
    pub(crate) fn by_endpoint(&self, name: &str) -> Vec<(String, f64)> {
        let gauge = |s: Sample<'_>| Some((s.label("model_server_endpoint")?.to_owned(), s.value));
        let mut gauges: Vec<_> = self.series(name).filter_map(gauge).collect();
        gauges.sort_by(|a, b| a.0.cmp(&b.0));
        gauges
    }

    /// What `change` does not find between `before` and this page.
    pub(crate) fn lacks(&self, before: &Page, change: &Change) -> Option<String> {
        let labels = &change.labels;
        let by = self.sum(&change.name, labels) - before.sum(&change.name, labels);
        ((by - change.by).abs() > 1e-6).then(|| {
            let (name, wanted) = (&change.name, change.by);
            format!("{name}{labels:?} changed by {by}, not by {wanted}")
        })
    }
}

// === impl Sample ===

impl<'a> Sample<'a> {
    fn new(labels: &'a str, value: &str) -> Option<Self> {
        let value = value.trim().split(' ').next()?.parse().ok()?;
        Some(Self { labels, value })
    }

    /// Label values of ours hold no commas or quotes.
    fn label(&self, key: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (name, value) = label.split_once('=')?;
            (name == key).then(|| value.trim_matches('"'))
        })
    }
}
