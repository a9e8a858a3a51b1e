//! The calls that nvml-wrapper does not have, or has with less than is needed. All `unsafe` of the source is here and in
//! `library`.

#![allow(unsafe_code, non_upper_case_globals)] // The codes are named as in NVIDIA's header.

use std::ffi::{c_int, c_uint};
use std::mem::zeroed;
use std::sync::Arc;

use nvml_wrapper_sys::bindings::*;

use super::library::{Handle, Library, Why};

/// Longest list of processes that is read.
const MOST_PROCESSES: usize = 4096;

/// No instance.
const NO_INSTANCE: c_uint = c_uint::MAX;

/// Calls a symbol, if the library has it.
fn call<F, E>(symbol: &Result<F, E>, call: impl FnOnce(&F) -> nvmlReturn_t) -> Result<(), Why> {
    let symbol = symbol.as_ref().map_err(|_| Why::NoFunction)?;
    Why::of_code(call(symbol)).map_or(Ok(()), Err)
}

/// NVML's number of the architecture.
pub(super) fn architecture(library: &Library, handle: Handle) -> Result<u32, Why> {
    let mut value = 0;
    // SAFETY: the handle is the library's, and it writes one number. So below, unless said otherwise.
    call(&library.symbols().nvmlDeviceGetArchitecture, |f| unsafe {
        f(handle.0, &mut value)
    })?;
    Ok(value)
}

/// CUDA's compute capability, as (8, 6).
pub(super) fn compute_capability(library: &Library, handle: Handle) -> Result<(c_int, c_int), Why> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: as above, two numbers.
    call(
        &library.symbols().nvmlDeviceGetCudaComputeCapability,
        |f| unsafe { f(handle.0, &mut major, &mut minor) },
    )?;
    Ok((major, minor))
}

/// Which GPU instance and which compute instance a MIG device is.
pub(super) fn instance(library: &Library, handle: Handle) -> Result<(u32, u32), Why> {
    let (mut gpu, mut compute) = (0, 0);
    // SAFETY: as above.
    call(&library.symbols().nvmlDeviceGetGpuInstanceId, |f| unsafe {
        f(handle.0, &mut gpu)
    })?;
    // SAFETY: as above.
    call(
        &library.symbols().nvmlDeviceGetComputeInstanceId,
        |f| unsafe { f(handle.0, &mut compute) },
    )?;
    Ok((gpu, compute))
}

/// Why clocks are not higher: all bits, those too that the wrapper does not know. The function has had two names.
pub(super) fn clock_event_reasons(library: &Library, handle: Handle) -> Result<u64, Why> {
    let symbols = library.symbols();
    let mut reasons = 0;
    // SAFETY: as above.
    match call(
        &symbols.nvmlDeviceGetCurrentClocksEventReasons,
        |f| unsafe { f(handle.0, &mut reasons) },
    ) {
        Err(Why::NoFunction) => {
            // SAFETY: as above.
            call(
                &symbols.nvmlDeviceGetCurrentClocksThrottleReasons,
                |f| unsafe { f(handle.0, &mut reasons) },
            )?;
        }
        other => other?,
    }
    Ok(reasons)
}

/// A process on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) gpu_instance: Option<u32>,
    /// Bytes.
    pub(super) memory: Option<u64>,
}

/// Which processes.
#[derive(Clone, Copy, Debug)]
pub(super) enum ProcessKind {
    Compute,
    Graphics,
    /// Clients of the Multi-Process Service.
    Mps,
}

/// The processes of a kind. There is room for more than were there last, so that one call is enough as a rule.
pub(super) fn processes(
    library: &Library,
    handle: Handle,
    kind: ProcessKind,
) -> Result<Vec<Process>, Why> {
    let symbols = library.symbols();
    let symbol = match kind {
        ProcessKind::Compute => &symbols.nvmlDeviceGetComputeRunningProcesses_v3,
        ProcessKind::Graphics => &symbols.nvmlDeviceGetGraphicsRunningProcesses_v3,
        ProcessKind::Mps => &symbols.nvmlDeviceGetMPSComputeRunningProcesses_v3,
    };
    let symbol = symbol.as_ref().map_err(|_| Why::NoFunction)?;
    let mut room = 32;
    loop {
        // SAFETY: all zeros is a process info, as numbers.
        let mut infos: Vec<nvmlProcessInfo_t> = vec![unsafe { zeroed() }; room];
        let mut count = room as c_uint;
        // SAFETY: the handle is the library's, and it writes as many infos as there is room for.
        let code = unsafe { symbol(handle.0, &mut count, infos.as_mut_ptr()) };
        if code == nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE && room < MOST_PROCESSES {
            room = (count as usize + 16).clamp(2 * room, MOST_PROCESSES);
            continue;
        }
        if let Some(why) = Why::of_code(code) {
            return Err(why);
        }
        infos.truncate(count as usize);
        return Ok(infos.iter().map(process).collect());
    }
}

fn process(info: &nvmlProcessInfo_t) -> Process {
    Process {
        pid: info.pid,
        gpu_instance: (info.gpuInstanceId != NO_INSTANCE).then_some(info.gpuInstanceId),
        // All ones stands for "not available".
        memory: (info.usedGpuMemory != u64::MAX).then_some(info.usedGpuMemory),
    }
}

/// A field to read, and with what scope (as which link).
pub(super) type Field = (u32, u32);

/// Field values: what each answered.
pub(super) fn field_values(
    library: &Library,
    handle: Handle,
    fields: &[Field],
) -> Result<Vec<Result<u64, Why>>, Why> {
    let ask = |(id, scope): &Field| {
        // SAFETY: all zeros is a field value, as numbers.
        let mut value: nvmlFieldValue_t = unsafe { zeroed() };
        value.fieldId = *id;
        value.scopeId = *scope;
        value
    };
    let mut values: Vec<nvmlFieldValue_t> = fields.iter().map(ask).collect();
    // SAFETY: the handle is the library's, and it writes into as many values as are said to be there.
    call(&library.symbols().nvmlDeviceGetFieldValues, |f| unsafe {
        f(handle.0, values.len() as c_int, values.as_mut_ptr())
    })?;
    Ok(values.iter().map(number).collect())
}

/// The number in a field value. All that are read here are whole and not negative.
fn number(value: &nvmlFieldValue_t) -> Result<u64, Why> {
    if let Some(why) = Why::of_code(value.nvmlReturn) {
        return Err(why);
    }
    let union = &value.value;
    // SAFETY: the type says which part of the union was written, and each is a number.
    unsafe {
        match value.valueType {
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT => Ok(union.uiVal.into()),
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG => Ok(union.ulVal),
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG => Ok(union.ullVal),
            nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_SHORT => Ok(union.usVal.into()),
            nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_INT => {
                u64::try_from(union.siVal).map_err(|_| negative())
            }
            nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_LONG_LONG => {
                u64::try_from(union.sllVal).map_err(|_| negative())
            }
            kind => Err(Why::Other(format!("a value of type {kind}").into())),
        }
    }
}

fn negative() -> Why {
    Why::Other("a value below 0".into())
}

/// Remapped rows: corrected, uncorrected, whether pending, whether failed.
pub(super) fn remapped_rows(library: &Library, handle: Handle) -> Result<[u32; 4], Why> {
    let mut rows = [0; 4];
    let [corrected, uncorrected, pending, failed] = &mut rows;
    // SAFETY: as above, four numbers.
    call(&library.symbols().nvmlDeviceGetRemappedRows, |f| unsafe {
        f(handle.0, corrected, uncorrected, pending, failed)
    })?;
    Ok(rows)
}

/// Whether so many uncorrectable errors were in SRAM that the GPU should be replaced.
pub(super) fn sram_threshold_exceeded(library: &Library, handle: Handle) -> Result<bool, Why> {
    // SAFETY: all zeros is a status, as numbers.
    let mut status: nvmlEccSramErrorStatus_t = unsafe { zeroed() };
    status.version = size_of::<nvmlEccSramErrorStatus_t>() as c_uint | 1 << 24;
    // SAFETY: as above; the version says how long the struct is.
    call(
        &library.symbols().nvmlDeviceGetSramEccErrorStatus,
        |f| unsafe { f(handle.0, &mut status) },
    )?;
    Ok(status.bThresholdExceeded != 0)
}

/// Whether a link is up.
pub(super) fn link_is_active(library: &Library, handle: Handle, link: u32) -> Result<bool, Why> {
    let mut active = 0;
    // SAFETY: as above.
    call(&library.symbols().nvmlDeviceGetNvLinkState, |f| unsafe {
        f(handle.0, link, &mut active)
    })?;
    Ok(active != 0)
}

/// One of a link's error counters.
pub(super) fn link_errors(
    library: &Library,
    handle: Handle,
    link: u32,
    counter: u32,
) -> Result<u64, Why> {
    let mut errors = 0;
    // SAFETY: as above.
    call(
        &library.symbols().nvmlDeviceGetNvLinkErrorCounter,
        |f| unsafe { f(handle.0, link, counter, &mut errors) },
    )?;
    Ok(errors)
}

/// Whether a GPU has GPM.
pub(super) fn gpm_is_supported(library: &Library, handle: Handle) -> Result<bool, Why> {
    let mut support = nvmlGpmSupport_t {
        version: NVML_GPM_SUPPORT_VERSION,
        isSupportedDevice: 0,
    };
    // SAFETY: as above; the version says how long the struct is.
    call(&library.symbols().nvmlGpmQueryDeviceSupport, |f| unsafe {
        f(handle.0, &mut support)
    })?;
    Ok(support.isSupportedDevice != 0)
}

/// A sample of GPM's counters.
#[derive(Debug)]
pub(super) struct GpmSample {
    library: Arc<Library>,
    raw: nvmlGpmSample_t,
}

// SAFETY: it is used by one thread at a time, and NVML does not mind which.
unsafe impl Send for GpmSample {}

impl GpmSample {
    /// Reads the counters of a board, or of its GPU instance.
    pub(super) fn take(
        library: &Arc<Library>,
        board: Handle,
        instance: Option<u32>,
    ) -> Result<Self, Why> {
        let symbols = library.symbols();
        let mut raw = std::ptr::null_mut();
        // SAFETY: it writes one pointer.
        call(&symbols.nvmlGpmSampleAlloc, |f| unsafe { f(&mut raw) })?;
        let sample = Self {
            library: Arc::clone(library),
            raw,
        };
        match instance {
            // SAFETY: the sample was allocated above, the handle is the library's.
            None => call(&symbols.nvmlGpmSampleGet, |f| unsafe { f(board.0, raw) })?,
            // SAFETY: as above.
            Some(id) => call(&symbols.nvmlGpmMigSampleGet, |f| unsafe {
                f(board.0, id, raw)
            })?,
        }
        Ok(sample)
    }

    /// What happened from `before` until this one: metrics by NVML's numbers.
    pub(super) fn since<const N: usize>(
        &self,
        before: &Self,
        metrics: [u32; N],
    ) -> Result<[Option<f64>; N], Why> {
        // SAFETY: all zeros is a request, as numbers and pointers that may be null.
        let mut request: nvmlGpmMetricsGet_t = unsafe { zeroed() };
        request.version = NVML_GPM_METRICS_GET_VERSION;
        request.numMetrics = N as c_uint;
        request.sample1 = before.raw;
        request.sample2 = self.raw;
        for (asked, metric) in request.metrics.iter_mut().zip(metrics) {
            asked.metricId = metric;
        }
        // SAFETY: both samples are allocated, and it writes into as many metrics as are asked for.
        call(&self.library.symbols().nvmlGpmMetricsGet, |f| unsafe {
            f(&mut request)
        })?;
        let mut values = [None; N];
        for (value, told) in values.iter_mut().zip(&request.metrics) {
            *value = (told.nvmlReturn == 0 && told.value.is_finite()).then_some(told.value);
        }
        Ok(values)
    }
}

impl Drop for GpmSample {
    fn drop(&mut self) {
        // SAFETY: it was allocated, and is not used again. What it answers changes nothing.
        let _ = call(&self.library.symbols().nvmlGpmSampleFree, |f| unsafe {
            f(self.raw)
        });
    }
}

/// Something that happened to a GPU, as NVML tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawEvent {
    /// One of NVML's event bits.
    pub(super) kind: u64,
    pub(super) data: u64,
    pub(super) gpu_instance: Option<u32>,
    pub(super) compute_instance: Option<u32>,
}

/// The events of one GPU.
#[derive(Debug)]
pub(super) struct EventSet {
    library: Arc<Library>,
    raw: nvmlEventSet_t,
}

// SAFETY: it is used by one thread at a time, and NVML does not mind which.
unsafe impl Send for EventSet {}

impl EventSet {
    /// Registers those of `kinds` that the GPU has.
    pub(super) fn of(library: &Arc<Library>, handle: Handle, kinds: u64) -> Result<Self, Why> {
        let symbols = library.symbols();
        let mut supported = 0;
        // SAFETY: the handle is the library's, and it writes one number.
        call(&symbols.nvmlDeviceGetSupportedEventTypes, |f| unsafe {
            f(handle.0, &mut supported)
        })?;
        if supported & kinds == 0 {
            return Err(Why::NotSupported);
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: it writes one pointer.
        call(&symbols.nvmlEventSetCreate, |f| unsafe { f(&mut raw) })?;
        let set = Self {
            library: Arc::clone(library),
            raw,
        };
        // SAFETY: the set was made above, the handle is the library's.
        call(&symbols.nvmlDeviceRegisterEvents, |f| unsafe {
            f(handle.0, supported & kinds, raw)
        })?;
        Ok(set)
    }

    /// The next event; [`Why::Timeout`] when none came.
    pub(super) fn wait(&self, milliseconds: u32) -> Result<RawEvent, Why> {
        // SAFETY: all zeros is an event, as numbers and a handle that may be null.
        let mut data: nvmlEventData_t = unsafe { zeroed() };
        // SAFETY: the set is made and not freed, and it writes one event.
        call(&self.library.symbols().nvmlEventSetWait_v2, |f| unsafe {
            f(self.raw, &mut data, milliseconds)
        })?;
        let id = |id| (id != NO_INSTANCE).then_some(id);
        Ok(RawEvent {
            kind: data.eventType,
            data: data.eventData,
            gpu_instance: id(data.gpuInstanceId),
            compute_instance: id(data.computeInstanceId),
        })
    }
}

impl Drop for EventSet {
    fn drop(&mut self) {
        // SAFETY: it was made, and is not used again. What it answers changes nothing.
        let _ = call(&self.library.symbols().nvmlEventSetFree, |f| unsafe {
            f(self.raw)
        });
    }
}
