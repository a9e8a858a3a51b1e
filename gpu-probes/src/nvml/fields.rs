//! Numbers that are read by their field ids, many in one call.
//!
//! From driver 580.82 on the ids 251 to 273 mean other things; none of them is read here.

use nvml_wrapper_sys::bindings::field_id::*;

use super::library::{Handle, Library, Why};
use super::raw::{self, Field};

/// Memory temperature, in degrees.
const MEMORY_TEMPERATURE: Field = (NVML_FI_DEV_MEMORY_TEMP, 0);
/// What is to be done to recover the GPU.
const RECOVERY_ACTION: Field = (NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, 0);

/// Stands for all links of a board, as DCGM asks for these fields.
const ALL_LINKS: u32 = u32::MAX;

/// Read together for the errors of a board.
const ERRORS: [Field; 13] = [
    (NVML_FI_DEV_REMAPPED_COR, 0),
    (NVML_FI_DEV_REMAPPED_UNC, 0),
    (NVML_FI_DEV_REMAPPED_PENDING, 0),
    (NVML_FI_DEV_REMAPPED_FAILURE, 0),
    RECOVERY_ACTION,
    (NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL, 0),
    (NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL, 0),
    (NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 0),
    (NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, 0),
    (OF_LINK_5[0], ALL_LINKS),
    (OF_LINK_5[1], ALL_LINKS),
    (OF_LINK_5[2], ALL_LINKS),
    (OF_LINK_5[3], ALL_LINKS),
];

const RENUMBERED: std::ops::RangeInclusive<u32> = 251..=273;

const _: () = {
    let mut at = 0;
    while at < ERRORS.len() {
        assert!(ERRORS[at].0 < *RENUMBERED.start() || ERRORS[at].0 > *RENUMBERED.end());
        at += 1;
    }
};

/// What [`errors`] reads.
#[derive(Debug)]
pub(super) struct Errors {
    /// Remapped rows: corrected, uncorrected, whether pending, whether failed.
    pub(super) remapped_rows: Result<[u32; 4], Why>,
    /// What is to be done to recover the GPU.
    pub(super) recovery_action: Result<u32, Why>,
    /// Sum over all links and kinds of errors.
    pub(super) link_errors: Result<u64, Why>,
}

/// The errors of a board that are read by fields.
pub(super) fn errors(library: &Library, handle: Handle) -> Result<Errors, Why> {
    let values = raw::field_values(library, handle, &ERRORS)?;
    let small = |at: usize| {
        values[at]
            .clone()
            .map(|value| u32::try_from(value).unwrap_or(u32::MAX))
    };
    let rows = || Ok([small(0)?, small(1)?, small(2)?, small(3)?]);
    let (links, links_5) = values[5..].split_at(4);
    Ok(Errors {
        // Drivers that do not have the fields may have the function.
        remapped_rows: rows()
            .or_else(|why: Why| raw::remapped_rows(library, handle).map_err(|_| why)),
        recovery_action: small(4),
        link_errors: match sum(links_5).or_else(|| sum(links)) {
            Some(sum) => Ok(sum),
            None => links[0].clone(),
        },
    })
}

/// Degrees.
pub(super) fn memory_temperature(library: &Library, handle: Handle) -> Result<u64, Why> {
    one(library, handle, MEMORY_TEMPERATURE)
}

/// As in the telemetry.
pub(super) fn recovery_action(library: &Library, handle: Handle) -> Result<u64, Why> {
    one(library, handle, RECOVERY_ACTION)
}

/// How many links the GPU has, up or not.
pub(super) fn link_count(library: &Library, handle: Handle) -> Result<u64, Why> {
    one(library, handle, (NVML_FI_DEV_NVLINK_LINK_COUNT, 0))
}

/// Whether each of the first `count` links is up.
pub(super) fn link_states(
    library: &Library,
    handle: Handle,
    count: u32,
) -> Result<Vec<Result<u64, Why>>, Why> {
    let fields: Vec<Field> = (0..count)
        .map(|link| (NVML_FI_DEV_NVLINK_GET_STATE, link))
        .collect();
    raw::field_values(library, handle, &fields)
}

/// The kinds of errors of a single link, before NVLink 5.
const OF_LINK: [u32; 3] = [
    NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY,
    NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY,
    NVML_FI_DEV_NVLINK_ERROR_DL_CRC,
];

/// The same of NVLink 5 (Blackwell), as NVML's field value enums describe them: packets that came with errors, local errors
/// past a threshold, packets that were discarded for errors, recoveries. The other kinds there say more of these, or count
/// what was corrected.
const OF_LINK_5: [u32; 4] = [
    NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS,
    NVML_FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS,
    NVML_FI_DEV_NVLINK_COUNT_XMIT_DISCARDS,
    NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS,
];

/// The errors of each of the first `count` links, of the kinds that are told; none = of no kind.
pub(super) fn errors_of_links(
    library: &Library,
    handle: Handle,
    count: u32,
) -> Result<Vec<Option<u64>>, Why> {
    let of_kinds = |kinds: &[u32]| {
        let fields: Vec<Field> = (0..count)
            .flat_map(|link| kinds.iter().map(move |&kind| (kind, link)))
            .collect();
        let values = raw::field_values(library, handle, &fields)?;
        Ok(values.chunks(kinds.len()).map(sum).collect())
    };
    match of_kinds(&OF_LINK_5) {
        Ok::<Vec<Option<u64>>, Why>(errors) if errors.iter().any(Option::is_some) => Ok(errors),
        _ => of_kinds(&OF_LINK),
    }
}

/// Of those that are told; none = of none.
fn sum(values: &[Result<u64, Why>]) -> Option<u64> {
    let told = values.iter().flatten().copied();
    told.reduce(u64::saturating_add)
}

fn one(library: &Library, handle: Handle, field: Field) -> Result<u64, Why> {
    raw::field_values(library, handle, &[field])?.remove(0)
}
