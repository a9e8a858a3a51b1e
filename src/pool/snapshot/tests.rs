use super::*;
use crate::pool::Reservation;

pub(in crate::pool) fn endpoint(name: &str, address: &str) -> Endpoint {
    let address: SocketAddr = address.parse().unwrap();
    Endpoint {
        id: EndpointId {
            namespace: "default".into(),
            name: name.into(),
        },
        address: address.ip(),
        port: address.port(),
        hardware: Default::default(),
        labels: Default::default(),
    }
}

pub(in crate::pool) fn pool_of(addresses: &[&str]) -> Pool {
    let pool = Pool::default();
    pool.replace(addresses.iter().map(|a| endpoint(a, a)).collect());
    pool
}

fn in_flight(snapshot: &Snapshot, position: u32) -> u32 {
    let (s, i) = snapshot.cell(position);
    s.in_flight[i].load(Ordering::Relaxed)
}

#[test]
fn who_stays_keeps_its_cells_and_who_moves_does_not() {
    let pool = Pool::default();
    let first = pool.replace(vec![
        endpoint("a", "10.0.0.1:80"),
        endpoint("b", "10.0.0.2:80"),
    ]);
    let reservations: Vec<_> = (0..2)
        .map(|p| Reservation::new(&first.member(p).slot))
        .collect();
    let mut relabelled = endpoint("a", "10.0.0.1:80");
    relabelled.labels.insert("k".into(), "v".into());
    let second = pool.replace(vec![endpoint("b", "10.0.0.3:80"), relabelled]);
    assert_eq!(second.version, first.version + 1);
    assert_eq!((in_flight(&second, 0), in_flight(&second, 1)), (0, 1));
    assert_eq!(second.member(1).endpoint.labels["k"], "v");
    drop(reservations);
    assert_eq!(in_flight(&second, 1), 0);
}

#[test]
fn a_number_is_not_given_away_while_anyone_holds_it() {
    let pool = pool_of(&["10.0.0.1:80"]);
    let old = pool.snapshot();
    let number = old.member(0).slot.number();
    let reservation = Reservation::new(&old.member(0).slot);
    drop(old);
    let next = pool.replace(vec![endpoint("other", "10.0.0.2:80")]);
    assert_ne!(next.member(0).slot.number(), number);
    drop(reservation);
    let last = pool.replace(vec![
        endpoint("other", "10.0.0.2:80"),
        endpoint("new", "10.0.0.3:80"),
    ]);
    assert_eq!(last.member(1).slot.number(), number);
}

#[test]
fn look_ups() {
    let pool = pool_of(&["10.0.0.1:80", "10.0.0.1:81", "[fd00::1]:80"]);
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.by_ip(&[10, 0, 0, 1].into()), [0, 1]);
    assert_eq!(
        snapshot.by_address(&"[fd00::1]:80".parse().unwrap()),
        Some(2)
    );
    assert_eq!(snapshot.by_address(&"10.0.0.1:82".parse().unwrap()), None);
    assert_eq!(&*snapshot.member(2).address, "[fd00::1]:80");
}

#[test]
fn many_endpoints_live_in_many_segments() {
    let addresses: Vec<String> = (0..1000)
        .map(|i| format!("10.0.{}.{}:80", i / 250, i % 250))
        .collect();
    let pool = pool_of(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let snapshot = pool.snapshot();
    let _held = Reservation::new(&snapshot.member(999).slot);
    assert_eq!(in_flight(&snapshot, 999), 1);
    assert_eq!((0..999).map(|p| in_flight(&snapshot, p)).sum::<u32>(), 0);
}

/// Everything that can be asked of a snapshot, by name: positions are its own.
fn told(snapshot: &Snapshot) -> Vec<String> {
    let mut all: Vec<String> = (0..snapshot.len() as u32)
        .map(|at| {
            let member = snapshot.member(at);
            let (segment, cell) = snapshot.cell(at);
            assert!(std::ptr::eq(segment, &**member.slot.segment()) && cell == member.slot.index());
            assert_eq!(snapshot.numbers()[at as usize], member.slot.number());
            assert_eq!(snapshot.lives()[at as usize], member.slot.life());
            let address = member.endpoint.socket_addr();
            assert_eq!(snapshot.by_address(&address), Some(at));
            let of_ip = snapshot.by_ip(&address.ip());
            assert!(of_ip.contains(&at) && of_ip.is_sorted());
            format!("{:?}", member.endpoint)
        })
        .collect();
    let of_ips = snapshot.by_ip.values().map(Vec::len).sum::<usize>();
    assert_eq!((of_ips, snapshot.by_address.len()), (all.len(), all.len()));
    all.sort();
    all
}

proptest::proptest! {
    #[test]
    fn what_changes_make_is_what_a_new_list_makes(
        steps in proptest::collection::vec((0u8..12, proptest::option::of(0u8..3)), 1..60)
    ) {
        let (pool, other) = (Pool::default(), Pool::default());
        let mut wanted: std::collections::BTreeMap<u8, Endpoint> = Default::default();
        for (name, port) in steps {
            let id = name.to_string();
            let change = match port {
                Some(port) => {
                    // Two names share each IP, as the ranks of a pod do.
                    let address = format!("10.0.0.{}:{}", name / 2, 8000 + u16::from(name % 2) * 10 + u16::from(port));
                    let put = endpoint(&id, &address);
                    wanted.insert(name, put.clone());
                    Change::Put(put)
                }
                None => {
                    wanted.remove(&name);
                    Change::Remove(endpoint(&id, "10.0.0.1:1").id)
                }
            };
            pool.update([change]);
            other.replace(wanted.values().cloned().collect());
            proptest::prop_assert_eq!(told(&pool.snapshot()), told(&other.snapshot()));
        }
    }
}

#[test]
fn a_change_touches_no_other_endpoint() {
    let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    let before = pool.snapshot();
    let id = before.member(0).endpoint.id.clone();
    let after = pool.update([
        Change::Remove(id.clone()),
        Change::Put(endpoint("new", "10.0.0.4:80")),
    ]);
    assert_eq!(
        (before.len(), after.len(), after.version),
        (3, 3, before.version + 1)
    );
    for address in ["10.0.0.2:80", "10.0.0.3:80"] {
        let address = address.parse().unwrap();
        let [b, a] = [&before, &after].map(|s| s.member(s.by_address(&address).unwrap()));
        assert!(Arc::ptr_eq(b, a));
    }
    // Who is told what is so already makes no snapshot.
    let again = pool.update([
        Change::Remove(id),
        Change::Put(endpoint("new", "10.0.0.4:80")),
    ]);
    assert!(Arc::ptr_eq(&after, &again));
}

#[test]
fn of_two_with_one_address_the_one_that_stays_is_found() {
    let address = "10.0.0.1:80";
    for (gone, stays) in [("a", "b"), ("b", "a")] {
        // The third moves into the place of whoever goes.
        let pool = Pool::default();
        let all = [("a", address), ("b", address), ("c", "10.0.0.2:80")];
        pool.update(all.map(|(name, at)| Change::Put(endpoint(name, at))));
        let left = pool.update([Change::Remove(endpoint(gone, address).id)]);
        let found = left.by_address(&address.parse().unwrap()).unwrap();
        assert_eq!(left.member(found).endpoint.id.name, stays);
        let left = pool.update([Change::Remove(endpoint(stays, address).id)]);
        assert_eq!(left.by_address(&address.parse().unwrap()), None);
    }
}
