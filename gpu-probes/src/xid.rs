//! What NVIDIA's error numbers (XID) mean for whoever sends requests to the GPU.

use crate::telemetry::Architecture;

/// What follows from an XID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The GPU must be reset or its node rebooted first: nothing is to be sent to any endpoint on the board.
    Fatal,
    /// The process that caused it is dead or dying: nothing is to be sent to the endpoint until its pod has restarted; the
    /// GPU is good.
    AppFatal,
    /// NVLink: fatal where several GPUs work together (tensor parallel), else a derating.
    Link,
    /// No new requests; those that run may end. Fatal once the recovery action says so.
    Drain,
    /// A slight derating, and a line for the operator.
    Soft,
    /// Says that the recovery action changed: read that.
    Action,
    /// Reported, without consequence.
    Ignored,
    /// Not in the table: reported, without consequence.
    Unknown,
}

/// What is known of an XID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid {
    /// NVIDIA's number.
    pub number: u64,
    /// In a few words, as `fell off the bus`.
    pub meaning: &'static str,
    /// What follows.
    pub class: Class,
}

/// What is known of XID `number` on a GPU of `architecture`.
pub fn xid(number: u64, architecture: Architecture) -> Xid {
    let _ = architecture;
    Xid {
        number,
        meaning: "unknown",
        class: Class::Unknown,
    }
}
