//! Our prefix index, `kv-index`'s ChainIndex and Dynamo's compressed radix tree in one binary, on one machine, under the same
//! traffic: that of `benches/prefix.rs`.
//!
//! Our room is taken in by path: it needs four crates, all of Pointsman needs hundreds.

use std::hint::black_box;
use std::time::Instant;

use dynamo_kv_router::indexer::concurrent_radix_tree_compressed::ConcurrentRadixTreeCompressed;
use dynamo_kv_router::indexer::{SyncIndexer, ThreadPoolIndexer};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, RouterEvent,
};
use kv_index::{ChainBlockMap, ChainIndex, ContentHash, SequenceHash, StoredBlock};

#[allow(dead_code, unused_imports)]
#[path = "../../../src/prefix/mod.rs"]
mod prefix;
#[path = "../../prefix_traffic.rs"]
mod prefix_traffic;

use prefix::PrefixIndex;
use prefix_traffic::{Amount, LONG_PROMPTS, MANY_CHATS, Traffic, continued};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lookups in a round, and rounds: the median of each is reported for the best round.
const LOOKUPS: usize = 20_000;
const ROUNDS: usize = 9;

/// One way to look chains up: scores into a dense buffer.
struct Peer {
    name: &'static str,
    lookup: Box<dyn Fn(&[u64], &mut [u32])>,
    grown_mib: f64,
}

fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|it| it.parse().ok());
    pages.unwrap_or(0.0) * 4096.0 / f64::from(1 << 20)
}

/// Fills an index; says what that cost.
fn fill<T>(name: &str, traffic: &Traffic, index: T, mut store: impl FnMut(&T, u32, &[u64])) -> T {
    let start = Instant::now();
    let mut blocks = 0;
    for (chain, holders) in traffic.chains.iter().zip(&traffic.holders) {
        for endpoint in holders {
            store(&index, *endpoint, chain);
            blocks += chain.len();
        }
    }
    let spent = start.elapsed().as_nanos() as f64;
    println!(
        "  {name}: fill {:.1} ns a block of {blocks}",
        spent / blocks as f64
    );
    index
}

fn ours(traffic: &Traffic) -> Peer {
    let before = resident_mib();
    let index = PrefixIndex::new(usize::MAX);
    let index = fill("ours", traffic, index, |index, endpoint, chain| {
        index.insert(endpoint, chain, u32::MAX);
    });
    println!("  ours: {:?}", index.size());
    Peer {
        name: "ours",
        grown_mib: resident_mib() - before,
        lookup: Box::new(move |chain, out| index.match_into(chain, out)),
    }
}

fn chain_index(traffic: &Traffic, endpoints: u32) -> Peer {
    let before = resident_mib();
    let index = ChainIndex::with_max_workers(endpoints as usize);
    let mut maps: Vec<_> = (0..endpoints).map(|_| ChainBlockMap::new()).collect();
    for endpoint in 0..endpoints {
        let number = index.intern_worker(&format!("w{endpoint}")).ok();
        assert_eq!(number, Some(endpoint));
    }
    let index = fill("kv-index", traffic, index, |index, endpoint, chain| {
        let block = |hash: &u64| StoredBlock {
            seq_hash: SequenceHash(*hash),
            content_hash: ContentHash(*hash),
        };
        let blocks: Vec<_> = chain.iter().map(block).collect();
        let stored = index.apply_stored(endpoint, &blocks, None, &mut maps[endpoint as usize]);
        stored.expect("a chain from the root can be stored");
    });
    Peer {
        name: "kv-index",
        grown_mib: resident_mib() - before,
        lookup: Box::new(move |chain, out| {
            let _kept = &maps;
            out.fill(0);
            index.score_into(
                chain,
                |hash| *hash,
                false,
                |endpoint, blocks| {
                    out[endpoint as usize] = blocks;
                },
            );
        }),
    }
}

fn dynamo(traffic: &Traffic) -> Peer {
    let before = resident_mib();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let guard = runtime.enter();
    let index = ThreadPoolIndexer::new(ConcurrentRadixTreeCompressed::new(), 1, 16);
    let index = fill("dynamo", traffic, index, |index, endpoint, chain| {
        let block = |hash: &u64| KvCacheStoredBlockData {
            block_hash: ExternalSequenceBlockHash(*hash),
            tokens_hash: LocalBlockHash(*hash),
            mm_extra_info: None,
        };
        let data = KvCacheEventData::Stored(KvCacheStoreData {
            parent_hash: None,
            start_position: None,
            blocks: chain.iter().map(block).collect(),
        });
        let event = KvCacheEvent {
            event_id: 0,
            data,
            dp_rank: 0,
        };
        let event = RouterEvent::new(u64::from(endpoint), event);
        let applied = runtime.block_on(index.apply_event_and_wait(event));
        applied.expect("a chain from the root can be stored");
    });
    drop(guard);
    Peer {
        name: "dynamo compressed radix",
        grown_mib: resident_mib() - before,
        lookup: Box::new(move |chain, out| {
            let _running = &runtime;
            out.fill(0);
            // The hashes have the same shape; making the list costs a copy that its own callers do not have.
            let hashes: Vec<_> = chain.iter().map(|hash| LocalBlockHash(*hash)).collect();
            for (worker, blocks) in index.backend().find_matches(&hashes, false).scores {
                out[worker.worker_id as usize] = blocks;
            }
        }),
    }
}

fn quantile(sorted: &[u64], share: f64) -> u64 {
    sorted[(sorted.len() as f64 * share) as usize]
}

/// Looks up `chains` in each peer, turn about; prints for each the best round's median and its p99.
fn race(what: &str, peers: &[Peer], endpoints: u32, chains: &[&[u64]], lookups: usize) {
    let mut out = vec![0; endpoints as usize];
    let mut expected = vec![0; endpoints as usize];
    for chain in chains {
        (peers[0].lookup)(chain, &mut expected);
        for peer in &peers[1..] {
            (peer.lookup)(chain, &mut out);
            assert_eq!(out, expected, "{} answers otherwise", peer.name);
        }
    }
    for peer in peers {
        let mut best = (u64::MAX, 0);
        for _ in 0..ROUNDS {
            let mut took: Vec<_> = (0..lookups)
                .map(|at| {
                    let chain = chains[at * 7919 % chains.len()];
                    let start = Instant::now();
                    (peer.lookup)(black_box(chain), black_box(&mut out));
                    start.elapsed().as_nanos() as u64
                })
                .collect();
            took.sort_unstable();
            best = best.min((quantile(&took, 0.5), quantile(&took, 0.99)));
        }
        println!(
            "{what}: {}: p50 {} ns, p99 {} ns",
            peer.name, best.0, best.1
        );
    }
}

fn peers(amount: &Amount, traffic: &Traffic) -> Vec<Peer> {
    let peers = vec![
        ours(traffic),
        chain_index(traffic, amount.endpoints),
        dynamo(traffic),
    ];
    for peer in &peers {
        println!("  {}: resident +{:.0} MiB", peer.name, peer.grown_mib);
    }
    peers
}

fn main() {
    let nothing = (0..LOOKUPS).map(|_| Instant::now().elapsed().as_nanos() as u64);
    println!("the clock itself: {} ns", nothing.min().unwrap_or_default());
    let traffic = Traffic::new(&MANY_CHATS);
    println!("2,300 chats of 512 blocks on 2 of 64 endpoints");
    let all = peers(&MANY_CHATS, &traffic);
    for blocks in [256, 512] {
        let chains: Vec<_> = traffic.chains.iter().map(|it| &it[..blocks]).collect();
        race(&format!("{blocks} blocks"), &all, 64, &chains, LOOKUPS);
    }
    let left = |(at, chain): (usize, &Vec<u64>)| {
        continued(chain[..128].to_vec(), 1 << 40 | at as u64, 128)
    };
    let left: Vec<_> = traffic.chains.iter().enumerate().map(left).collect();
    let left: Vec<_> = left.iter().map(Vec::as_slice).collect();
    race("128 shared, 128 unknown", &all, 64, &left, LOOKUPS);
    race(
        "256 unknown",
        &all,
        64,
        &[&continued(Vec::new(), 1 << 50, 256)],
        LOOKUPS,
    );
    drop(all);
    let traffic = Traffic::new(&LONG_PROMPTS);
    println!("20 prompts of 6,250 blocks on 500 of 1,000 endpoints");
    let all = peers(&LONG_PROMPTS, &traffic);
    let chains: Vec<_> = traffic.chains.iter().map(Vec::as_slice).collect();
    race("6,250 blocks", &all, 1000, &chains, LOOKUPS / 20);
}
