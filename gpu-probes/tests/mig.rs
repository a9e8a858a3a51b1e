//! MIG instances and their boards.

use fake_state::{Gpm, Mig, Process};
use gpu_probes::probe::{Class, GpuProbe};

use crate::support::{Node, gpu, missing, read, state};

fn instance(uuid: &str, gpu_instance: u32, profile: &str) -> Mig {
    Mig {
        uuid: uuid.into(),
        gpu_instance,
        compute_instance: 0,
        profile: profile.into(),
        memory_total: 10 << 30,
        memory_used: 4 << 30,
        processes: vec![Process {
            pid: 100 + gpu_instance,
            memory: 1 << 30,
        }],
        gpm: Some(Gpm {
            sm: 0.1,
            tensor: 0.2,
            dram_bandwidth: 0.3,
        }),
    }
}

/// A board with two instances and an empty slot between them, and one without MIG.
fn node() -> Node {
    let divided = fake_state::Gpu {
        mig: vec![
            instance("MIG-1", 9, "1g.10gb"),
            Mig::default(),
            instance("MIG-2", 2, "1c.3g.40gb"),
        ],
        ..gpu("GPU-a")
    };
    Node::new(state(vec![divided, gpu("GPU-b")]))
}

#[test]
fn instances_follow_their_board() {
    let node = node();
    let found = node.probe().discover().unwrap();
    let who: Vec<_> = found
        .iter()
        .map(|g| (g.uuid.as_str(), g.parent.as_str(), g.index, g.mig_enabled))
        .collect();
    assert_eq!(
        who,
        [
            ("GPU-a", "", 0, true),
            ("MIG-1", "GPU-a", 0, false),
            ("MIG-2", "GPU-a", 0, false),
            ("GPU-b", "", 1, false)
        ]
    );
    assert_eq!(
        (found[1].gpu_instance, found[1].compute_instance),
        (Some(9), Some(0))
    );
    assert_eq!(
        (found[1].mig_profile.as_str(), found[2].mig_profile.as_str()),
        ("1g.10gb", "1c.3g.40gb")
    );
    assert_eq!(
        (
            found[2].driver_version.as_str(),
            found[2].pci_bus_id.as_str()
        ),
        ("570.124.06", "00000000:01:00.0")
    );
    assert_eq!(found[2].architecture(), found[0].architecture());
}

#[test]
fn a_profile_is_made_of_slices_where_the_name_does_not_say() {
    let mut node = node();
    node.change(|state| {
        state.unsupported = vec!["nvmlDeviceGetName".into()];
        state.gpus[0].mig[2].memory_total = 40 << 30;
    });
    let found = node.probe().discover().unwrap();
    assert_eq!(
        (found[1].mig_profile.as_str(), found[2].mig_profile.as_str()),
        ("1g.10gb", "1c.3g.40gb")
    );
}

#[test]
fn an_instance_tells_its_own_and_the_board_the_rest() {
    let node = node();
    let mut probe = node.probe();
    let mut gpus = read(&mut probe);
    for gpu in &mut gpus {
        probe.sample(gpu, &[Class::Profile]).unwrap();
    }
    let [board, one, _, other] = &gpus[..] else {
        panic!("{gpus:?}")
    };
    assert_eq!(one.memory.unwrap().total, 10 << 30);
    assert_eq!(one.profile.unwrap().dram_active, Some(0.3));
    let processes: Vec<_> = one
        .processes
        .iter()
        .map(|p| (p.pid, p.gpu_instance))
        .collect();
    assert_eq!(processes, [(109, Some(9))]);
    assert_eq!(
        (one.clocks, one.power, one.temperature, one.errors),
        (None, None, None, None)
    );
    assert_eq!(
        missing(one),
        [
            ("clocks", "told of the board"),
            ("errors", "told of the board"),
            ("power", "told of the board"),
            ("temperature", "told of the board"),
            ("utilization", "not supported"),
        ]
    );

    let processes: Vec<_> = board
        .processes
        .iter()
        .map(|p| (p.pid, p.gpu_instance))
        .collect();
    assert_eq!(processes, [(102, Some(2)), (109, Some(9))]);
    assert!(board.clocks.is_some() && board.temperature.is_some());
    let errors = board.errors.unwrap();
    assert_eq!(
        (errors.ecc_uncorrected, errors.remap_pending),
        (Some(0), None)
    );
    assert_eq!(
        missing(board),
        [
            ("errors.remapped_rows", "not supported"),
            ("profile", "told of the MIG instances"),
            ("utilization", "not supported"),
        ]
    );
    assert_eq!(missing(other), []);
}

#[test]
fn instances_come_and_go() {
    let mut node = node();
    let mut probe = node.probe();
    let mut gone = read(&mut probe).remove(1);
    node.change(|state| state.gpus[0].mig = vec![instance("MIG-3", 1, "7g.80gb")]);
    let found = probe.discover().unwrap();
    let who: Vec<_> = found.iter().map(|gpu| gpu.uuid.as_str()).collect();
    assert_eq!(who, ["GPU-a", "MIG-3", "GPU-b"]);
    let error = probe.sample(&mut gone, &[Class::Memory]).unwrap_err();
    assert!(error.to_string().contains("MIG-1"), "{error}");
    node.change(|state| state.gpus[0].mig.clear());
    assert_eq!(probe.discover().unwrap().len(), 2);
    assert!(!probe.discover().unwrap()[0].mig_enabled);
}

#[test]
fn instances_of_a_lost_board_are_lost() {
    let mut node = node();
    let mut probe = node.probe();
    let mut gpus = read(&mut probe);
    node.change(|state| state.gpus[0].lost = true);
    for gpu in &mut gpus {
        probe.sample(gpu, &[Class::Memory]).unwrap();
    }
    let lost: Vec<_> = gpus
        .iter()
        .map(|gpu| (gpu.lost, gpu.memory.is_some()))
        .collect();
    assert_eq!(
        lost,
        [(true, false), (true, false), (true, false), (false, true)]
    );
    // The board does not tell what is on it; who knows them may ask all the same.
    let found = probe.discover().unwrap();
    let who: Vec<_> = found.iter().map(|g| (g.uuid.as_str(), g.lost)).collect();
    assert_eq!(who, [("GPU-a", true), ("GPU-b", false)]);
    probe.sample(&mut gpus[1], &[Class::Memory]).unwrap();
    assert!(gpus[1].lost);
    node.change(|state| state.gpus[0].lost = false);
    assert_eq!(probe.discover().unwrap().len(), 4);
    probe.sample(&mut gpus[1], &[Class::Memory]).unwrap();
    assert!(!gpus[1].lost && gpus[1].memory.is_some());
}
