//! Clocks and what holds them down, power, temperature.

use fake_state::Gpu;
use nvml_wrapper_sys::bindings::*;

use crate::state::board;
use crate::{api, put};

api! {
    fn nvmlDeviceGetClockInfo(state, device: nvmlDevice_t, kind: nvmlClockType_t, clock: *mut u32) {
        let gpu = board(state, device)?;
        put(clock, of(kind, gpu.sm_clock, gpu.memory_clock)?)
    }

    fn nvmlDeviceGetMaxClockInfo(state, device: nvmlDevice_t, kind: nvmlClockType_t, clock: *mut u32) {
        let gpu = board(state, device)?;
        put(clock, of(kind, gpu.sm_clock_max, gpu.memory_clock_max)?)
    }

    fn nvmlDeviceGetCurrentClocksThrottleReasons(state, device: nvmlDevice_t, reasons: *mut u64) {
        put(reasons, board(state, device)?.clock_event_reasons)
    }

    fn nvmlDeviceGetCurrentClocksEventReasons(state, device: nvmlDevice_t, reasons: *mut u64) {
        put(reasons, board(state, device)?.clock_event_reasons)
    }

    fn nvmlDeviceGetViolationStatus(
        state,
        device: nvmlDevice_t,
        _policy: nvmlPerfPolicyType_t,
        time: *mut nvmlViolationTime_t,
    ) {
        board(state, device)?;
        put(time, nvmlViolationTime_t { referenceTime: 0, violationTime: 0 })
    }

    fn nvmlDeviceGetPowerUsage(state, device: nvmlDevice_t, power: *mut u32) {
        put(power, board(state, device)?.power)
    }

    fn nvmlDeviceGetEnforcedPowerLimit(state, device: nvmlDevice_t, limit: *mut u32) {
        put(limit, board(state, device)?.power_limit)
    }

    fn nvmlDeviceGetTotalEnergyConsumption(state, device: nvmlDevice_t, energy: *mut u64) {
        put(energy, board(state, device)?.energy)
    }

    fn nvmlDeviceGetTemperature(
        state,
        device: nvmlDevice_t,
        sensor: nvmlTemperatureSensors_t,
        temperature: *mut u32,
    ) {
        let gpu = board(state, device)?;
        if sensor != nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU {
            return Err(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
        }
        put(temperature, gpu.temperature)
    }

    fn nvmlDeviceGetTemperatureThreshold(
        state,
        device: nvmlDevice_t,
        kind: nvmlTemperatureThresholds_t,
        temperature: *mut u32,
    ) {
        put(temperature, threshold(board(state, device)?, kind)?)
    }
}

fn of(kind: nvmlClockType_t, sm: u32, memory: u32) -> Result<u32, nvmlReturn_t> {
    match kind {
        nvmlClockType_enum_NVML_CLOCK_GRAPHICS | nvmlClockType_enum_NVML_CLOCK_SM => Ok(sm),
        nvmlClockType_enum_NVML_CLOCK_MEM => Ok(memory),
        _ => Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED),
    }
}

fn threshold(gpu: &Gpu, kind: nvmlTemperatureThresholds_t) -> Result<u32, nvmlReturn_t> {
    match kind {
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SHUTDOWN => {
            Ok(gpu.temperature_shutdown)
        }
        nvmlTemperatureThresholds_enum_NVML_TEMPERATURE_THRESHOLD_SLOWDOWN => {
            Ok(gpu.temperature_slowdown)
        }
        _ => Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED),
    }
}
