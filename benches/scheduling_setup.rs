//! What the scheduling bench and the test of its allocations run on: a pool under load, and a scheduler as a configuration
//! builds it. Also the allocator that counts.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::Arc;

use mimalloc::MiMalloc;
use pointsman::config::{LoadOptions, load};
use pointsman::pool::slab::{LoraState, Scrape, lora_key};
use pointsman::pool::{Endpoint, EndpointId, LoadView, Pool, Snapshot};
use pointsman::scheduling::{
    Context, Decision, PrefixView, RequestHeaders, RequestView, Scheduler, Scratch, registry,
};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

/// The five scorers of the claim in `benches/README.md`.
const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: lora-affinity-scorer
- type: no-hit-lru-scorer
- type: max-score-picker
";

/// When all scrapes were made, and when decisions are, in milliseconds.
const SCRAPED: u64 = 1_000;
const NOW: u64 = 1_020;
const STALE: u64 = 2_000;
/// Tokens of the prompt.
const PROMPT: u32 = 8_192;

/// Counts the allocations of each thread.
#[derive(Debug)]
pub(crate) struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// How much of the prompt is cached somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// Nothing: `no-hit-lru-scorer` ranks.
    Cold,
    /// Some of it, at every third endpoint.
    Warm,
}

/// A pool, a scheduler, and what a worker keeps from one decision to the next.
pub(crate) struct Setup {
    snapshot: Arc<Snapshot>,
    scheduler: Scheduler,
    load: LoadView,
    candidates: Vec<u32>,
    matched: Vec<u32>,
    scratch: Scratch,
    rng: SmallRng,
    /// With a decision record.
    pub(crate) traced: bool,
}

struct NoHeaders;

impl RequestHeaders for NoHeaders {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

// === impl Counting ===

#[allow(
    unsafe_code,
    reason = "an allocator is the one thing that sees every allocation; this one only counts and passes on"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no count any more.
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: passed on as it came; growing comes by here too, by the trait's own `realloc`.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { MiMalloc.dealloc(memory, layout) }
    }
}

/// Allocations of this thread while `run` ran.
pub(crate) fn allocations(run: impl FnOnce()) -> usize {
    let before = COUNT.get();
    run();
    COUNT.get() - before
}

// === impl Setup ===

impl Setup {
    /// So many endpoints, no two alike; `prompt` says what they have cached.
    pub(crate) fn new(endpoints: u32, prompt: Prompt) -> Self {
        let snapshot = Pool::default().replace((0..endpoints).map(endpoint).collect());
        for (n, member) in (0u32..).zip(snapshot.members()) {
            member.slot.record(&page(n), 0, SCRAPED);
        }
        let matched = |n: u32| match prompt {
            Prompt::Warm if n.is_multiple_of(3) => n * 64 % PROMPT,
            Prompt::Warm | Prompt::Cold => 0,
        };
        let config = load(CONFIG, LoadOptions::default()).expect("the configuration is right");
        let mut setup = Self {
            scheduler: registry::build(&config).expect("the configuration can be built"),
            load: LoadView::default(),
            candidates: (0..endpoints).collect(),
            matched: (0..endpoints).map(matched).collect(),
            scratch: Scratch::default(),
            rng: SmallRng::seed_from_u64(1),
            snapshot,
            traced: false,
        };
        setup.gather();
        setup
    }

    /// Reads the cells.
    pub(crate) fn gather(&mut self) {
        self.load.gather(&self.snapshot, NOW, STALE);
    }

    /// Decides, and tells the plugins that follow the choice.
    pub(crate) fn decide(&mut self) -> Decision {
        let request = RequestView {
            model: "base",
            adapter: "adapter-3",
            prompt_bytes: PROMPT as usize * 4,
            has_body: true,
            multimodal: false,
            headers: &NoHeaders,
        };
        let cx = Context {
            request: &request,
            snapshot: &self.snapshot,
            load: &self.load,
            prefix: PrefixView {
                matched_tokens: &self.matched,
                total_tokens: PROMPT,
            },
            failed: &[],
            earlier: None,
            now_ms: NOW,
        };
        if self.traced {
            self.scratch.trace.begin(&cx, "request", &self.candidates);
        }
        let (scratch, rng) = (&mut self.scratch, &mut self.rng);
        let decided = self
            .scheduler
            .schedule(&cx, &self.candidates, scratch, rng, false);
        let decision = decided.expect("there are endpoints");
        for (follower, endpoint) in self.scheduler.followers(&decision.ran) {
            follower.picked(&cx, endpoint);
        }
        decision
    }
}

fn endpoint(n: u32) -> Endpoint {
    Endpoint {
        id: EndpointId {
            namespace: "default".into(),
            name: format!("vllm-{n}"),
        },
        address: std::net::Ipv4Addr::from(0x0a00_0001 + n).into(),
        port: 8000,
        hardware: Default::default(),
        labels: Default::default(),
    }
}

/// Queues, caches and adapters as a pool under load has them.
fn page(n: u32) -> Scrape {
    let keys = |names: &[u32]| -> Box<[u64]> {
        let key = |n: &u32| lora_key(&format!("adapter-{}", n % 16));
        names.iter().map(key).collect()
    };
    Scrape {
        waiting: Some((n * 7 % 13) as f32),
        running: Some((n * 5 % 31) as f32),
        kv_usage: Some((n * 37 % 100) as f32 / 100.0),
        kv_blocks: Some(31_250),
        block_size: Some(64),
        lora: Some(LoraState {
            max: 4,
            running: keys(&[n, n + 1, n + 2]),
            waiting: keys(&[n + 5]),
            ..Default::default()
        }),
        ..Default::default()
    }
}
