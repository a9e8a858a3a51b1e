//! The layouts of NVML's structs that are used here, on x86-64 as on aarch64, by NVIDIA's header. That the bindings still
//! have them is checked when this is compiled.

use nvml_wrapper_sys::bindings::*;

use std::mem::offset_of;

macro_rules! layout {
    ($($struct:ty, $size:literal: $($field:ident @ $offset:literal)*;)*) => {$(
        const _: () = assert!(size_of::<$struct>() == $size);
        $(const _: () = assert!(offset_of!($struct, $field) == $offset);)*
    )*};
}

layout! {
    nvmlMemory_v2_t, 40: version@0 total@8 reserved@16 free@24 used@32;
    nvmlMemory_t, 24: total@0 free@8 used@16;
    nvmlUtilization_t, 8: gpu@0 memory@4;
    nvmlProcessInfo_t, 24: pid@0 usedGpuMemory@8 gpuInstanceId@16 computeInstanceId@20;
    nvmlEventData_t, 32: device@0 eventType@8 eventData@16 gpuInstanceId@24 computeInstanceId@28;
    nvmlPciInfo_t, 68: busIdLegacy@0 domain@16 bus@20 device@24 pciDeviceId@28 pciSubSystemId@32 busId@36;
    nvmlFieldValue_t, 40: fieldId@0 scopeId@4 timestamp@8 latencyUsec@16 valueType@24 nvmlReturn@28 value@32;
    nvmlValue_t, 8: dVal@0 uiVal@0 ulVal@0 ullVal@0;
    nvmlDeviceAttributes_t, 40: gpuInstanceSliceCount@24 computeInstanceSliceCount@28 memorySizeMB@32;
    nvmlEccSramErrorStatus_t, 104: version@0 aggregateUncParity@8 bThresholdExceeded@96;
    nvmlViolationTime_t, 16: referenceTime@0 violationTime@8;
    nvmlProcessUtilizationSample_t, 32: pid@0 timeStamp@8 smUtil@16 memUtil@20 encUtil@24 decUtil@28;
    nvmlGpmSupport_t, 8: version@0 isSupportedDevice@4;
    nvmlGpmMetric_t, 40: metricId@0 nvmlReturn@4 value@8 metricInfo@16;
    nvmlGpmMetricsGet_t, 8424: version@0 numMetrics@4 sample1@8 sample2@16 metrics@24;
}

const _: () = assert!(size_of::<nvmlDevice_t>() == 8);
const _: () = assert!(size_of::<nvmlReturn_t>() == 4);
