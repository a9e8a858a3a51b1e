//! Request bodies, read as Python reads them.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::reply::Refused;

/// The members of a JSON object. Of duplicate keys the last one counts, and `null` is as good as nothing.
#[derive(Debug)]
pub(super) struct Fields<'a>(HashMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    /// Reads a body.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Refused> {
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        let members = serde_json::from_slice(body);
        members
            .map(Self)
            .map_err(|error| Refused::Bad(error.to_string()))
    }

    /// A member as it stands.
    pub(super) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied().filter(|raw| raw.get() != "null")
    }

    /// A member as a value of a certain type; an error if it is one of another.
    pub(super) fn get<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, Refused> {
        let value = self.raw(name).map(|raw| serde_json::from_str(raw.get()));
        value
            .transpose()
            .map_err(|error| Refused::Bad(format!("{name}: {error}")))
    }

    /// A value without which the request makes no sense.
    pub(super) fn required<T: Deserialize<'a>>(&self, name: &str) -> Result<T, Refused> {
        let value = self.get(name)?;
        value.ok_or_else(|| Refused::Bad(format!("{name}: Field required")))
    }

    /// A flag; absent is `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Refused> {
        Ok(self.get(name)?.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_duplicates_counts() {
        let body = "\u{feff}{\"model\":1,\"stream\":null,\"mod\\u0065l\":\"b\",\"n\":1.5}";
        let fields = Fields::read(body.as_bytes()).unwrap();
        assert_eq!(fields.get("model"), Ok(Some("b".to_owned())));
        assert_eq!(fields.flag("stream"), Ok(false));
        assert_eq!(fields.get::<u64>("absent"), Ok(None));
        let error = fields.get::<u64>("n").unwrap_err().to_string();
        assert!(error.starts_with("n: "), "{error}");
        assert!(Fields::read(b"[1]").is_err() && Fields::read(b"{").is_err());
    }
}
