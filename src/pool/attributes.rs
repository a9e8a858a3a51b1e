//! Numbers of one endpoint that a configuration asks for by name.

/// More than this of one endpoint are not kept: the first ones of the configuration are.
pub const MOST_ATTRIBUTES: usize = 16;

/// Attributes of one endpoint, by [`attribute_key`], as the last page told them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(Vec<(u64, f32)>);

/// What an attribute's name becomes: equal names, equal keys.
pub fn attribute_key(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

// === impl Attributes ===

impl Attributes {
    /// Takes the first value of an attribute; what is no number is no value.
    pub fn put(&mut self, key: u64, value: f32) {
        if value.is_finite() && self.0.len() < MOST_ATTRIBUTES && self.get(key).is_none() {
            self.0.push((key, value));
        }
    }

    /// The attribute's value, if there is one.
    pub fn get(&self, key: u64) -> Option<f32> {
        let found = self.0.iter().find(|(known, _)| *known == key);
        found.map(|&(_, value)| value)
    }

    /// How many attributes have a value.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No attribute has a value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_values_count_and_there_is_a_bound() {
        let mut attributes = Attributes::default();
        attributes.put(1, f32::NAN);
        assert!(attributes.is_empty());
        attributes.put(1, 2.0);
        attributes.put(1, 3.0);
        (10..100).for_each(|key| attributes.put(key, 0.0));
        assert_eq!(attributes.get(1), Some(2.0));
        assert_eq!(attributes.0.len(), MOST_ATTRIBUTES);
    }
}
