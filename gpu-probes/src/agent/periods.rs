//! How often each class of signals is read.

use std::time::Duration;

use crate::probe::Class;

/// All classes, in the order in which the agent keeps what belongs to them.
pub(super) const CLASSES: [Class; 8] = [
    Class::Memory,
    Class::Processes,
    Class::Utilization,
    Class::Clocks,
    Class::Power,
    Class::Temperature,
    Class::Errors,
    Class::Profile,
];

/// Between two readings, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods([Duration; CLASSES.len()]);

pub(super) fn place(class: Class) -> usize {
    match class {
        Class::Memory => 0,
        Class::Processes => 1,
        Class::Utilization => 2,
        Class::Clocks => 3,
        Class::Power => 4,
        Class::Temperature => 5,
        Class::Errors => 6,
        Class::Profile => 7,
    }
}

// === impl Periods ===

impl Periods {
    /// The shortest that is taken: much of what NVML says is an average over 100 ms or more.
    pub const SHORTEST: Duration = Duration::from_millis(100);
    /// The longest: what is older is of no use to whoever picks endpoints.
    pub const LONGEST: Duration = Duration::from_secs(5);

    /// The period of `class`.
    pub fn of(&self, class: Class) -> Duration {
        self.0[place(class)]
    }

    /// Sets it; shorter or longer ones than are taken become the nearest that is.
    #[must_use]
    pub fn with(mut self, class: Class, period: Duration) -> Self {
        self.0[place(class)] = period.clamp(Self::SHORTEST, Self::LONGEST);
        self
    }
}

impl Default for Periods {
    /// Clocks twice a second, who is there every five seconds, all else each second.
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self([second; CLASSES.len()])
            .with(Class::Clocks, Duration::from_millis(500))
            .with(Class::Processes, Duration::from_secs(5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_place() {
        for (index, class) in CLASSES.into_iter().enumerate() {
            assert_eq!(place(class), index);
        }
        let periods = Periods::default().with(Class::Power, Duration::from_secs(60));
        assert_eq!(periods.of(Class::Power), Periods::LONGEST);
        assert_eq!(periods.of(Class::Clocks), Duration::from_millis(500));
    }
}
