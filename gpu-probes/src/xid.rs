//! What NVIDIA's error numbers (XID) mean for whoever sends requests to the GPU.
//!
//! Numbers, meanings and remedies are those of NVIDIA's XID catalog (autumn 2025). Class and weight are ours: they say what
//! follows for requests, not for the operator, and are milder here and there than what others do with their nodes. The
//! table is data; what differs between architectures is in rows of its own.

use Class::{Action, AppFatal, Drain, Fatal, Ignored, Link, Soft, Unknown};
use Scope::{Board, Instance};

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

/// Whom an XID concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every endpoint on the board, its MIG instances included.
    Board,
    /// The process, and under MIG the instance, that it names; where it names none, the board.
    Instance,
}

/// What is known of an XID.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xid {
    /// NVIDIA's number.
    pub number: u64,
    /// In a few words, as `fell off the bus`.
    pub meaning: &'static str,
    /// What follows.
    pub class: Class,
    /// Whom it concerns.
    pub scope: Scope,
    /// Of [`Class::Soft`], and of [`Class::Link`] where it derates: the share of its requests that an endpoint keeps, 0 to 1.
    /// Else 1.
    pub weight: f64,
    /// What NVIDIA tells the operator to do at once, in a few words.
    pub remedy: &'static str,
}

/// Some XIDs: numbers, meaning, class, scope, weight, remedy.
type Row = (
    &'static [u64],
    &'static str,
    Class,
    Scope,
    f64,
    &'static str,
);

const RESTART: &str = "restart the application";
const RESET: &str = "reset the GPU";
const NONE: &str = "none";
const LINKS: &str = "check the links; reset the GPUs that share them";

/// What holds for every architecture that has no row of its own.
#[rustfmt::skip]
const XIDS: &[Row] = &[
    (&[8, 43],   "GPU stopped processing",                     AppFatal, Instance, 1.0, RESTART),
    (&[11, 32],  "invalid or corrupted push buffer",           AppFatal, Instance, 1.0, RESTART),
    (&[13],      "graphics engine exception",                  AppFatal, Instance, 1.0, RESTART),
    (&[31],      "memory page fault",                          AppFatal, Instance, 1.0, RESTART),
    // A process that ended for another reason is cleaned up after: it is gone either way.
    (&[45],      "preemptive cleanup",                         AppFatal, Instance, 1.0, "see the XID before it"),
    (&[46],      "GPU stopped processing",                     Fatal,    Board,    1.0, RESET),
    (&[48],      "double-bit ECC error",                       Fatal,    Board,    1.0, "reset the GPU; check the SRAM threshold"),
    (&[54],      "auxiliary power not connected",              Drain,    Board,    1.0, "check the power cables"),
    (&[62],      "internal micro-controller halted",           Fatal,    Board,    1.0, RESET),
    // A pending remapping does not affect work on the GPU: bad pages are taken out meanwhile.
    (&[63],      "row remapping recorded",                     Soft,     Board,    0.95, NONE),
    (&[64],      "row remapping failed",                       Drain,    Board,    1.0, "reset the GPU; contact support"),
    (&[66, 67],  "illegal access by the driver",               Ignored,  Instance, 1.0, NONE),
    (&[68],      "video decoder exception",                    AppFatal, Instance, 1.0, RESTART),
    (&[69],      "graphics engine class error",                AppFatal, Instance, 1.0, RESTART),
    (&[39, 40, 70, 71, 72, 75, 76, 77, 85, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135],
                 "copy engine error",                          AppFatal, Instance, 1.0, RESTART),
    (&[74],      "NVLink error",                               Link,     Board,    0.7, LINKS),
    (&[79],      "fell off the bus",                           Fatal,    Board,    1.0, "restart the node"),
    (&[92],      "high rate of single-bit ECC errors",         Soft,     Board,    0.9, NONE),
    (&[94],      "contained memory error",                     AppFatal, Instance, 1.0, RESTART),
    (&[95],      "uncontained memory error",                   Fatal,    Board,    1.0, RESET),
    // The process is dying, and NVIDIA wants a reset as well: a restarted pod would hang anew.
    (&[109],     "context switch timeout",                     Fatal,    Board,    1.0, RESET),
    (&[110],     "security fault",                             Fatal,    Board,    1.0, RESET),
    (&[119],     "GSP RPC timeout",                            Fatal,    Board,    1.0, RESET),
    (&[120],     "GSP error",                                  Fatal,    Board,    1.0, RESET),
    (&[121],     "corrected errors on the link to the CPU",    Ignored,  Board,    1.0, NONE),
    (&[123],     "power controller: write failed",             Soft,     Board,    0.9, "contact support"),
    (&[136],     "link training failed",                       Fatal,    Board,    1.0, RESET),
    (&[137],     "illegal access over NVLink",                 Ignored,  Instance, 1.0, NONE),
    (&[140],     "unrecovered ECC error",                      Fatal,    Board,    1.0, RESET),
    (&[142],     "video encoder exception",                    Ignored,  Instance, 1.0, "contact support"),
    (&[143],     "GPU initialisation failed",                  Fatal,    Board,    1.0, RESET),
    (&[144, 145, 146, 147, 148, 149, 150],
                 "NVLink error",                               Link,     Board,    0.7, LINKS),
    (&[151],     "key rotation failed",                        Fatal,    Board,    1.0, "restart the virtual machine"),
    (&[154],     "recovery action changed",                    Action,   Board,    1.0, "do what the recovery action says"),
    (&[155],     "NVLink software error",                      Fatal,    Board,    1.0, RESET),
    (&[156],     "resource retirement",                        Fatal,    Board,    1.0, RESET),
    (&[157],     "resource retirement failed",                 Soft,     Board,    0.9, "contact support"),
    (&[158],     "fatal timeout",                              Fatal,    Board,    1.0, RESET),
    (&[160, 161], "channel retirement",                        Ignored,  Board,    1.0, NONE),
    (&[171, 172], "uncorrectable memory error: where it was",  Ignored,  Board,    1.0, "see XID 48"),
];

/// What holds for these architectures instead.
#[rustfmt::skip]
const BY_ARCHITECTURE: &[(&[Architecture], Row)] = &[
    // They remap rows, but neither contain errors nor take bad pages out meanwhile: the next process may meet the row.
    (&[Architecture::AmpereGa10x, Architecture::Ada],
     (&[63], "row remapping recorded", Soft, Board, 0.5, "reset the GPU when convenient")),
    // No rows are remapped there: the numbers are those of page retirement, which needs the driver loaded anew.
    (&[Architecture::PascalOrOlder, Architecture::Volta, Architecture::Turing],
     (&[63], "page retirement recorded", Soft, Board, 0.5, "reset the GPU when convenient")),
    (&[Architecture::PascalOrOlder, Architecture::Volta, Architecture::Turing],
     (&[64], "page retirement failed", Drain, Board, 1.0, "reset the GPU; contact support")),
];

/// What is known of XID `number` on a GPU of `architecture`.
pub fn xid(number: u64, architecture: Architecture) -> Xid {
    let own = BY_ARCHITECTURE
        .iter()
        .filter(|(which, _)| which.contains(&architecture))
        .map(|(_, row)| row);
    let row = own.chain(XIDS).find(|row| row.0.contains(&number));
    let (_, meaning, class, scope, weight, remedy) =
        row.copied()
            .unwrap_or((&[], "unknown", Unknown, Board, 1.0, NONE));
    Xid {
        number,
        meaning,
        class,
        scope,
        weight,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPPER: Architecture = Architecture::Hopper;

    fn class(number: u64) -> Class {
        xid(number, HOPPER).class
    }

    #[test]
    fn each_number_has_what_the_reference_says() {
        for (numbers, class) in [
            (&[13, 31, 43, 45, 94][..], AppFatal),
            (
                &[48, 79, 95, 109, 119, 120, 136, 140, 143, 155, 156, 158],
                Fatal,
            ),
            (&[63, 92], Soft),
            (&[64], Drain),
            (&[74, 144, 145, 146, 147, 148, 149, 150], Link),
            (&[154], Action),
            (&[0, 1, 1000, u64::MAX], Unknown),
        ] {
            for &number in numbers {
                assert_eq!(xid(number, HOPPER).class, class, "{number}");
                assert_eq!(xid(number, HOPPER).number, number);
            }
        }
    }

    #[test]
    fn what_node_agents_call_fatal_is_known_here_too() {
        // The fatal list of EKS, the conditions of GKE, and what NVIDIA's device plugin takes for the application's.
        let eks = [
            46, 48, 54, 62, 63, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 142, 143, 151, 155,
            156, 158,
        ];
        let gke = [48, 63, 64, 79, 119, 120, 123, 140];
        let plugin = [13, 31, 43, 45, 68, 109];
        for number in eks.into_iter().chain(gke).chain(plugin) {
            assert_ne!(class(number), Unknown, "{number}");
        }
        for number in [46, 62, 110, 151] {
            assert_eq!(class(number), Fatal, "{number}");
        }
        for number in [13, 31, 43, 45, 68] {
            assert_eq!(xid(number, HOPPER).scope, Scope::Instance, "{number}");
        }
    }

    #[test]
    fn errors_of_a_process_are_not_its_neighbours() {
        for number in 0..200 {
            let known = xid(number, HOPPER);
            match known.class {
                AppFatal => assert_eq!(known.scope, Scope::Instance, "{number}"),
                Fatal | Drain | Link | Action | Soft | Unknown => {
                    assert_eq!(known.scope, Scope::Board, "{number}")
                }
                Ignored => {}
            }
        }
    }

    #[test]
    fn a_recorded_row_remapping_weighs_more_where_errors_are_not_contained() {
        use Architecture::{Ada, AmpereGa10x, AmpereGa100, Blackwell, Turing};
        for mild in [AmpereGa100, HOPPER, Blackwell, Architecture::Unknown] {
            assert_eq!(
                (xid(63, mild).class, xid(63, mild).weight),
                (Soft, 0.95),
                "{mild:?}"
            );
        }
        for hard in [AmpereGa10x, Ada] {
            assert_eq!(
                (xid(63, hard).class, xid(63, hard).weight),
                (Soft, 0.5),
                "{hard:?}"
            );
        }
        assert_eq!(xid(63, Turing).meaning, "page retirement recorded");
        assert_eq!(
            (xid(64, Turing).meaning, xid(64, Turing).class),
            ("page retirement failed", Drain)
        );
    }

    #[test]
    fn rows_are_whole_and_name_a_number_once() {
        let mut seen = std::collections::BTreeSet::new();
        for (numbers, meaning, class, _, weight, remedy) in XIDS {
            assert!(!meaning.is_empty() && !remedy.is_empty(), "{numbers:?}");
            assert_eq!(*weight < 1.0, matches!(class, Soft | Link), "{numbers:?}");
            assert!((0.3..=1.0).contains(weight), "{numbers:?}");
            for number in *numbers {
                assert!(seen.insert(number), "{number} is in two rows");
            }
        }
        for (_, (numbers, ..)) in BY_ARCHITECTURE {
            assert!(
                numbers.iter().all(|number| seen.contains(number)),
                "{numbers:?}: what holds elsewhere?"
            );
        }
    }
}
