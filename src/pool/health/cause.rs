//! What can be wrong with an endpoint, and what follows from it.

/// Why an endpoint gets less than its share, or nothing. The least bad first: where too many are out, the first are let in
/// again. What the GPU's error numbers suggest may be wrong for a whole pool at once; what the driver or the engine says of
/// itself is less likely to be; what requests themselves found out is a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// An error that says little for now: a corrected one, a row remapping.
    GpuSoft,
    /// The GPU is slowed down by heat or power supply.
    GpuThrottled,
    /// It is to be reset, and what runs on it may end first.
    GpuDrain,
    /// NVLink failed, and several GPUs work together here.
    GpuLink,
    /// A memory error that could not be corrected, on a GPU that does not contain them.
    GpuEcc,
    /// An error that kills the process that met it: the engine, most likely. The GPU is good.
    GpuAppFatal,
    /// An error after which the GPU has to be reset.
    GpuFatal,
    /// It has requests and does nothing.
    Wedged,
    /// The driver says: reset the GPU, or reboot the node.
    GpuRecovery,
    /// The engine says that it does not work.
    EngineUnhealthy,
    /// The GPU answers no more.
    GpuLost,
    /// It failed requests.
    Failures,
}

/// What follows from a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It gets less.
    Derate,
    /// It gets nothing new, and what it has may end.
    Drain,
    /// It gets nothing, until it was tried out.
    Eject,
}

// === impl Cause ===

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::GpuSoft,
        Self::GpuThrottled,
        Self::GpuDrain,
        Self::GpuLink,
        Self::GpuEcc,
        Self::GpuAppFatal,
        Self::GpuFatal,
        Self::Wedged,
        Self::GpuRecovery,
        Self::EngineUnhealthy,
        Self::GpuLost,
        Self::Failures,
    ];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::GpuSoft => "gpu-soft",
            Self::GpuThrottled => "gpu-throttled",
            Self::GpuDrain => "gpu-drain",
            Self::GpuLink => "gpu-link",
            Self::GpuEcc => "gpu-ecc",
            Self::GpuAppFatal => "gpu-app-fatal",
            Self::GpuFatal => "gpu-fatal",
            Self::Wedged => "wedged",
            Self::GpuRecovery => "gpu-recovery",
            Self::EngineUnhealthy => "engine-unhealthy",
            Self::GpuLost => "gpu-lost",
            Self::Failures => "failures",
        }
    }

    /// What follows from it.
    pub fn effect(self) -> Effect {
        match self {
            Self::GpuSoft | Self::GpuThrottled => Effect::Derate,
            Self::GpuDrain => Effect::Drain,
            _ => Effect::Eject,
        }
    }

    /// It is known from GPUs: only profiles with a `gpu-health-filter` keep requests away for it.
    pub fn is_of_gpus(self) -> bool {
        !matches!(self, Self::Wedged | Self::EngineUnhealthy | Self::Failures)
    }

    /// A request that is served later disproves it. Memory that is broken, a link that is down or what the driver says
    /// serves requests too, and not all of them well.
    pub(super) fn is_disproved_by_service(self) -> bool {
        matches!(self, Self::Failures | Self::Wedged | Self::GpuAppFatal)
    }

    /// A new engine process is another chance.
    pub(super) fn ends_with_the_process(self) -> bool {
        matches!(
            self,
            Self::Failures
                | Self::Wedged
                | Self::EngineUnhealthy
                | Self::GpuAppFatal
                | Self::GpuFatal
                | Self::GpuEcc
                | Self::GpuLink
        )
    }

    /// How long it must have been over, in milliseconds, before it is: what comes and goes stays.
    pub(super) fn hold_ms(self) -> u64 {
        match self {
            Self::Wedged | Self::EngineUnhealthy => 2_000,
            Self::GpuThrottled | Self::GpuAppFatal => 5_000,
            Self::GpuDrain => 30_000,
            _ => 10_000,
        }
    }

    /// How long it is still believed, in milliseconds, when nobody can tell any more.
    pub(super) fn unheard_ms(self) -> u64 {
        match self {
            // The fact is hard, and the agent that told it may have died of the same.
            Self::GpuLost | Self::GpuRecovery => 300_000,
            Self::GpuDrain => 60_000,
            Self::EngineUnhealthy => 10_000,
            _ => 5_000,
        }
    }

    /// How long an event that told it counts, in milliseconds, when nothing else is heard: not for ever, whatever happened.
    pub(super) fn event_ms(self) -> u64 {
        match self {
            // Until the process is another one. Most show that; of the others it is not known how long they take to load.
            Self::GpuAppFatal => 120_000,
            // Until the next reading says the same.
            Self::GpuLost | Self::GpuRecovery => 15_000,
            _ => 600_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_the_order_is_that_of_severity() {
        for (at, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, at);
        }
        assert!(Cause::ALL.is_sorted());
        let names: std::collections::HashSet<_> = Cause::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
    }
}
