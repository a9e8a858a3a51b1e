//! What is left of a GPU's weight while its clocks are held down.

use super::*;

#[test]
fn throttling() {
    for (reasons, sm, expected) in [
        (Some(0), Some(500), None),
        // A software power cap is how a GPU works under load; so are application clocks.
        (Some(0x4), Some(1_000), None),
        (Some(0x2 | 0x10 | 0x100), Some(1_000), None),
        (Some(0x8), Some(1_000), Some(0.5)),
        (Some(0x20), Some(1_500), Some(0.75)),
        (Some(0x40 | 0x4), Some(1_000), Some(0.5)),
        (Some(0x80), Some(200), Some(LEAST)),
        (Some(0x40), None, Some(UNTOLD)),
        // Idle, it is slow by itself.
        (Some(0x1 | 0x20), Some(200), None),
        (None, Some(200), None),
    ] {
        let told = told(1_000, clocks(reasons, sm, Some(2_000)));
        let mut case = Case::new();
        let causes = case.judge(&told, 1_000);
        assert_eq!(!causes.is_empty(), expected.is_some(), "{reasons:?} {sm:?}");
        assert_eq!(
            case.memory.weight,
            expected.unwrap_or(1.0),
            "{reasons:?} {sm:?}"
        );
    }
    // The slowest of several.
    let two = told(1_000, clocks(Some(0x40), Some(1_600), Some(2_000)))
        .and(1_000, clocks(Some(0x40), Some(1_200), Some(2_000)));
    let mut case = Case::new();
    case.judge(&two, 1_000);
    assert_eq!(case.memory.weight, 0.6);
    // Clocks that cannot be.
    let mut case = Case::new();
    case.judge(
        &told(1_000, clocks(Some(0x40), Some(9_000), Some(0))),
        1_000,
    );
    assert_eq!(case.memory.weight, UNTOLD);
}

#[test]
fn a_weight_falls_at_once_and_rises_slowly() {
    let mut case = Case::new();
    let mut weight = |reasons, sm, now| {
        case.judge(
            &told(now, clocks(Some(reasons), Some(sm), Some(2_000))),
            now,
        );
        case.memory.weight
    };
    assert_eq!(weight(0x40, 1_000, 1_000), 0.5);
    let rising = weight(0x40, 2_000, 2_000);
    assert!((0.55..0.65).contains(&rising), "{rising}");
    assert_eq!(weight(0x40, 800, 2_100), 0.4);
    // It flickers: the weight stays for as long as that goes on.
    for n in 0..100 {
        let now = 3_000 + n * 500;
        let reasons = if n % 2 == 0 { 0 } else { 0x40 };
        let weight = weight(reasons, 800, now);
        assert!(weight < 0.45, "{n}: {weight}");
    }
    for now in [60_000, 64_900] {
        assert!(weight(0, 2_000, now) < 0.45);
    }
    assert_eq!(weight(0, 2_000, 65_000), 1.0);
}
