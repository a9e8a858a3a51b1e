//! NVLink: which links are up, and their errors.
//!
//! A GPU has up to 18 links with four counters each. So the counters of single links are read when the sum over all
//! links, which is one number, has changed; and by field values, which are one call, where the GPU has them.

use super::fields;
use super::library::{Handle, Library, Why};
use super::raw;
use crate::telemetry::Link;

/// NVML_NVLINK_MAX_LINKS.
const MOST_LINKS: u32 = 18;
/// How many kinds of errors a link counts: replays, recoveries, CRC errors of flits and of data.
const COUNTERS: u32 = 4;

/// The links of a board.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// How many; none = not asked yet.
    count: Option<u32>,
    /// The sum when the links' own counters were read.
    sum: Option<u64>,
    /// Of each link; none = its counters cannot be read.
    errors: Vec<Option<u64>>,
}

impl Links {
    /// The links of now; none = it has none. `sum` is that of all errors, where it is known.
    pub(super) fn read(
        &mut self,
        library: &Library,
        handle: Handle,
        sum: Option<u64>,
    ) -> Result<Vec<Link>, Why> {
        let count = match self.count {
            Some(count) => count,
            None => *self.count.insert(count(library, handle)?),
        };
        if count == 0 {
            return Ok(Vec::new());
        }
        let active = states(library, handle, count)?;
        if sum.is_none() || self.sum != sum || self.errors.len() != active.len() {
            self.errors = errors(library, handle, count);
            self.sum = sum;
        }
        let links = active.into_iter().zip(&self.errors).enumerate();
        Ok(links
            .map(|(at, (active, errors))| Link {
                index: at as u32,
                active,
                errors: *errors,
            })
            .collect())
    }
}

/// How many links a GPU has. PCIe cards have none.
fn count(library: &Library, handle: Handle) -> Result<u32, Why> {
    match fields::link_count(library, handle) {
        Ok(count) => return Ok(u32::try_from(count).unwrap_or(MOST_LINKS).min(MOST_LINKS)),
        Err(why @ (Why::Lost | Why::Gone(_))) => return Err(why),
        Err(_) => {}
    }
    for link in 0..MOST_LINKS {
        match raw::link_is_active(library, handle, link) {
            Ok(_) => {}
            Err(why @ (Why::Lost | Why::Gone(_))) => return Err(why),
            Err(_) => return Ok(link),
        }
    }
    Ok(MOST_LINKS)
}

fn states(library: &Library, handle: Handle, count: u32) -> Result<Vec<bool>, Why> {
    let by_field =
        fields::link_states(library, handle, count).and_then(|states| states.into_iter().collect());
    match by_field {
        Ok::<Vec<u64>, _>(states) => Ok(states.into_iter().map(|state| state != 0).collect()),
        Err(why @ (Why::Lost | Why::Gone(_))) => Err(why),
        Err(_) => (0..count)
            .map(|link| raw::link_is_active(library, handle, link))
            .collect(),
    }
}

/// Of each link all errors that can be read.
fn errors(library: &Library, handle: Handle, count: u32) -> Vec<Option<u64>> {
    match fields::errors_of_links(library, handle, count) {
        Ok(errors) if errors.iter().any(Option::is_some) => return errors,
        _ => {}
    }
    let of_link = |link| {
        let counters = (0..COUNTERS)
            .filter_map(|counter| raw::link_errors(library, handle, link, counter).ok());
        counters.reduce(u64::saturating_add)
    };
    // What the first does not have, the others do not have.
    match of_link(0) {
        None => vec![None; count as usize],
        first => std::iter::once(first)
            .chain((1..count).map(of_link))
            .collect(),
    }
}
