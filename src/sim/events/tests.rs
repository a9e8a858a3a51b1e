//! Over real sockets: what a subscriber sees of a cache.

use std::collections::{BTreeMap, HashMap};

use rmpv::Value;
use zeromq::{DealerSocket, SubSocket};

use super::*;
use crate::sim::engine::{Crowd, Engine, Prompt, SleepLevel};
use crate::sim::step::EngineSpec;
use crate::sim::text::ANSWER;
use crate::sim::{EngineConfig, EngineKind, Pace};

const BLOCK: usize = 16;

struct Rig {
    engine: Engine,
    publisher: Publisher,
    subscriber: SubSocket,
}

impl Rig {
    /// Of so many blocks.
    async fn new(kv_blocks: u64, change: impl FnOnce(&mut KvEvents)) -> Self {
        let config = EngineConfig {
            kind: EngineKind::Vllm,
            pace: Pace::Steps(EngineSpec::new("H100", "llama3-8b", 1)),
            speed: 10.0,
            max_num_seqs: 8,
            kv_blocks,
            block_size: BLOCK as u64,
            max_model_len: 131_072,
            max_loras: 1,
            lora_load: Duration::ZERO,
            tokens: 5,
        };
        let engine = Engine::new(config, Arc::<Crowd>::default()).unwrap();
        let mut config = KvEvents {
            zmq_endpoint: "tcp://*:0".to_owned(),
            replay_endpoint: Some("tcp://*:0".to_owned()),
            replay_queue_size: 1000,
            event_batch_size: 1,
            map_format: false,
        };
        change(&mut config);
        let outbox = Arc::new(Outbox::default());
        engine.tell(Arc::clone(&outbox));
        let topic = "kv@127.0.0.1:8000@m".to_owned();
        let publisher = Publisher::start(&config, 0, topic, BLOCK as u64, outbox);
        let publisher = publisher.await.unwrap();
        let mut subscriber = SubSocket::new();
        subscriber
            .connect(&local(&publisher.endpoints()[0]))
            .await
            .unwrap();
        subscriber.subscribe("kv@").await.unwrap();
        let mut rig = Self {
            engine,
            publisher,
            subscriber,
        };
        rig.subscribed().await;
        rig
    }

    /// A subscription is there when something comes through it.
    async fn subscribed(&mut self) {
        loop {
            self.engine.sleep(SleepLevel::Offloaded);
            self.engine.wake_up();
            let came = tokio::time::timeout(Duration::from_millis(50), self.subscriber.recv());
            if came.await.is_ok() {
                return;
            }
        }
    }

    async fn ask(&self, tokens: Vec<u32>, limit: u64, adapter: Option<&str>, salt: Option<&str>) {
        let prompt = Prompt::new(tokens, salt.map(str::to_owned));
        let mut generation = self.engine.start(prompt, Some(limit), adapter).unwrap();
        while !generation.is_done() {
            generation.more().await.unwrap();
        }
    }

    /// The next batch: its number and its events. Those of [`subscribed`](Self::subscribed) are passed over.
    async fn next(&mut self) -> (u64, Vec<Value>) {
        loop {
            let frames = self.subscriber.recv().await.unwrap().into_vec();
            let [topic, number, payload] = &frames[..] else {
                panic!("{frames:?}")
            };
            assert_eq!(topic, "kv@127.0.0.1:8000@m");
            let number = u64::from_be_bytes(number[..].try_into().unwrap());
            let events = events(payload);
            if events != [Value::Array(vec!["AllBlocksCleared".into()])] {
                return (number, events);
            }
        }
    }
}

fn local(endpoint: &str) -> String {
    endpoint.replace("0.0.0.0", "127.0.0.1")
}

fn decode(mut payload: &[u8]) -> Value {
    let value = rmpv::decode::read_value(&mut payload).unwrap();
    assert!(payload.is_empty());
    value
}

/// Of a batch in arrays.
fn events(payload: &[u8]) -> Vec<Value> {
    let batch = decode(payload);
    let [at, events, rank] = &batch.as_array().unwrap()[..] else {
        panic!("{batch}")
    };
    assert!(at.as_f64().unwrap() > 1.7e9 && rank == &Value::from(0));
    events.as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<u64> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|number| number.as_u64().unwrap()).collect()
}

/// What a subscriber knows of a cache: each block's parent and tokens.
#[derive(Debug, Default)]
struct Mirror(HashMap<u64, (Option<u64>, Vec<u64>)>);

impl Mirror {
    fn apply(&mut self, event: &Value) {
        let event = event.as_array().unwrap();
        match event[0].as_str().unwrap() {
            "BlockStored" => {
                let hashes = numbers(&event[1]);
                let tokens = numbers(&event[3]);
                assert_eq!((event.len(), event[4].as_u64()), (9, Some(BLOCK as u64)));
                assert_eq!(event[6].as_str(), Some("GPU"));
                assert_eq!(tokens.len(), hashes.len() * BLOCK);
                let mut parent = event[2].as_u64();
                assert!(
                    parent.is_none_or(|parent| self.0.contains_key(&parent)),
                    "an orphan"
                );
                for (hash, tokens) in hashes.into_iter().zip(tokens.chunks(BLOCK)) {
                    let old = self.0.insert(hash, (parent, tokens.to_vec()));
                    assert!(old.is_none(), "stored twice");
                    parent = Some(hash);
                }
            }
            "BlockRemoved" => {
                assert_eq!(event[2].as_str(), Some("GPU"));
                for hash in numbers(&event[1]) {
                    assert!(self.0.remove(&hash).is_some(), "was never stored");
                    assert!(
                        self.0.values().all(|(parent, _)| *parent != Some(hash)),
                        "it had children"
                    );
                }
            }
            other => panic!("{other}"),
        }
    }

    /// The tokens up to a block, from the root.
    fn text(&self, hash: u64) -> Vec<u64> {
        let (parent, tokens) = &self.0[&hash];
        let mut text = parent.map(|parent| self.text(parent)).unwrap_or_default();
        text.extend(tokens);
        text
    }
}

#[tokio::test]
async fn a_subscriber_can_follow_the_cache() {
    let mut rig = Rig::new(100, |_| {}).await;
    let mut mirror = Mirror::default();
    let mut last = None;
    // The second goes on with the first one's answer, the third shares half of it; the others fill the cache.
    let first: Vec<u32> = (0..40).collect();
    let mut second = first.clone();
    second.extend([ANSWER; 40]);
    second.extend(1000..1020);
    let mut third = first[..32].to_vec();
    third.extend(2000..2040);
    let mut prompts = vec![(first, 40), (second, 1), (third, 1)];
    prompts.extend((0..8).map(|n| ((10_000 * (n + 1)..10_000 * (n + 1) + 320).collect(), 1)));
    let mut removed = 0;
    for (prompt, limit) in prompts {
        let blocks: u64 = (prompt.len() as u64 + limit - 1) / BLOCK as u64;
        rig.ask(prompt.clone(), limit, None, None).await;
        let whole: Vec<u64> = prompt
            .iter()
            .map(|&token| token.into())
            .chain([ANSWER.into(); 64])
            .collect();
        let whole = &whole[..blocks as usize * BLOCK];
        while !mirror.0.keys().any(|&hash| mirror.text(hash) == whole) {
            let (number, events) = rig.next().await;
            assert!(
                last.is_none_or(|last| number == last + 1),
                "{number} after {last:?}"
            );
            last = Some(number);
            for event in &events {
                removed += usize::from(event[0] == Value::from("BlockRemoved"));
                mirror.apply(event);
            }
        }
        assert!(mirror.0.len() <= 100, "as many as there are");
    }
    assert!(removed > 0, "8 prompts of 20 blocks do not fit");
}

#[tokio::test]
async fn what_was_missed_can_be_asked_for() {
    let mut rig = Rig::new(1000, |_| {}).await;
    let mut seen = BTreeMap::new();
    for n in 0..5 {
        rig.ask((1000 * n..1000 * n + 100).collect(), 1, None, None)
            .await;
        let (number, events) = rig.next().await;
        seen.insert(number, events);
    }
    let mut dealer = DealerSocket::new();
    dealer
        .connect(&local(&rig.publisher.endpoints()[1]))
        .await
        .unwrap();
    let missed = *seen.keys().nth(2).unwrap();
    let mut answers = seen.split_off(&missed);
    // A request that is none is passed over.
    for frames in [
        vec![number(missed)],
        vec![Bytes::new(), "x".into()],
        vec![Bytes::new(), number(missed)],
    ] {
        dealer
            .send(ZmqMessage::try_from(frames).unwrap())
            .await
            .unwrap();
    }
    loop {
        let frames = dealer.recv().await.unwrap().into_vec();
        let [empty, number, payload] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert!(empty.is_empty());
        let number = u64::from_be_bytes(number[..].try_into().unwrap());
        if number == u64::MAX {
            assert!(payload.is_empty());
            break;
        }
        assert_eq!(answers.remove(&number), Some(events(payload)), "{number}");
    }
    assert!(answers.is_empty(), "{answers:?}");
}

#[tokio::test]
async fn only_the_last_batches_are_kept() {
    let mut kept = Kept {
        batches: VecDeque::new(),
        most: 2,
    };
    for n in 0..5 {
        kept.push(n, Bytes::new());
    }
    assert_eq!(
        kept.batches.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
        [3, 4]
    );
}

#[tokio::test]
async fn adapters_and_salts_are_told() {
    let mut rig = Rig::new(100, |_| {}).await;
    rig.ask((0..32).collect(), 1, Some("a"), Some("salt")).await;
    let (_, events) = rig.next().await;
    let event = events[0].as_array().unwrap();
    assert_eq!((event[2].is_nil(), event[7].as_str()), (true, Some("a")));
    assert!(event[5].is_u64());
    let keys = Value::Array(vec![
        Value::Array(vec!["a".into(), "salt".into()]),
        Value::Array(vec!["a".into()]),
    ]);
    assert_eq!(event[8], keys);
}

#[tokio::test]
async fn maps_have_the_same_by_name_and_many_events_share_a_batch() {
    let format = |maps| Format {
        maps,
        block_size: 2,
    };
    let origin = crate::sim::step::Origin {
        tokens: vec![1, 2, 3],
        answer: ANSWER,
        ..Default::default()
    };
    let changes = [
        crate::sim::step::BlockChange::Stored {
            parent: Some(u64::MAX),
            hashes: vec![7, 8],
            blocks: 0..2,
            origin: Arc::new(origin),
        },
        crate::sim::step::BlockChange::Removed { hashes: vec![8, 7] },
        crate::sim::step::BlockChange::Cleared,
    ];
    let arrays = decode(&format(false).batch(1.5, &changes));
    assert_eq!(
        arrays.to_string(),
        r#"[1.5, [["BlockStored", [7, 8], 18446744073709551615, [1, 2, 3, 4294967040], 2, nil, "GPU", nil, [nil, nil]], ["BlockRemoved", [8, 7], "GPU"], ["AllBlocksCleared"]], 0]"#
    );
    let maps = decode(&format(true).batch(1.5, &changes));
    assert_eq!(
        maps.to_string(),
        r#"{"ts": 1.5, "events": [{"type": "BlockStored", "block_hashes": [7, 8], "parent_block_hash": 18446744073709551615, "token_ids": [1, 2, 3, 4294967040], "block_size": 2, "lora_id": nil, "medium": "GPU", "lora_name": nil, "extra_keys": [nil, nil]}, {"type": "BlockRemoved", "block_hashes": [8, 7], "medium": "GPU"}, {"type": "AllBlocksCleared"}], "data_parallel_rank": 0}"#
    );
}

#[tokio::test]
async fn a_batch_that_is_not_full_goes_all_the_same() {
    let mut rig = Rig::new(100, |config| config.event_batch_size = 3).await;
    rig.ask((0..16).collect(), 1, None, None).await;
    assert_eq!(rig.next().await.1.len(), 1);
}

#[tokio::test]
async fn a_new_process_begins_anew() {
    let mut rig = Rig::new(100, |_| {}).await;
    rig.ask((0..32).collect(), 1, None, None).await;
    assert!(rig.next().await.0 > 0);
    rig.engine.restart();
    rig.ask((0..32).collect(), 1, None, None).await;
    let (number, events) = rig.next().await;
    assert_eq!((number, events.len()), (0, 1));
}

#[test]
fn endpoints_are_counted_up_and_held_against_the_last_server() {
    assert_eq!(listen_at("tcp://*:5557", 3).unwrap(), "tcp://0.0.0.0:5560");
    assert_eq!(listen_at("tcp://*:0", 3).unwrap(), "tcp://0.0.0.0:0");
    for (endpoint, words) in [
        ("tcp://127.0.0.1:5557", "servers listen"),
        ("tcp://*:65533", "leaves no port for server 3"),
        ("inproc://x", "servers listen"),
        ("tcp://*:x", "servers listen"),
    ] {
        let error = listen_at(endpoint, 3).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
