//! The list of what is missing, kept in order and changed only where something changed.

use crate::telemetry::Missing;

/// Notes why `field` is missing; none = it is not.
pub(super) fn set(list: &mut Vec<Missing>, field: &str, why: Option<&str>) {
    match (
        list.binary_search_by(|missing| missing.field.as_str().cmp(field)),
        why,
    ) {
        (Ok(at), None) => _ = list.remove(at),
        (Ok(at), Some(why)) if list[at].why != why => why.clone_into(&mut list[at].why),
        (Err(at), Some(why)) => list.insert(
            at,
            Missing {
                field: field.to_owned(),
                why: why.to_owned(),
            },
        ),
        (Ok(_), Some(_)) | (Err(_), None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_once_and_in_order() {
        let mut list = Vec::new();
        for (field, why) in [
            ("b", Some("x")),
            ("a", Some("x")),
            ("b", Some("y")),
            ("c", None),
            ("a", Some("x")),
        ] {
            set(&mut list, field, why);
        }
        let told: Vec<_> = list
            .iter()
            .map(|m| (m.field.as_str(), m.why.as_str()))
            .collect();
        assert_eq!(told, [("a", "x"), ("b", "y")]);
        set(&mut list, "a", None);
        assert_eq!(list.len(), 1);
    }
}
