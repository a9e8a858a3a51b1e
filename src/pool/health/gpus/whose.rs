//! Whose a GPU is, and what is told of it: MIG instances and their boards, and GPUs that are shared in time.

use gpu_probes::telemetry::{Event, EventKind, Gpu};
use gpu_probes::xid::{Scope, xid};

use super::super::super::gpu::{EndpointGpus, Sight};

/// What of the endpoint's `event` happened to, which was told of `sight`: of a MIG board others' events are told as well, and
/// what names an instance is told of the board too. `None`: it is others'.
pub(super) fn concerned<'a>(
    event: &Event,
    sight: &'a Sight,
    gpus: &'a EndpointGpus,
) -> Option<&'a Gpu> {
    let gpu = &sight.gpu;
    let (true, Some(instance)) = (is_mig(gpu), event.gpu_instance) else {
        return Some(gpu);
    };
    let board = if gpu.parent.is_empty() {
        &gpu.uuid
    } else {
        &gpu.parent
    };
    let mut own = gpus.own().filter(|own| own.gpu.parent == *board);
    let is_named = |own: &&Sight| {
        let compute = match (event.compute_instance, own.gpu.compute_instance) {
            (Some(named), Some(own)) => named == own,
            _ => true,
        };
        own.gpu.gpu_instance == Some(instance) && compute
    };
    let takes_the_board = match event.kind() {
        EventKind::Xid => xid(event.value, gpu.architecture()).scope == Scope::Board,
        EventKind::GpuLost | EventKind::RecoveryAction => true,
        _ => false,
    };
    let named = own.find(is_named).map(|own| &own.gpu);
    named.or_else(|| takes_the_board.then_some(gpu))
}

/// Whether it is a MIG instance and its board is there too: errors and clocks are told of the board, of an instance never.
pub(super) fn is_told_of_its_board(sight: &Sight, gpus: &EndpointGpus) -> bool {
    let parent = &sight.gpu.parent;
    !parent.is_empty() && gpus.gpus.iter().any(|board| board.gpu.uuid == *parent)
}

/// Whether several pods have it: what happens on it may be another's. Containers of one pod, and several slices of one GPU
/// that one pod has, are not several.
pub(in crate::pool::health) fn is_shared(gpu: &Gpu) -> bool {
    let mut pods = gpu.owners.iter().map(|o| (&o.namespace, &o.pod));
    let first = pods.next();
    pods.any(|pod| Some(pod) != first)
}

/// Whether it is a board with MIG instances, or one of them.
fn is_mig(gpu: &Gpu) -> bool {
    gpu.mig_enabled || !gpu.parent.is_empty()
}
