//! Field values: many numbers in one call, each with an answer of its own.

use fake_state::{Gpu, State};
use nvml_wrapper_sys::bindings::field_id::*;
use nvml_wrapper_sys::bindings::*;

use crate::errors::remaps;
use crate::state::board;
use crate::{api, links};

api! {
    fn nvmlDeviceGetFieldValues(state, device: nvmlDevice_t, count: i32, values: *mut nvmlFieldValue_t) {
        let gpu = board(state, device)?;
        if values.is_null() || count < 1 {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        // SAFETY: not null, and as many as the caller has said.
        for value in std::slice::from_raw_parts_mut(values, count as usize) {
            let answer = of(state, gpu, value.fieldId, value.scopeId);
            value.nvmlReturn = answer.as_ref().err().copied().unwrap_or(nvmlReturn_enum_NVML_SUCCESS);
            if let Ok(answer) = answer {
                (value.valueType, value.value) = answer.into_c();
            }
        }
        Ok(())
    }
}

pub(crate) enum Value {
    U32(u32),
    U64(u64),
}

impl Value {
    fn into_c(self) -> (nvmlValueType_t, nvmlValue_t) {
        match self {
            Self::U32(uiVal) => (
                nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT,
                nvmlValue_t { uiVal },
            ),
            Self::U64(ullVal) => (
                nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
                nvmlValue_t { ullVal },
            ),
        }
    }
}

fn of(state: &State, gpu: &Gpu, field: u32, scope: u32) -> Result<Value, nvmlReturn_t> {
    let unsupported = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
    // A single field is named by its number.
    let name = format!("nvmlDeviceGetFieldValues/{field}");
    if state.unsupported.contains(&name) {
        return Err(unsupported);
    }
    let remapping = |value: u32| {
        if remaps(gpu) {
            Ok(Value::U32(value))
        } else {
            Err(unsupported)
        }
    };
    let linked = |value: Value| {
        if gpu.links.is_empty() {
            Err(unsupported)
        } else {
            Ok(value)
        }
    };
    if let NVML_FI_DEV_NVLINK_COUNT_XMIT_PACKETS..=NVML_FI_DEV_NVLINK_COUNT_SYMBOL_BER = field {
        return links::count_5(gpu, field, scope);
    }
    if links::is_5(gpu) && links::is_of_older(field) {
        return Err(unsupported);
    }
    match field {
        NVML_FI_DEV_MEMORY_TEMP => Ok(Value::U32(gpu.memory_temperature)),
        NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION => Ok(Value::U64(gpu.energy)),
        NVML_FI_DEV_REMAPPED_COR => remapping(gpu.remapped_corrected),
        NVML_FI_DEV_REMAPPED_UNC => remapping(gpu.remapped_uncorrected),
        NVML_FI_DEV_REMAPPED_PENDING => remapping(gpu.remap_pending.into()),
        NVML_FI_DEV_REMAPPED_FAILURE => remapping(gpu.remap_failed.into()),
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION => Ok(Value::U32(gpu.recovery_action)),
        NVML_FI_DEV_NVLINK_LINK_COUNT => linked(Value::U32(gpu.links.len() as u32)),
        NVML_FI_DEV_NVLINK_GET_STATE => Ok(Value::U32(links::of(gpu, scope)?.active.into())),
        // All errors are replays, as in `links`.
        NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY => Ok(Value::U64(links::of(gpu, scope)?.errors)),
        NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY | NVML_FI_DEV_NVLINK_ERROR_DL_CRC => {
            links::of(gpu, scope).map(|_| Value::U64(0))
        }
        NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL => {
            linked(Value::U64(gpu.links.iter().map(|l| l.errors).sum()))
        }
        NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL
        | NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL
        | NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL => linked(Value::U64(0)),
        _ => Err(unsupported),
    }
}
