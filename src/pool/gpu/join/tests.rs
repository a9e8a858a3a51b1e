use super::super::super::Pool;
use super::super::testing::{endpoint, gpu, instance};
use super::*;

/// Of each endpoint: its GPUs with the positions of its neighbours on each, its domain, its share and its node.
type Got = (Vec<(String, Vec<u32>)>, [u32; 3]);

/// `near`: positions of the endpoints whose page it is.
fn joined(pool: &Pool, gpus: &[(Gpu, &str, &[u32])]) -> Vec<Got> {
    let snapshot = pool.snapshot();
    let uuids: Vec<Arc<str>> = gpus
        .iter()
        .map(|(gpu, ..)| gpu.uuid.as_str().into())
        .collect();
    let found: Vec<Found<'_>> = gpus
        .iter()
        .zip(&uuids)
        .map(|((gpu, node, near), uuid)| Found {
            uuid,
            gpu,
            node,
            only_at: None,
            near: near
                .iter()
                .map(|&at| &snapshot.member(at).endpoint.id)
                .collect(),
        })
        .collect();
    let places = join(&snapshot, &found);
    let at = |number: &u32| snapshot.numbers().iter().position(|n| n == number).unwrap() as u32;
    let places = places.into_iter().map(|place| {
        let gpus = place.gpus.iter();
        let gpus = gpus.map(|(uuid, n)| (uuid.to_string(), n.iter().map(at).collect()));
        (gpus.collect(), [place.domain, place.share, place.node])
    });
    places.collect()
}

fn on(gpus: &[(&str, &[u32])], numbers: [u32; 3]) -> Got {
    let gpus = gpus
        .iter()
        .map(|(uuid, n)| ((*uuid).to_owned(), n.to_vec()));
    (gpus.collect(), numbers)
}

#[test]
fn gpus_are_their_pods_endpoints_and_all_of_a_tensor_parallel_pod() {
    let pool = Pool::default();
    pool.replace(vec![
        endpoint("a", None, &[]),
        endpoint("b-rank-0", None, &[]),
        endpoint("b-rank-1", None, &[]),
        endpoint("c-rank-x", None, &[]),
    ]);
    let got = joined(
        &pool,
        &[
            (gpu("GPU-1", &["a"], 1), "n1", &[]),
            (gpu("GPU-2", &["a"], 1), "n1", &[]),
            (gpu("GPU-3", &["b"], 1), "n2", &[]),
            // Nobody's here, for all that is known.
            (gpu("GPU-4", &["c"], 1), "n2", &[]),
            (gpu("GPU-5", &[], 1), "n2", &[]),
        ],
    );
    let expected = [
        on(&[("GPU-1", &[]), ("GPU-2", &[])], [1, 1, 1]),
        on(&[("GPU-3", &[2])], [2, 2, 2]),
        on(&[("GPU-3", &[1])], [2, 3, 2]),
        on(&[], [0; 3]),
    ];
    assert_eq!(got, expected);
    // A pod of the same name elsewhere.
    let mut other = gpu("GPU-1", &["a"], 1);
    other.owners[0].namespace = "other".to_owned();
    assert_eq!(joined(&pool, &[(other, "n1", &[])])[0], on(&[], [0; 3]));
}

#[test]
fn endpoints_may_name_their_gpus_or_their_node() {
    let pool = Pool::default();
    pool.replace(vec![
        endpoint("named", Some("n1"), &["GPU-1"]),
        endpoint("all", Some("n2"), &[]),
        endpoint("unknown", Some("n3"), &["GPU-9"]),
    ]);
    let got = joined(
        &pool,
        &[
            (gpu("GPU-1", &[], 1), "n1", &[]),
            (gpu("GPU-2", &[], 1), "n1", &[]),
            (gpu("GPU-3", &[], 1), "n2", &[]),
            (gpu("GPU-4", &[], 1), "n2", &[]),
        ],
    );
    let expected = [
        on(&[("GPU-1", &[])], [1, 1, 1]),
        on(&[("GPU-3", &[]), ("GPU-4", &[])], [2, 2, 2]),
        // Where it is is known all the same.
        on(&[], [0, 0, 3]),
    ];
    assert_eq!(got, expected);
}

#[test]
fn who_is_only_known_to_be_on_a_node_has_no_gpus_of_others_there() {
    // Pods of one node, as Kubernetes tells of them.
    let pod = |name| {
        let mut pod = endpoint(name, Some("n1"), &[]);
        pod.hardware.whole_node = false;
        pod
    };
    let pool = Pool::default();
    pool.replace(["a", "b", "c"].map(pod).into());
    let gpus = [("GPU-1", &["a"][..]), ("GPU-2", &["b"]), ("GPU-3", &[])];
    let gpus = gpus.map(|(uuid, pods)| (gpu(uuid, pods, 1), "n1", &[][..]));
    let expected = [
        on(&[("GPU-1", &[])], [1, 1, 1]),
        on(&[("GPU-2", &[])], [2, 2, 1]),
        on(&[], [0, 0, 1]),
    ];
    assert_eq!(joined(&pool, &gpus), expected);
}

#[test]
fn who_shares_a_board_are_neighbours_and_one_domain() {
    let pool = Pool::default();
    pool.replace(
        ["a", "b", "c", "d"]
            .map(|name| endpoint(name, None, &[]))
            .into(),
    );
    let got = joined(
        &pool,
        &[
            // Time slices.
            (gpu("GPU-1", &["a", "b"], 1), "n1", &[]),
            // MIG: both instances see the board.
            (gpu("GPU-2", &[], 1), "n1", &[]),
            (instance("MIG-1", "GPU-2", &["b"]), "n1", &[]),
            (instance("MIG-2", "GPU-2", &["c"]), "n1", &[]),
            // Its board is not told.
            (instance("MIG-3", "GPU-3", &["d"]), "n1", &[]),
        ],
    );
    let expected = [
        on(&[("GPU-1", &[1])], [1, 1, 1]),
        on(
            &[("GPU-1", &[0]), ("GPU-2", &[2]), ("MIG-1", &[2])],
            [1, 1, 1],
        ),
        on(&[("GPU-2", &[1]), ("MIG-2", &[1])], [1, 2, 1]),
        on(&[("MIG-3", &[])], [2, 3, 1]),
    ];
    assert_eq!(got, expected);
}

#[test]
fn what_an_exporter_beside_the_engine_tells_without_an_owner_is_the_engines() {
    let pool = Pool::default();
    pool.replace(["a", "b"].map(|name| endpoint(name, None, &[])).into());
    let got = joined(
        &pool,
        &[
            (gpu("GPU-1", &[], 1), "", &[0]),
            (gpu("GPU-2", &["b"], 1), "", &[0]),
        ],
    );
    let expected = [
        on(&[("GPU-1", &[])], [1, 1, 0]),
        on(&[("GPU-2", &[])], [2, 2, 0]),
    ];
    assert_eq!(got, expected);
}
