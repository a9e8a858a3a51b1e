//! What a full prefix index takes: `cargo bench --bench memory`.
//!
//! 100 endpoints that hold 31,250 blocks each, of conversations that go on, branch off, and are forgotten; every byte that
//! the index allocates and frees is counted. The process of a running picker is measured by `benches/hop.sh`.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use mimalloc::MiMalloc;
use pointsman::prefix::reference::{Churn, Shape};
use pointsman::prefix::{DEFAULT_BUDGET, DEFAULT_CAPACITY, PrefixCache, Who};

const ENDPOINTS: u32 = 100;
const MIB: f64 = (1 << 20) as f64;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes allocated and not freed by this thread.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no count any more.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

#[allow(
    unsafe_code,
    reason = "an allocator is the one thing that sees every allocation; this one only counts and passes on"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: passed on as it came.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: passed on as it came.
        unsafe { MiMalloc.dealloc(memory, layout) }
    }
}

fn main() {
    for stretch in [400, 40, 10] {
        let shape = Shape {
            endpoints: ENDPOINTS,
            stretch,
            remembered: 5_000,
            alphabet: 1 << 60,
            losses: 0,
        };
        let mut churn = Churn::new(1, shape);
        let cache = PrefixCache::new(DEFAULT_BUDGET);
        let (mut taken, mut sent) = (0, 0_u64);
        // Twice what fills them: then what goes is as much as what comes.
        while sent < 2 * u64::from(ENDPOINTS * DEFAULT_CAPACITY) {
            let (chain, number) = (churn.chain(), churn.endpoint());
            let before = LIVE.get();
            let who = Who { number, life: 1 };
            cache.sent(who, &chain, DEFAULT_CAPACITY);
            taken += LIVE.get() - before;
            // About half of a chain is new to the endpoint that it is sent to.
            sent += chain.len() as u64 / 2;
        }
        let size = cache.size();
        println!(
            "turns of {} blocks on average: {:.1} MiB allocated, {size:?}",
            stretch / 2,
            taken as f64 / MIB
        );
    }
}
