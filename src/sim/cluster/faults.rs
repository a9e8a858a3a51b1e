//! What goes wrong, by a timetable.

/// Something that happens to an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// When, in seconds.
    pub at: f64,
    /// Which engine.
    pub endpoint: u32,
    /// What.
    pub kind: FaultKind,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FaultKind {
    /// The engine dies: its requests are lost, new ones fail at once. Its page reads zero from then on: a front end that
    /// answers for it.
    Die,
    /// The same, and its page cannot be read any more.
    DieSilently,
    /// The engine stops: it takes requests and does nothing, its page stays as it is.
    Hang,
    /// Computing and reading memory take so many times longer.
    Slow(f64, f64),
    /// It is back, empty, and as fast as it ever was.
    Restart,
}
