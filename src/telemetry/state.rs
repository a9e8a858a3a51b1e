//! What plugins and other parts hold now, for people: `GET /debug/plugins/state`.
//!
//! Each part adds a section of its own with one [`States::add`]. A section is made when it is asked for; it has a bound of its
//! own, and nothing in it that a client wrote.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::{Map, Value};

/// More than this of anything that a section lists is left out, and the section says so.
pub const MOST_SHOWN: usize = 256;

/// The sections; the page has them by name.
#[derive(Default)]
pub struct States(RwLock<Vec<(&'static str, Section)>>);

type Section = Box<dyn Fn() -> Value + Send + Sync>;

/// The sections of a process, by its pools.
#[derive(Debug)]
pub enum PoolStates {
    /// There is one pool.
    One(Arc<States>),
    /// Several, by `<namespace>/<name>`.
    Several(BTreeMap<String, Arc<States>>),
}

// === impl States ===

impl States {
    /// Shows what `section` returns under `name`, from now on.
    pub fn add(&self, name: &'static str, section: impl Fn() -> Value + Send + Sync + 'static) {
        self.0.write().push((name, Box::new(section)));
    }

    /// The section called `name` as it is now; null if there is none.
    pub fn section(&self, name: &str) -> Value {
        let sections = self.0.read();
        let found = sections.iter().find(|(known, _)| *known == name);
        found.map_or(Value::Null, |(_, section)| section())
    }

    /// All sections as they are now, but those of `without`.
    pub fn page(&self, without: &[&str]) -> Value {
        let sections = self.0.read();
        let sections = sections.iter().filter(|(name, _)| !without.contains(name));
        let page: Map<String, Value> = sections
            .map(|(name, section)| ((*name).to_owned(), section()))
            .collect();
        Value::Object(page)
    }
}

// === impl PoolStates ===

impl PoolStates {
    /// Everything, but sections of `without`.
    pub fn page(&self, without: &[&str]) -> Value {
        match self {
            Self::One(states) => states.page(without),
            Self::Several(pools) => {
                let pools = pools.iter();
                let pools = pools.map(|(name, states)| (name.clone(), states.page(without)));
                Value::Object(pools.collect())
            }
        }
    }

    /// The section called `name` of `pool`, which must be named where there are several; the error says so.
    pub fn section(&self, pool: Option<&str>, name: &str) -> Result<Value, String> {
        match (self, pool) {
            (Self::One(states), None) => Ok(states.section(name)),
            (Self::One(_), Some(_)) => Err("there is one pool: name none\n".to_owned()),
            (Self::Several(pools), pool) => match pool.and_then(|pool| pools.get(pool)) {
                Some(states) => Ok(states.section(name)),
                None => {
                    let names: Vec<_> = pools.keys().map(String::as_str).collect();
                    let names = names.join(", ");
                    Err(format!("name a pool with ?pool=: one of {names}\n"))
                }
            },
        }
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = self.0.read();
        let names = sections.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}
