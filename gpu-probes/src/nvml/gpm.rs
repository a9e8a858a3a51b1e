//! GPM: what memory and tensor cores did between two samples. Hopper and later.

use std::sync::Arc;

use nvml_wrapper_sys::bindings::{
    nvmlGpmMetricId_t_NVML_GPM_METRIC_ANY_TENSOR_UTIL as ANY_TENSOR_UTIL,
    nvmlGpmMetricId_t_NVML_GPM_METRIC_DRAM_BW_UTIL as DRAM_BW_UTIL,
    nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_UTIL as SM_UTIL,
};

use super::library::{Handle, Library, Why};
use super::raw::{self, GpmSample};
use crate::telemetry::Profile;

/// The last sample of a board or instance.
#[derive(Debug, Default)]
pub(super) struct Gpm {
    last: Option<GpmSample>,
}

impl Gpm {
    /// Takes a sample: what happened since the last one. None with the first, which has nothing to be held against.
    pub(super) fn read(
        &mut self,
        library: &Arc<Library>,
        board: Handle,
        instance: Option<u32>,
    ) -> Result<Option<Profile>, Why> {
        let before = self.last.take();
        if before.is_none() && !raw::gpm_is_supported(library, board)? {
            return Err(Why::NotSupported);
        }
        let now = GpmSample::take(library, board, instance)?;
        let told =
            before.map(|before| now.since(&before, [SM_UTIL, ANY_TENSOR_UTIL, DRAM_BW_UTIL]));
        self.last = Some(now);
        let Some([sm, tensor, dram]) = told.transpose()? else {
            return Ok(None);
        };
        // Per cent.
        let share = |value: Option<f64>| value.map(|value| (value / 100.0).clamp(0.0, 1.0));
        Ok(Some(Profile {
            age_ms: 0,
            sm_active: share(sm),
            tensor_active: share(tensor),
            dram_active: share(dram),
        }))
    }
}
