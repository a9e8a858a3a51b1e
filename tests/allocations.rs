//! A decision allocates the same, however many candidates there are. A binary of its own: it counts every allocation.

#[path = "../benches/scheduling_setup.rs"]
mod scheduling_setup;
use scheduling_setup::{Counting, Prompt, Setup, allocations};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn nothing_is_allocated_for_a_candidate() {
    for prompt in [Prompt::Cold, Prompt::Warm] {
        let counts = [10, 1_000].map(|endpoints| {
            let mut setup = Setup::new(endpoints, prompt);
            setup.traced = true;
            // What a worker keeps has grown to its size by then.
            for _ in 0..20 {
                setup.gather();
                setup.decide();
            }
            allocations(|| {
                setup.gather();
                assert_eq!(setup.decide().endpoints.len(), 1);
            })
        });
        assert_eq!(counts[0], counts[1], "{prompt:?}: {counts:?}");
        assert!(counts[0] > 0, "nothing is counted");
    }
}
