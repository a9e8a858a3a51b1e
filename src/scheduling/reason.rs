//! Why a request went where it went.

/// The branch that chose an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Its total was the best.
    #[default]
    Scored,
    /// So was that of others.
    Tie,
    /// By chance: that is what the picker does, or nothing scored.
    Random,
    /// Its breaker is open, and this request tries it out.
    Probe,
    /// Filters left no other.
    OnlyCandidate,
    /// The request named it.
    Named,
    /// Earlier requests of its session went there.
    Session,
}

// === impl Reason ===

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Scored,
        Self::Tie,
        Self::Random,
        Self::Probe,
        Self::OnlyCandidate,
        Self::Named,
        Self::Session,
    ];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scored => "scored",
            Self::Tie => "tie",
            Self::Random => "random",
            Self::Probe => "probe",
            Self::OnlyCandidate => "only-candidate",
            Self::Named => "named",
            Self::Session => "session",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_in_their_places() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(at, reason as usize);
        }
    }
}
