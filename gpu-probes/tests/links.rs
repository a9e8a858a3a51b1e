//! NVLink: which links are up, and their errors.

use fake_state::Link;
use gpu_probes::probe::{Class, GpuProbe};

use crate::support::{Node, gpu, missing, read, state};

#[test]
fn a_card_without_links_misses_none() {
    let node = Node::new(state(vec![fake_state::Gpu {
        links: vec![],
        ..gpu("GPU-a")
    }]));
    let told = read(&mut node.probe()).remove(0);
    assert_eq!(
        (
            told.links.len(),
            told.errors.unwrap().nvlink_errors,
            missing(&told)
        ),
        (0, None, vec![])
    );
}

#[test]
fn links_are_read_without_field_values_too() {
    let mut state = state(vec![gpu("GPU-a")]);
    state.unsupported = vec!["nvmlDeviceGetFieldValues".into()];
    let mut node = Node::new(state);
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    assert_eq!(told.links.len(), 2);
    assert_eq!(told.errors.unwrap().nvlink_errors, Some(3));
    assert_eq!(
        missing(&told),
        [
            ("errors.fields", "not supported"),
            ("temperature.memory", "not supported")
        ]
    );
    node.change(|state| {
        state.gpus[0].links[1] = Link {
            active: true,
            errors: 4,
        }
    });
    probe.sample(&mut told, &[Class::Errors]).unwrap();
    assert_eq!(
        (told.links[1].active, told.links[1].errors),
        (true, Some(4))
    );
    assert_eq!(told.errors.unwrap().nvlink_errors, Some(7));
}

#[test]
fn errors_of_links_are_summed_where_the_gpu_does_not_sum_them() {
    let mut state = state(vec![gpu("GPU-a")]);
    state.unsupported = [38, 45, 52, 59]
        .map(|field| format!("nvmlDeviceGetFieldValues/{field}"))
        .to_vec();
    let mut node = Node::new(state);
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    assert_eq!(
        (told.errors.unwrap().nvlink_errors, missing(&told)),
        (Some(3), vec![])
    );
    // Neither by fields nor by calls.
    node.change(|state| {
        state
            .unsupported
            .extend([161, 162, 163].map(|field| format!("nvmlDeviceGetFieldValues/{field}")));
        state
            .unsupported
            .push("nvmlDeviceGetNvLinkErrorCounter".into());
    });
    probe.sample(&mut told, &[Class::Errors]).unwrap();
    assert_eq!((told.links.len(), told.links[0].errors), (2, None));
    assert_eq!(told.errors.unwrap().nvlink_errors, None);
    assert_eq!(missing(&told), [("errors.nvlink_errors", "not supported")]);
}

#[test]
fn errors_of_single_links_follow_their_sum() {
    let mut node = Node::new(state(vec![gpu("GPU-a")]));
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    node.change(|state| {
        state.gpus[0].links[1] = Link {
            active: true,
            errors: 9,
        }
    });
    probe.sample(&mut told, &[Class::Errors]).unwrap();
    assert_eq!(
        (told.links[0].errors, told.links[1].errors),
        (Some(3), Some(9))
    );
    // The driver was loaded anew: counters begin at 0.
    node.change(|state| {
        state.gpus[0]
            .links
            .iter_mut()
            .for_each(|link| link.errors = 0)
    });
    probe.sample(&mut told, &[Class::Errors]).unwrap();
    assert_eq!(
        (told.links[1].errors, told.errors.unwrap().nvlink_errors),
        (Some(0), Some(0))
    );
}

#[test]
fn blackwell_counts_by_fields_of_its_own() {
    let mut node = Node::new(state(vec![fake_state::Gpu {
        architecture: 10,
        ..gpu("GPU-a")
    }]));
    let mut probe = node.probe();
    let mut told = read(&mut probe).remove(0);
    assert_eq!(
        (told.errors.unwrap().nvlink_errors, missing(&told)),
        (Some(3), vec![])
    );
    node.change(|state| state.gpus[0].links[1].errors = 5);
    probe.sample(&mut told, &[Class::Errors]).unwrap();
    let links: Vec<_> = told.links.iter().map(|link| link.errors).collect();
    assert_eq!(links, [Some(3), Some(5)]);
    assert_eq!(told.errors.unwrap().nvlink_errors, Some(8));
}
