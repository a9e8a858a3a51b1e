use super::super::super::testing::{
    held, placed, plugin, scored, scores_for, snapshot, with_context,
};
use super::*;
use crate::pool::LoadView;
use crate::pool::gpu::GpuMemory;

fn made(parameters: &str) -> GpuCotenant {
    GpuCotenant::of(&plugin("gpu-cotenant-scorer", parameters)).unwrap()
}

#[test]
fn the_formula() {
    let scorer = made("{halfAt: 4, foreignRequests: 2}");
    let snapshot = snapshot(5);
    let load = LoadView {
        requests: vec![4.0, 12.0, f32::NAN, 100.0, f32::NAN],
        in_flight: vec![1, 0, 4, 0, 7],
        ..Default::default()
    };
    let scores = || scores_for(&scorer, &snapshot, &load, 0, &[]);
    // Nothing is known of anyone: nobody is preferred.
    assert_eq!(scores(), [1.0; 5]);
    // The first three share one GPU; the fourth is alone; of the last nothing is known.
    placed(
        &snapshot,
        &[[1, 1, 1], [1, 1, 1], [1, 1, 1], [2, 2, 1], [0, 0, 0]],
    );
    let mean = (0.2 + 1.0 / 3.0 + 0.2 + 1.0) / 4.0;
    let expected = [4.0 / 20.0, 4.0 / 12.0, 4.0 / 20.0, 1.0, mean];
    for (got, expected) in scores().iter().zip(expected) {
        assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
    }
    // Somebody else is there too.
    let foreign = GpuMemory {
        held: 1,
        free: 1,
        least_free: 1,
        foreign: 3,
    };
    held(&snapshot, &[None, None, None, Some(foreign), None], 1);
    assert!((scores()[3] - 4.0 / 6.0).abs() < 1e-6);
}

#[test]
fn neighbours_on_a_board_that_share_no_instance_do_not_slow_each_other_down() {
    let snapshot = snapshot(2);
    placed(&snapshot, &[[1, 1, 1], [1, 2, 1]]);
    let load = LoadView {
        requests: vec![50.0, 50.0],
        in_flight: vec![0, 0],
        ..Default::default()
    };
    assert_eq!(
        scores_for(&made("{}"), &snapshot, &load, 0, &[]),
        [1.0, 1.0]
    );
}

#[test]
fn fallbacks_are_on_other_boards_and_if_it_can_be_on_other_nodes() {
    let scorer = made("{}");
    // Two share a board; a third is on their node; two are on another; of the last nothing is known.
    let places = [
        [1, 1, 1],
        [1, 2, 1],
        [2, 3, 1],
        [3, 4, 2],
        [4, 5, 2],
        [0, 0, 0],
    ];
    let totals = [0.9, 0.8, 0.7, 0.6, 0.5, 0.1];
    for (candidates, chosen, expected) in [
        (vec![0, 1, 2, 3, 4, 5], vec![0, 1], vec![0, 3]),
        (vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2], vec![0, 3, 5]),
        // It has given way, and comes next.
        (vec![0, 1, 2, 3], vec![0, 1, 3], vec![0, 3, 2]),
        (vec![0, 1, 2], vec![0, 1], vec![0, 2]),
        (vec![0, 1, 2], vec![0, 1, 2], vec![0, 2, 1]),
        // There is nothing better.
        (vec![0, 1], vec![0, 1], vec![0, 1]),
        (vec![0, 2], vec![2, 0], vec![2, 0]),
        (vec![0, 3, 4], vec![0, 4], vec![0, 4]),
        (vec![0, 5, 3], vec![5, 0], vec![5, 0]),
        (vec![0, 1, 2], vec![0], vec![0]),
    ] {
        let snapshot = snapshot(places.len());
        placed(&snapshot, &places);
        let totals: Vec<f32> = candidates.iter().map(|&at| totals[at as usize]).collect();
        let mut got = chosen.clone();
        let changed = with_context(&snapshot, &LoadView::default(), 0, &[], |cx| {
            scorer
                .spread()
                .unwrap()
                .rearrange(cx, &candidates, &totals, &mut got)
        });
        assert_eq!(
            (&got, changed),
            (&expected, chosen != expected),
            "{candidates:?} {chosen:?}"
        );
    }
}

#[test]
fn a_retry_keeps_away_from_what_shares_with_where_it_failed() {
    let scorer = made("{}");
    let failed_at = |places: &[[u32; 3]], failed: &[u32]| {
        let snapshot = snapshot(places.len());
        placed(&snapshot, places);
        let load = LoadView {
            in_flight: vec![0; places.len()],
            ..Default::default()
        };
        with_context(&snapshot, &load, 0, &[], |cx| {
            let cx = Context { failed, ..*cx };
            let mut fallbacks = vec![places.len() as u32 - 1, 0];
            let candidates: Vec<u32> = (0..places.len() as u32).collect();
            let totals = vec![0.5; places.len()];
            scorer.rearrange(&cx, &candidates, &totals, &mut fallbacks);
            (scored(&scorer, &cx), fallbacks)
        })
    };
    // The first two share a board; the third is on their node; of the last but one nothing is known.
    let places = [[1, 1, 1], [1, 2, 1], [2, 3, 1], [0, 0, 0], [3, 4, 2]];
    assert_eq!(
        failed_at(&places, &[0]),
        (vec![0.0, 0.0, 0.5, 1.0, 1.0], vec![4, 3])
    );
    assert_eq!(
        failed_at(&places, &[2, 3]),
        (vec![0.5, 0.5, 0.0, 0.0, 1.0], vec![4, 0])
    );
    assert_eq!(failed_at(&places, &[]).0, [1.0; 5]);
    // Nothing is known of any GPU: it goes to another endpoint.
    assert_eq!(
        failed_at(&[[0; 3]; 3], &[0]),
        (vec![0.0, 1.0, 1.0], vec![2, 1])
    );
}

#[test]
fn parameters_are_checked() {
    for (parameters, expected) in [
        ("{halfAt: 0}", "halfAt: is not a number from"),
        (
            "{foreignRequests: -1}",
            "foreignRequests: is not a number from",
        ),
        ("{maxAge: 0s}", "maxAge: 0 makes everything too old"),
    ] {
        let got = GpuCotenant::of(&plugin("gpu-cotenant-scorer", parameters));
        let got = got.unwrap_err().message;
        assert!(got.contains(expected), "{got}\nnot\n{expected}");
    }
}
