//! Event sets. A set gets every event after its creation once, if the GPU and the kind are registered in it by then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fake_state::{Event, State};
use nvml_wrapper_sys::bindings::*;

use crate::state::{board, board_handle, now, target};
use crate::{Answer, api, put};

/// How often a waiting set looks at the file.
const LOOK: Duration = Duration::from_millis(10);

/// The kinds that every GPU here can tell of.
const KINDS: u32 = nvmlEventTypeSingleBitEccError
    | nvmlEventTypeDoubleBitEccError
    | nvmlEventTypeXidCriticalError
    | nvmlEventMigConfigChange
    | nvmlEventTypeGpuUnavailableError
    | nvmlEventTypeGpuRecoveryAction;

#[derive(Default)]
struct Set {
    number: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Boards, by index, and the kinds of each.
    registered: Vec<(usize, u64)>,
    /// The last event that was told or passed over.
    seen: u64,
}

static SETS: Mutex<Vec<Arc<Set>>> = Mutex::new(Vec::new());
static NEXT: AtomicUsize = AtomicUsize::new(1);

api! {
    fn nvmlEventSetCreate(state, set: *mut nvmlEventSet_t) {
        let seen = state.events.last().map_or(0, |event| event.sequence);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        put(set, std::ptr::without_provenance_mut(number))?;
        let inner = Mutex::new(Inner { registered: Vec::new(), seen });
        SETS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(Set { number, inner }));
        Ok(())
    }

    fn nvmlEventSetFree(_state, set: nvmlEventSet_t) {
        find(set)?;
        SETS.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| kept.number != set.addr());
        Ok(())
    }

    fn nvmlDeviceGetSupportedEventTypes(state, device: nvmlDevice_t, kinds: *mut u64) {
        board(state, device)?;
        put(kinds, KINDS.into())
    }

    fn nvmlDeviceRegisterEvents(state, device: nvmlDevice_t, kinds: u64, set: nvmlEventSet_t) {
        board(state, device)?;
        if kinds & !u64::from(KINDS) != 0 {
            return Err(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
        }
        let set = find(set)?;
        let index = target(state, device)?.index;
        set.inner.lock().unwrap_or_else(PoisonError::into_inner).registered.push((index, kinds));
        Ok(())
    }

    fn nvmlEventSetWait_v2(state, set: nvmlEventSet_t, data: *mut nvmlEventData_t, milliseconds: u32) {
        let set = find(set)?;
        let end = Instant::now() + Duration::from_millis(milliseconds.into());
        let mut answer = look(state, &set);
        loop {
            match answer {
                Ok(Some(event)) => return put(data, event),
                Ok(None) => {}
                Err(code) => return Err(code),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(nvmlReturn_enum_NVML_ERROR_TIMEOUT);
            }
            sleep(left.min(LOOK));
            answer = now("nvmlEventSetWait_v2").and_then(|state| look(&state, &set));
        }
    }
}

fn find(set: nvmlEventSet_t) -> Result<Arc<Set>, nvmlReturn_t> {
    let sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = sets.iter().find(|kept| kept.number == set.addr());
    found
        .cloned()
        .ok_or(nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT)
}

/// The next event for a set; that a GPU of it is lost is told once nothing else is left to tell.
fn look(state: &State, set: &Set) -> Result<Option<nvmlEventData_t>, nvmlReturn_t> {
    let mut inner = set.inner.lock().unwrap_or_else(PoisonError::into_inner);
    let Inner { registered, seen } = &mut *inner;
    let wanted = |event: &&Event| {
        registered
            .iter()
            .any(|(gpu, kinds)| *gpu == event.gpu && kinds & event.kind != 0)
    };
    let waiting = || {
        state
            .events
            .iter()
            .filter(|event| event.sequence > *seen)
            .filter(wanted)
    };
    if let Some(event) = waiting().next() {
        // As the real one: of several XIDs that wait each is told, but with the number of the last.
        let last = waiting().rfind(|other| other.gpu == event.gpu && other.kind == event.kind);
        let data = match last {
            Some(last) if event.kind == u64::from(nvmlEventTypeXidCriticalError) => last.data,
            _ => event.data,
        };
        let (sequence, answer) = (event.sequence, c_event(event, data));
        *seen = sequence;
        return Ok(Some(answer));
    }
    lost(state, registered)?;
    Ok(None)
}

fn lost(state: &State, registered: &[(usize, u64)]) -> Answer {
    registered
        .iter()
        .try_for_each(|(index, _)| target(state, board_handle(*index)).map(|_| ()))
}

fn c_event(event: &Event, data: u64) -> nvmlEventData_t {
    nvmlEventData_t {
        device: board_handle(event.gpu),
        eventType: event.kind,
        eventData: data,
        gpuInstanceId: event.gpu_instance.unwrap_or(u32::MAX),
        computeInstanceId: event.compute_instance.unwrap_or(u32::MAX),
    }
}
