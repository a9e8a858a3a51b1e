//! GPM: two samples, and what happened between them.

use std::sync::{Arc, Mutex, PoisonError};

use fake_state::Gpm;
use nvml_wrapper_sys::bindings::*;

use crate::state::{board, mig_on, target};
use crate::{Answer, api, put};

/// What was read into a sample: whose, and the shares of then.
type Sample = Mutex<Option<((usize, Option<u32>), Gpm)>>;

/// The samples that are allocated. A handle is where its sample is, but is looked up here and never followed.
static SAMPLES: Mutex<Vec<Arc<Sample>>> = Mutex::new(Vec::new());

api! {
    fn nvmlGpmQueryDeviceSupport(state, device: nvmlDevice_t, support: *mut nvmlGpmSupport_t) {
        let gpu = board(state, device)?;
        if support.is_null() {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        if (*support).version != NVML_GPM_SUPPORT_VERSION {
            return Err(nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let supported = gpu.gpm.is_some() || gpu.mig.iter().any(|mig| mig.gpm.is_some());
        (*support).isSupportedDevice = supported.into();
        Ok(())
    }

    fn nvmlGpmSampleAlloc(_state, sample: *mut nvmlGpmSample_t) {
        let new = Arc::new(Sample::default());
        put(sample, handle(&new))?;
        SAMPLES.lock().unwrap_or_else(PoisonError::into_inner).push(new);
        Ok(())
    }

    fn nvmlGpmSampleFree(_state, sample: nvmlGpmSample_t) {
        find(sample)?;
        SAMPLES.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| handle(kept) != sample);
        Ok(())
    }

    fn nvmlGpmSampleGet(state, device: nvmlDevice_t, sample: nvmlGpmSample_t) {
        let gpu = board(state, device)?;
        // With MIG on, only the instances have numbers.
        let gpm = gpu.gpm.filter(|_| !mig_on(gpu)).ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
        fill(sample, (target(state, device)?.index, None), gpm)
    }

    fn nvmlGpmMigSampleGet(state, device: nvmlDevice_t, instance: u32, sample: nvmlGpmSample_t) {
        let gpu = board(state, device)?;
        let mig = gpu.mig.iter().find(|mig| mig.gpu_instance == instance && !mig.uuid.is_empty());
        let mig = mig.ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)?;
        let gpm = mig.gpm.ok_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED)?;
        fill(sample, (target(state, device)?.index, Some(instance)), gpm)
    }

    fn nvmlGpmMetricsGet(_state, request: *mut nvmlGpmMetricsGet_t) {
        if request.is_null() {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        // SAFETY: not null, and then the caller has promised it.
        let request = &mut *request;
        if request.version != NVML_GPM_METRICS_GET_VERSION {
            return Err(nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
        }
        let read = |sample| {
            let found = find(sample)?;
            let read = *found.lock().unwrap_or_else(PoisonError::into_inner);
            read.ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
        };
        let ((before, _), (after, gpm)) = (read(request.sample1)?, read(request.sample2)?);
        if before != after || request.sample1 == request.sample2 {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        let count = request.numMetrics as usize;
        for metric in request.metrics.iter_mut().take(count) {
            metric.nvmlReturn = nvmlReturn_enum_NVML_SUCCESS;
            metric.value = 100.0 * match metric.metricId {
                nvmlGpmMetricId_t_NVML_GPM_METRIC_SM_UTIL => gpm.sm,
                nvmlGpmMetricId_t_NVML_GPM_METRIC_ANY_TENSOR_UTIL => gpm.tensor,
                nvmlGpmMetricId_t_NVML_GPM_METRIC_DRAM_BW_UTIL => gpm.dram_bandwidth,
                _ => {
                    metric.nvmlReturn = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
                    0.0
                }
            };
        }
        Ok(())
    }
}

fn handle(sample: &Arc<Sample>) -> nvmlGpmSample_t {
    std::ptr::without_provenance_mut(Arc::as_ptr(sample).addr())
}

fn find(sample: nvmlGpmSample_t) -> Result<Arc<Sample>, nvmlReturn_t> {
    let samples = SAMPLES.lock().unwrap_or_else(PoisonError::into_inner);
    let found = samples.iter().find(|kept| handle(kept) == sample);
    found
        .cloned()
        .ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
}

fn fill(sample: nvmlGpmSample_t, whose: (usize, Option<u32>), gpm: Gpm) -> Answer {
    *find(sample)?.lock().unwrap_or_else(PoisonError::into_inner) = Some((whose, gpm));
    Ok(())
}
