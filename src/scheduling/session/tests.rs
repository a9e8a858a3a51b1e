use super::super::registry;
use super::super::testing::snapshot;
use super::super::testing::with_context;
use super::super::{Reason, Scheduler, Scratch};
use crate::config::{LoadOptions, load};
use crate::pool::{LoadView, Snapshot};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

fn scheduler(plugins: &str) -> Result<Scheduler, String> {
    let text =
        format!("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n{plugins}");
    let options = LoadOptions {
        allow_experimental: true,
    };
    let config = load(&text, options).map_err(|errors| errors.to_string())?;
    registry::build(&config).map_err(|errors| errors.to_string())
}

/// Where a request with `headers` goes, after which its followers are told. `seed` decides between equals.
fn pick(scheduler: &Scheduler, snapshot: &Snapshot, headers: &[(&str, &str)], seed: u64) -> u32 {
    let mut load = LoadView::default();
    load.gather(snapshot, 1, 1);
    with_context(snapshot, &load, 0, headers, |cx| {
        let candidates: Vec<u32> = (0..snapshot.len() as u32).collect();
        let (mut scratch, mut rng) = (Scratch::default(), SmallRng::seed_from_u64(seed));
        let decision = scheduler.schedule(cx, &candidates, &mut scratch, &mut rng, false);
        let decision = decision.unwrap();
        let followers = scheduler.followers(&decision.ran);
        followers.for_each(|(f, endpoint)| f.picked(cx, endpoint));
        decision.endpoints[0]
    })
}

/// Whether all of many picks with `headers` are the same.
fn sticks(scheduler: &Scheduler, snapshot: &Snapshot, headers: &[(&str, &str)]) -> bool {
    let first = pick(scheduler, snapshot, headers, 0);
    (1..20).all(|seed| pick(scheduler, snapshot, headers, seed) == first)
}

const TYPES: [&str; 2] = ["session-affinity-filter", "session-affinity-scorer"];

#[test]
fn a_token_leads_back_to_the_endpoint_that_gave_it() {
    for plugin in TYPES {
        let scheduler = scheduler(&format!(
            "- {{type: {plugin}, parameters: {{encodedEndpointHeaderConfig: {{header: X-Mine}}}}}}\n"
        ))
        .unwrap();
        let snapshot = snapshot(4);
        for position in 0..4 {
            let member = snapshot.member(position);
            let stamps: Vec<_> = scheduler
                .followers(&[(0, member)])
                .filter_map(|(f, member)| f.stamp(member))
                .collect();
            assert_eq!(stamps.len(), 1);
            assert_eq!(stamps[0].name, "x-mine");
            let token = std::str::from_utf8(&stamps[0].value).unwrap();
            // Digits of a number: neither a name nor an address, in whatever encoding.
            assert!(
                token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit()),
                "{token}"
            );
            for seed in 0..5 {
                assert_eq!(
                    pick(&scheduler, &snapshot, &[("x-mine", token)], seed),
                    position
                );
            }
            // Not ours, by one digit.
            let last = if token.ends_with('0') { "1" } else { "0" };
            let forged = format!("{}{last}", &token[..31]);
            for (header, value) in [
                ("x-mine", &*forged),
                ("x-mine", "ZGVmYXVsdC9lMA=="),
                ("x-session-token", token),
            ] {
                assert!(
                    !sticks(&scheduler, &snapshot, &[(header, value)]),
                    "{header} {value}"
                );
            }
        }
    }
}

#[test]
fn a_session_stays_where_it_was_first_sent() {
    for plugin in TYPES {
        let scheduler = scheduler(&format!(
            "- type: agent-identity\n- {{type: session-id-producer, parameters: {{cookieName: sid}}}}\n- type: {plugin}\n  parameters:\n    strategy: session_id\n    sessionIdConfig: {{sources: [{{header: x-session-id}}, {{attribute: agent-identity}}, {{attribute: session-id}}]}}\n"
        ))
        .unwrap();
        let snapshot = snapshot(4);
        for n in 0..10 {
            let (a, b) = (format!("a{n}"), format!("b{n}"));
            let cookie = format!("sid=c{n}");
            for headers in [
                &[("x-session-id", &*a)][..],
                &[("session_id", &*b)],
                &[("cookie", &*cookie)],
                // The header wins.
                &[("x-session-id", &*a), ("session_id", "other")],
            ] {
                assert!(sticks(&scheduler, &snapshot, headers), "{headers:?}");
            }
            assert_eq!(
                pick(&scheduler, &snapshot, &[("x-session-id", &a)], 1),
                pick(
                    &scheduler,
                    &snapshot,
                    &[("x-session-id", &a), ("session_id", &b)],
                    2
                )
            );
        }
        assert!(!sticks(&scheduler, &snapshot, &[]), "no session");
        let member = snapshot.member(0);
        let ran = [(0, member)];
        let mut followers = scheduler.followers(&ran);
        assert!(followers.all(|(f, member)| f.stamp(member).is_none()));
    }
}

#[test]
fn every_profile_learns_where_a_session_went_and_says_so() {
    let scheduler = scheduler(
        "- type: header-profile-handler\n  parameters: {defaultProfile: a}\n- {type: session-affinity-filter, name: s, parameters: {strategy: session_id}}\nschedulingProfiles:\n- {name: a, plugins: [{pluginRef: s}]}\n- {name: b, plugins: [{pluginRef: s}]}\n",
    )
    .unwrap();
    let snapshot = snapshot(4);
    for n in 0..10 {
        let session = format!("s{n}");
        let in_a = [("x-session-id", &*session)];
        let in_b = [("x-session-id", &*session), ("epp-profile", "b")];
        let first = pick(&scheduler, &snapshot, &in_a, n);
        assert_eq!(pick(&scheduler, &snapshot, &in_b, n + 1), first);
    }
    let mut load = LoadView::default();
    load.gather(&snapshot, 1, 1);
    let reason = with_context(&snapshot, &load, 0, &[("x-session-id", "s0")], |cx| {
        let (mut scratch, mut rng) = (Scratch::default(), SmallRng::seed_from_u64(0));
        let decision = scheduler.schedule(cx, &[0, 1, 2, 3], &mut scratch, &mut rng, false);
        decision.unwrap().reason
    });
    assert_eq!(reason, Reason::Session);
}

#[test]
fn a_prefill_profile_has_sessions_of_its_own() {
    // Case 87.
    let scheduler = scheduler(
        "- {type: disagg-profile-handler, parameters: {deciders: {prefill: prefix-based-pd-decider}}}\n- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 16}}\n- {type: session-affinity-filter, name: d}\n- {type: session-affinity-filter, name: p, parameters: {profileName: prefill, encodedEndpointHeaderConfig: {header: x-session-token-prefill}}}\nschedulingProfiles:\n- {name: decode, plugins: [{pluginRef: d}]}\n- {name: prefill, plugins: [{pluginRef: p}]}\n",
    )
    .unwrap();
    let snapshot = snapshot(9);
    let mut load = LoadView::default();
    load.gather(&snapshot, 1, 1);
    let ask = |bytes: usize, headers: &[(&str, &str)]| {
        with_context(&snapshot, &load, bytes, headers, |cx| {
            let candidates: Vec<u32> = (0..9).collect();
            let (mut scratch, mut rng) = (Scratch::default(), SmallRng::from_rng(&mut rand::rng()));
            let decision = scheduler.schedule(cx, &candidates, &mut scratch, &mut rng, false);
            let decision = decision.unwrap();
            let ran = decision.ran.iter();
            let ran: Vec<_> = ran.map(|&(at, p)| (at, snapshot.member(p))).collect();
            let stamps = scheduler.followers(&ran).filter_map(|(f, m)| f.stamp(m));
            let stamps =
                stamps.map(|stamp| (stamp.name, String::from_utf8(stamp.value.to_vec()).unwrap()));
            (
                decision.endpoints[0],
                decision.prefill,
                stamps.collect::<Vec<_>>(),
            )
        })
    };
    let (decode, prefill, stamps) = ask(4_000, &[]);
    let names: Vec<_> = stamps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-session-token", "x-session-token-prefill"]);
    let back: Vec<_> = stamps
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    for _ in 0..20 {
        let (again, prefill_again, _) = ask(4_000, &back);
        assert_eq!((again, prefill_again), (decode, prefill));
    }
    // Too short to be prefilled elsewhere.
    let (_, prefill, stamps) = ask(4, &back);
    assert_eq!(
        (prefill, stamps.len(), &*stamps[0].0),
        (None, 1, "x-session-token")
    );
}

#[test]
fn a_session_whose_endpoint_is_gone_moves_and_stays_there() {
    let scheduler =
        scheduler("- {type: session-affinity-filter, parameters: {strategy: session_id}}\n")
            .unwrap();
    let pool = crate::pool::Pool::default();
    let all: Vec<_> = snapshot(4)
        .members()
        .iter()
        .map(|m| m.endpoint.clone())
        .collect();
    let whole = pool.replace(all.clone());
    let headers = [("x-session-id", "s")];
    let first = pick(&scheduler, &whole, &headers, 0);
    let mut rest = all;
    let gone = rest.remove(first as usize);
    let less = pool.replace(rest.clone());
    assert!(sticks(&scheduler, &less, &headers));
    let second = pick(&scheduler, &less, &headers, 0);
    // It comes back, and the session stays.
    rest.push(gone);
    let more = pool.replace(rest);
    assert_eq!(pick(&scheduler, &more, &headers, 5), second);
}

#[test]
fn parameters_are_checked() {
    for (parameters, expected) in [
        ("{strategy: cookies}", "unknown variant `cookies`"),
        (
            "{profileName: prefill}",
            "parameters.profileName: no scheduling profile is called `prefill`",
        ),
        (
            "{encodedEndpointHeaderConfig: {header: ':path'}}",
            "encodedEndpointHeaderConfig.header: `:path` is not the name of a header",
        ),
        (
            "{strategy: session_id, sessionIdConfig: {sources: [{}]}}",
            "sessionIdConfig.sources[0]: give one of header and attribute",
        ),
        (
            "{strategy: session_id, sessionIdConfig: {sources: [{attribute: x}]}}",
            "sessionIdConfig.sources[0].attribute: nothing produces `x`",
        ),
        (
            "{strategy: session_id, sessionIdConfig: {evictionTtlSeconds: 0}}",
            "sessionIdConfig.evictionTtlSeconds: is not a positive number",
        ),
    ] {
        let got = scheduler(&format!(
            "- {{type: session-affinity-scorer, parameters: {parameters}}}\n"
        ))
        .unwrap_err();
        assert!(got.contains(expected), "{got}\nnot\n{expected}");
    }
}
