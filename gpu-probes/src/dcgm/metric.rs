//! What each metric of dcgm-exporter means: its names, its unit, where its value belongs.

use crate::telemetry::{Clocks, Errors, Gpu, Power, Profile, Temperature, Utilization};

/// Where the value of a metric goes.
pub(super) enum Metric {
    /// Into the board, whichever instance the line names.
    Board(fn(&mut Gpu, f64)),
    /// Into the instance that the line names, else into the board.
    Instance(fn(&mut Gpu, f64)),
    /// A part of [`crate::telemetry::Memory`], in MiB: 0 total, 1 used, 2 free, 3 reserved.
    Memory(usize),
    /// One of the four error counters of the links.
    NvlinkErrors(usize),
    /// The number of the last XID.
    LastXid,
    /// How many of the XID in the label `xid` were seen lately.
    XidCount,
    /// A counter of time that rises while this clock-event bit holds.
    Violation(u64),
    /// How many clock events of the kind in the label `clock_event` were seen lately.
    ClockEventCount,
}

/// The metric of this name; none = not one of ours. Beside the names of today those of `1.x-compatibility-metrics.csv`.
pub(super) fn metric(name: &str) -> Option<Metric> {
    use Metric::{Board, Instance};
    Some(match name {
        "DCGM_FI_DEV_FB_TOTAL" => Metric::Memory(0),
        "DCGM_FI_DEV_FB_USED" | "dcgm_fb_used" => Metric::Memory(1),
        "DCGM_FI_DEV_FB_FREE" | "dcgm_fb_free" => Metric::Memory(2),
        "DCGM_FI_DEV_FB_RESERVED" => Metric::Memory(3),

        "DCGM_FI_DEV_GPU_UTIL" | "dcgm_gpu_utilization" => {
            Instance(|g, v| utilization(g).gpu = Some(v / 100.0))
        }
        "DCGM_FI_DEV_MEM_COPY_UTIL" | "dcgm_mem_copy_utilization" => {
            Instance(|g, v| utilization(g).memory = Some(v / 100.0))
        }
        // Shares of 1, although the help of the old names says per cent.
        "DCGM_FI_PROF_SM_ACTIVE" | "dcgm_fi_prof_sm_active" => {
            Instance(|g, v| profile(g).sm_active = Some(v))
        }
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE" | "dcgm_fi_prof_pipe_tensor_active" => {
            Instance(|g, v| profile(g).tensor_active = Some(v))
        }
        "DCGM_FI_PROF_DRAM_ACTIVE" | "dcgm_fi_prof_dram_active" => {
            Instance(|g, v| profile(g).dram_active = Some(v))
        }

        "DCGM_FI_DEV_SM_CLOCK" | "dcgm_sm_clock" => Board(|g, v| clocks(g).sm = Some(v as u32)),
        "DCGM_FI_DEV_MAX_SM_CLOCK" => Board(|g, v| clocks(g).sm_max = Some(v as u32)),
        "DCGM_FI_DEV_MEM_CLOCK" | "dcgm_memory_clock" => {
            Board(|g, v| clocks(g).memory = Some(v as u32))
        }
        "DCGM_FI_DEV_MAX_MEM_CLOCK" => Board(|g, v| clocks(g).memory_max = Some(v as u32)),
        "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS" | "DCGM_FI_DEV_CLOCKS_EVENT_REASONS" => {
            Board(|g, v| clocks(g).event_reasons = Some(v as u64))
        }

        "DCGM_FI_DEV_POWER_USAGE" | "dcgm_power_usage" => Board(|g, v| power(g).draw = Some(v)),
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT" => Board(|g, v| power(g).limit = Some(v)),
        // In mJ.
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" | "dcgm_total_energy_consumption" => {
            Board(|g, v| power(g).energy = Some(v / 1000.0))
        }

        "DCGM_FI_DEV_GPU_TEMP" | "dcgm_gpu_temp" => Board(|g, v| temperature(g).gpu = Some(v)),
        "DCGM_FI_DEV_MEMORY_TEMP" | "dcgm_memory_temp" => {
            Board(|g, v| temperature(g).memory = Some(v))
        }
        "DCGM_FI_DEV_SLOWDOWN_TEMP" => Board(|g, v| temperature(g).slowdown = Some(v)),
        "DCGM_FI_DEV_SHUTDOWN_TEMP" => Board(|g, v| temperature(g).shutdown = Some(v)),

        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL" | "dcgm_ecc_sbe_volatile_total" => {
            Board(|g, v| errors(g).ecc_corrected = Some(v as u64))
        }
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL" | "dcgm_ecc_dbe_volatile_total" => {
            Board(|g, v| errors(g).ecc_uncorrected = Some(v as u64))
        }
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS" => {
            Board(|g, v| errors(g).remapped_corrected = Some(v as u32))
        }
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS" => {
            Board(|g, v| errors(g).remapped_uncorrected = Some(v as u32))
        }
        "DCGM_FI_DEV_ROW_REMAP_PENDING" => Board(|g, v| errors(g).remap_pending = Some(v > 0.0)),
        "DCGM_FI_DEV_ROW_REMAP_FAILURE" => Board(|g, v| errors(g).remap_failed = Some(v > 0.0)),
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER" | "dcgm_pcie_replay_counter" => {
            Board(|g, v| errors(g).pcie_replays = Some(v as u64))
        }
        // The worst of the watches.
        "DCGM_EXP_GPU_HEALTH_STATUS" => Board(|g, v| {
            let health = &mut errors(g).dcgm_health;
            *health = Some(health.unwrap_or(0).max(v as u32));
        }),

        "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL"
        | "dcgm_nvlink_flit_crc_error_count_total" => Metric::NvlinkErrors(0),
        "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"
        | "dcgm_nvlink_data_crc_error_count_total" => Metric::NvlinkErrors(1),
        "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL" | "dcgm_nvlink_replay_error_count_total" => {
            Metric::NvlinkErrors(2)
        }
        "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL"
        | "dcgm_nvlink_recovery_error_count_total" => Metric::NvlinkErrors(3),

        "DCGM_FI_DEV_XID_ERRORS" | "dcgm_xid_errors" => Metric::LastXid,
        "DCGM_EXP_XID_ERRORS_COUNT" => Metric::XidCount,
        "DCGM_EXP_CLOCK_EVENTS_COUNT" => Metric::ClockEventCount,
        "DCGM_FI_DEV_POWER_VIOLATION" | "dcgm_power_violation" => Metric::Violation(0x4),
        "DCGM_FI_DEV_THERMAL_VIOLATION" | "dcgm_thermal_violation" => Metric::Violation(0x20),
        "DCGM_FI_DEV_SYNC_BOOST_VIOLATION" | "dcgm_sync_boost_violation" => Metric::Violation(0x10),
        _ => return None,
    })
}

/// The bit of a `clock_event`.
pub(super) fn clock_event(name: &str) -> Option<u64> {
    Some(match name {
        "gpu_idle" => 0x1,
        "clocks_setting" => 0x2,
        "power_cap" => 0x4,
        "hw_slowdown" => 0x8,
        "sync_boost" => 0x10,
        "sw_thermal" => 0x20,
        "hw_thermal" => 0x40,
        "hw_power_brake" => 0x80,
        "display_clocks" => 0x100,
        _ => return None,
    })
}

/// Whether `value` is one of DCGM's marks for a blank (not supported, not found, no permission, none
/// yet), or otherwise none that could be: nothing here is negative.
pub(super) fn is_blank(value: f64) -> bool {
    const BLANK_INT32: f64 = 0x7fff_fff0u32 as f64;
    const BLANK_FLOAT: f64 = 140_737_488_355_328.0;
    const BLANK_INT64: f64 = 0x7fff_ffff_ffff_fff0u64 as f64;
    !value.is_finite()
        || !(0.0..BLANK_INT64).contains(&value)
        || (BLANK_INT32..BLANK_INT32 + 16.0).contains(&value)
        || (BLANK_FLOAT..BLANK_FLOAT + 16.0).contains(&value)
}

fn utilization(gpu: &mut Gpu) -> &mut Utilization {
    gpu.utilization.get_or_insert_default()
}
fn clocks(gpu: &mut Gpu) -> &mut Clocks {
    gpu.clocks.get_or_insert_default()
}
fn power(gpu: &mut Gpu) -> &mut Power {
    gpu.power.get_or_insert_default()
}
fn temperature(gpu: &mut Gpu) -> &mut Temperature {
    gpu.temperature.get_or_insert_default()
}
fn errors(gpu: &mut Gpu) -> &mut Errors {
    gpu.errors.get_or_insert_default()
}
fn profile(gpu: &mut Gpu) -> &mut Profile {
    gpu.profile.get_or_insert_default()
}
