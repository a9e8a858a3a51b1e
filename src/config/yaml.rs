//! YAML with places: what does not fit is told with its line and its field.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use serde_saphyr::{Error, Spanned};

use super::{Problem, did_you_mean};

/// Reads `text`, YAML or JSON, as `T`. The error has the line, the field, and of an unknown name the nearest known.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let mut path = String::new();
    serde_saphyr::with_deserializer_from_str(text, |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            path = fields(error.path());
            error.into_inner()
        })
    })
    .map_err(|error| problem(&error, &path))
}

/// A value of any shape, and the line of everything in it.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) value: Value,
    /// By path, written `a.b[0].c`; the whole is the empty path. An entry of a mapping is where its key is.
    lines: HashMap<String, u64>,
}

/// A value as it is read, before its parts have paths.
struct Node {
    line: u64,
    shape: Shape,
}

enum Shape {
    Scalar(Value),
    List(Vec<Node>),
    Mapping(Vec<(Spanned<String>, Node)>),
}

/// A path as the file's reader knows it: without the `value` in which [`Spanned`] wraps what it holds.
fn fields(path: &serde_path_to_error::Path) -> String {
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => out.push_str(&format!("[{index}]")),
            Segment::Map { key } if key != "value" => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    out
}

fn problem(error: &Error, path: &str) -> Problem {
    let error = error.without_snippet();
    let line = error.location().map_or(0, |at| at.line());
    let message = match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let message = unknown_field(field, expected.iter().copied());
            let owner = path.strip_suffix(field.as_str()).unwrap_or(path);
            return Problem::new(line, within(owner.trim_end_matches('.'), &message));
        }
        Error::Unexpected { expected, .. } => match *expected {
            "sequence start" => "expected a list".to_owned(),
            "mapping start" => "expected a mapping, `key: value`".to_owned(),
            "string scalar" => "expected a single value".to_owned(),
            other => format!("expected {other}"),
        },
        Error::InvalidScalar { ty, .. } => match *ty {
            "boolean" => "expected true or false".to_owned(),
            "floating point" => "expected a number".to_owned(),
            other => format!("expected a value of type {other}"),
        },
        Error::DuplicateMappingKey { key, .. } => match key {
            Some(key) => format!("the key `{key}` is there twice"),
            None => "a key is there twice".to_owned(),
        },
        Error::MultipleDocuments { .. } => "one YAML document is taken, no more".to_owned(),
        other => {
            let message = other.to_string();
            // The place is told already.
            let end = message.rfind(" at line ").unwrap_or(message.len());
            message[..end].to_owned()
        }
    };
    Problem::new(line, within(path, &message))
}

fn within(path: &str, message: &str) -> String {
    match path {
        "" => message.to_owned(),
        path => format!("{path}: {message}"),
    }
}

/// What to say of a field that is not known here.
pub(super) fn unknown_field<'a>(
    field: &str,
    expected: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let hint = did_you_mean(field, expected.clone());
    let known: Vec<&str> = expected.collect();
    format!(
        "unknown field `{field}`{hint} (known here: {})",
        known.join(", ")
    )
}

// === impl Tree ===

impl Tree {
    /// The line of what is at `path`, or of the nearest that it is in; 0 = not known.
    pub(super) fn line(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            path = match path.rfind(['.', '[']) {
                Some(end) => &path[..end],
                None if path.is_empty() => return 0,
                None => "",
            };
        }
    }

    fn add(&mut self, path: String, line: u64, node: Node) -> Value {
        let value = match node.shape {
            Shape::Scalar(value) => value,
            Shape::List(items) => items
                .into_iter()
                .enumerate()
                .map(|(n, item)| self.add(format!("{path}[{n}]"), item.line, item))
                .collect(),
            Shape::Mapping(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    let line = key.referenced.line();
                    let path = match path.as_str() {
                        "" => key.value.clone(),
                        path => format!("{path}.{}", key.value),
                    };
                    let value = self.add(path, line, node);
                    map.insert(key.value, value);
                }
                Value::Object(map)
            }
        };
        self.lines.insert(path, line);
        value
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let mut tree = Self {
            value: Value::Null,
            lines: HashMap::new(),
        };
        tree.value = tree.add(String::new(), node.line, node);
        Ok(tree)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Shape>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            shape: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyShape)
    }
}

struct AnyShape;

impl<'de> Visitor<'de> for AnyShape {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        Shape::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Shape::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_in_a_tree_has_its_line() {
        let text = "\
a: 1
b:
  c: [x,
    {d: null}]
  e:
  - f: 1.5
    g: \"y\"
  - true
h: -3
";
        let tree: Tree = read(text).unwrap();
        assert_eq!(
            tree.value,
            json!({"a": 1, "b": {"c": ["x", {"d": null}], "e": [{"f": 1.5, "g": "y"}, true]}, "h": -3})
        );
        for (path, line) in [
            ("", 1),
            ("a", 1),
            ("b", 2),
            ("b.c", 3),
            ("b.c[0]", 3),
            ("b.c[1].d", 4),
            ("b.e", 5),
            ("b.e[0].g", 7),
            ("b.e[1]", 8),
            ("h", 9),
            // Not there: where it should be.
            ("b.e[0].nothing", 6),
            ("b.e[7].nothing.more", 5),
            ("nothing", 1),
        ] {
            assert_eq!(tree.line(path), line, "{path}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_line_and_field() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its shape matters")]
        struct File {
            list: Vec<Entry>,
            #[serde(default)]
            tree: Option<Tree>,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its shape matters")]
        struct Entry {
            name: Spanned<String>,
            #[serde(default)]
            on: bool,
            #[serde(default)]
            weight: Option<Spanned<f64>>,
        }
        for (text, expected) in [
            ("list: 3", "line 1: list: expected a list"),
            ("list:\n- 3", "line 2: list[0]: expected a mapping"),
            ("\n\nlist: {a: b}", "line 3: list: expected a list"),
            (
                "list:\n- name: a\n  on: often",
                "line 3: list[0].on: expected true or false",
            ),
            (
                "list:\n- name:\n    x: y",
                "line 3: list[0].name: expected a single value",
            ),
            (
                "list:\n- name: a\n- name: b\n  weight: much",
                "line 4: list[1].weight: expected a number",
            ),
            (
                "list:\n- name: a\n  wight: 1",
                "line 3: list[0]: unknown field `wight`; did you mean `weight`?",
            ),
            (
                "lst: []",
                "line 1: unknown field `lst`; did you mean `list`?",
            ),
            ("list:\n- on: true", "line 2: list[0]: missing field `name`"),
            (
                "list: []\nlist: []",
                "line 2: the key `list` is there twice",
            ),
            ("list: []\n---\nlist: []", "one YAML document"),
            ("list: [\n", "line 1: "),
            ("list: []\ntree: {a: [}", "line 2: "),
        ] {
            let got = read::<File>(text).unwrap_err().to_string();
            assert!(
                got.starts_with(expected)
                    || (got.contains(expected) && expected.starts_with("one")),
                "{text}\ngave\n{got}\nnot\n{expected}"
            );
            assert_eq!(got.matches("line").count(), 1, "{got}");
        }
    }
}
