use super::*;
use crate::pool::health::{Cause, Health, State};
use crate::pool::slab::{Scrape, Slab};
use crate::pool::{Endpoint, EndpointId, Pool, Snapshot, breaker, simulate_clock};
use crate::telemetry::metrics::Metrics;
use std::sync::atomic::Ordering;

pub(in crate::picker) fn booking() -> Booking {
    let slot = Arc::new(Slab::default()).take();
    let series = Metrics::new().series("m", "m", "default-flow", 0);
    Booking::new(Reservation::new(&slot), series, Instant::now(), false)
}

#[test]
fn usage_is_recorded_once_and_the_booking_ends_with_the_response() {
    let booking = booking();
    let slot = Arc::clone(booking.reservation.slot());
    let series = Arc::clone(&booking.series);
    let mut response = Response::new(Some(booking), None, 200, (false, true), Instant::now());
    let now = Instant::now();
    response.chunk(
        br#"{"usage":{"prompt_tokens":7,"completion_tokens":10,"#,
        now,
    );
    response.chunk(br#""total_tokens":17}}"#, now);
    assert_eq!(
        slot.segment().in_flight[slot.index()].load(Ordering::Relaxed),
        1
    );
    response.ended();
    let (s, i) = (slot.segment(), slot.index());
    assert_eq!(s.in_flight[i].load(Ordering::Relaxed), 0);
    assert_eq!(s.ended_since[i].load(Ordering::Relaxed), 1);
    assert_eq!(series.running.get(), 0);
}

#[test]
fn what_comes_before_the_first_token_ends_with_it() {
    let token = b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let role = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    for chunks in [&[&role[..], token][..], &[role], &[]] {
        let slots = [(); 2].map(|()| Arc::new(Slab::default()).take());
        let in_flight = |n: usize| {
            let (s, i) = (slots[n].segment(), slots[n].index());
            s.in_flight[i].load(Ordering::Relaxed)
        };
        let booking = Booking {
            before: slots.iter().map(|s| (Reservation::new(s), None)).collect(),
            ..booking()
        };
        let mut response = Response::new(Some(booking), None, 200, (true, true), Instant::now());
        for chunk in chunks {
            assert_eq!((in_flight(0), in_flight(1)), (1, 1));
            response.chunk(chunk, Instant::now());
        }
        let open = u32::from(chunks.len() < 2);
        assert_eq!((in_flight(0), in_flight(1)), (open, open));
        response.ended();
        assert_eq!((in_flight(0), in_flight(1)), (0, 0));
        for slot in &slots {
            let ended = slot.segment().ended_since[slot.index()].load(Ordering::Relaxed);
            assert_eq!(ended, 1);
        }
    }
}

#[test]
fn gaps_are_those_between_pieces_from_the_first_token_on() {
    let token = b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let role = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    for (streaming, gaps) in [(true, 2), (false, 0)] {
        let booking = booking();
        let series = Arc::clone(&booking.series);
        let begun = Instant::now();
        let mut response = Response::new(Some(booking), None, 200, (streaming, true), begun);
        for chunk in [&role[..], role, token, token, token] {
            response.chunk(chunk, Instant::now());
            response.worked(Duration::from_millis(1));
        }
        drop(response);
        assert_eq!(series.itl.count(), gaps);
        // It was cut off, and we worked on it all the same.
        assert_eq!(series.response_processing.count(), 1);
    }
}

#[test]
fn what_nobody_saw_to_end_has_not_ended() {
    for seen_to_begin in [false, true] {
        let booking = booking();
        let slot = Arc::clone(booking.reservation.slot());
        if seen_to_begin {
            drop(Response::new(
                Some(booking),
                None,
                200,
                (true, true),
                Instant::now(),
            ));
        } else {
            drop(booking);
        }
        let (s, i) = (slot.segment(), slot.index());
        assert_eq!(s.in_flight[i].load(Ordering::Relaxed), 0);
        assert_eq!(s.ended_since[i].load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_stream_that_ends_in_an_error_of_the_server_has_failed() {
    let event = |error: &str| format!("data: {{\"error\": {error}}}\n\n").into_bytes();
    for (last, streaming, failed) in [
        (
            event(r#"{"message": "EngineCore died", "code": 500}"#),
            true,
            true,
        ),
        (event(r#"{"message": "x","code":503}"#), true, true),
        // The request is to blame.
        (
            event(r#"{"message": "too long", "code": 400}"#),
            true,
            false,
        ),
        (event(r#"{"message": "x"}"#), true, false),
        (b"data: [DONE]\n\n".to_vec(), true, false),
        (event(r#"{"code": 500}"#), false, false),
    ] {
        let slot = Arc::new(Slab::default()).take();
        let mut out = 0;
        for _ in 0..breaker::ENOUGH {
            let series = Metrics::new().series("m", "m", "default-flow", 0);
            let reservation = Reservation::new(&slot);
            let booking = Booking::new(reservation, series, Instant::now(), streaming);
            let mut response =
                Response::new(Some(booking), None, 200, (streaming, true), Instant::now());
            response.chunk(&last, Instant::now());
            response.ended();
            out += u32::from(slot.word().is_out(false));
        }
        let text = String::from_utf8_lossy(&last);
        assert_eq!(out > 0, failed, "{text}");
    }
}

#[test]
fn what_comes_by_is_told_to_the_endpoint_s_marks() {
    let token = b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let booking = booking();
    let slot = Arc::clone(booking.reservation.slot());
    let begun = Instant::now();
    let mut response = Response::new(Some(booking), None, 200, (true, true), begun);
    for n in 0..5 {
        response.chunk(token, begun + Duration::from_millis(100 * n));
    }
    response.ended();
    // Five pieces, the first token, end; and four timed ones.
    assert_eq!(slot.marks().seen(), (7, 1, 4, Duration::from_millis(400)));
}

#[test]
fn an_error_is_no_sign_that_the_engine_moves() {
    for (status, pieces) in [(200, 3), (504, 0), (404, 0)] {
        let booking = booking();
        let slot = Arc::clone(booking.reservation.slot());
        let mut response =
            Response::new(Some(booking), None, status, (false, true), Instant::now());
        response.chunk(b"{}", Instant::now());
        response.ended();
        assert_eq!(slot.marks().seen().0, pieces, "{status}");
    }
}

/// Two endpoints.
fn snapshot() -> Arc<Snapshot> {
    let members = ["10.0.0.1", "10.0.0.2"].map(|ip| Endpoint {
        id: EndpointId {
            namespace: "default".into(),
            name: ip.into(),
        },
        address: ip.parse().unwrap(),
        port: 80,
        hardware: Default::default(),
        labels: Default::default(),
    });
    Pool::default().replace(members.to_vec())
}

#[test]
fn without_a_booking_a_request_was_sent_when_it_was_seen() {
    let snapshot = snapshot();
    // The first opened before this request was seen, the second after it.
    for (position, opened) in [(0, 0), (1, clock_ms() + 60_000)] {
        let member = snapshot.member(position);
        for _ in 0..breaker::STREAK {
            Breaker::observe(&member.slot, Outcome::Failed, 0, opened);
        }
        assert!(snapshot.word(position).is_out(false));
        Response::new(None, Some(member), 200, (false, true), Instant::now()).ended();
    }
    let is_out = |position| snapshot.word(position).is_out(false);
    assert!(!is_out(0) && is_out(1));
}

#[test]
fn an_endpoint_that_the_gateway_gave_up_on_has_failed() {
    let snapshot = snapshot();
    let series = Metrics::new().series("m", "m", "default-flow", 0);
    let (picked, served) = (snapshot.member(0), snapshot.member(1));
    let is_out = |position| snapshot.word(position).is_out(false);
    for n in 0..breaker::STREAK {
        assert!(!is_out(0), "{n}");
        let reservation = Reservation::new(&picked.slot);
        let booking = Booking::new(reservation, Arc::clone(&series), Instant::now(), false);
        Response::new(
            Some(booking),
            Some(served),
            200,
            (false, true),
            Instant::now(),
        )
        .ended();
    }
    assert!(is_out(0) && !is_out(1));
    // As it is reported where it was picked, nothing has failed.
    for _ in 0..breaker::STREAK {
        let reservation = Reservation::new(&served.slot);
        let booking = Booking::new(reservation, Arc::clone(&series), Instant::now(), false);
        Response::new(
            Some(booking),
            Some(served),
            200,
            (false, true),
            Instant::now(),
        )
        .ended();
    }
    assert!(!is_out(1));
}

const TOKEN: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";

/// The head of an answer of the endpoint at `position`, whose body is `shown`.
fn head(snapshot: &Snapshot, position: u32, streaming: bool, shown: bool) -> Response {
    let reservation = Reservation::new(&snapshot.member(position).slot);
    let series = Metrics::new().series("m", "m", "default-flow", 0);
    let booking = Booking::new(reservation, series, Instant::now(), streaming);
    Response::new(Some(booking), None, 200, (streaming, shown), Instant::now())
}

#[test]
fn an_engine_that_hangs_behind_a_front_end_that_answers_is_wedged_until_there_is_a_token() {
    let snapshot = snapshot();
    let slot = &snapshot.member(0).slot;
    let mut health = Health::default();
    let frozen = Scrape {
        waiting: Some(2.0),
        running: Some(2.0),
        kv_usage: Some(0.5),
        progress: Some(7.0),
        ..Default::default()
    };
    let mut pass = |from: u64, to: u64, each: &mut dyn FnMut(u64)| {
        for now in (from..to).step_by(100) {
            simulate_clock(now);
            slot.record(&frozen, slot.scrape_begins(), now);
            each(now);
            health.tick(&snapshot, now);
        }
    };
    let mut open = Vec::new();
    // Elsewhere something comes back.
    head(&snapshot, 1, true, true).chunk(TOKEN, Instant::now());
    pass(1_000, 8_000, &mut |now| {
        if now % 200 == 0 {
            open.push(head(&snapshot, 0, true, true));
        }
    });
    assert!(matches!(slot.state(), State::Ejected(Cause::Wedged, _)));
    // Their clients give up.
    open.clear();
    pass(8_000, 20_000, &mut |_| {});
    assert!(snapshot.take_probe(0, false, 20_000));
    simulate_clock(20_000);
    let mut trial = head(&snapshot, 0, true, true);
    assert!(slot.word().is_out(false));
    // What a front end says by itself is no answer either.
    for said in ["event: response.created\ndata: {}\n\n", ": ping\n\n"] {
        trial.chunk(said.as_bytes(), Instant::now());
        assert!(slot.word().is_out(false), "{said}");
    }
    trial.chunk(TOKEN, Instant::now());
    assert!(!slot.word().is_out(false));
    simulate_clock(0);
}

#[test]
fn what_counts_as_served() {
    // Streams, whose bodies are shown: when there is a piece, or an end.
    for (streaming, shown, at_the_head) in [
        (true, true, false),
        (true, false, true),
        (false, true, true),
        (false, false, true),
    ] {
        for ends in [false, true] {
            let snapshot = snapshot();
            let slot = &snapshot.member(0).slot;
            for _ in 0..breaker::STREAK {
                Breaker::observe(slot, Outcome::Failed, 0, 0);
            }
            let mut response = head(&snapshot, 0, streaming, shown);
            assert_eq!(!slot.word().is_out(false), at_the_head);
            assert_eq!(slot.marks().seen().0, u32::from(at_the_head));
            match ends {
                true => response.ended(),
                false => response.chunk(TOKEN, Instant::now()),
            }
            assert!(!slot.word().is_out(false));
        }
    }
}

#[test]
fn streams_that_begin_with_an_error_are_failures_in_a_row() {
    let snapshot = snapshot();
    let error = br#"data: {"error": {"message": "EngineCore died", "code": 500}}"#;
    // It served before, so that their share alone says little.
    for _ in 0..2 * breaker::STREAK {
        head(&snapshot, 0, true, true).ended();
    }
    for n in 0..breaker::STREAK {
        assert!(!snapshot.word(0).is_out(false), "{n}");
        let mut response = head(&snapshot, 0, true, true);
        response.chunk(error, Instant::now());
        response.ended();
    }
    assert!(snapshot.word(0).is_out(false));
}
