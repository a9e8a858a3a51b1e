//! Event batches in MessagePack, as vLLM's publisher encodes them.
//!
//! A batch is `[ts, events, data_parallel_rank]`, an event `["BlockStored", block_hashes, parent_block_hash, token_ids,
//! block_size, lora_id, medium, lora_name, extra_keys]`, `["BlockRemoved", block_hashes, medium]` or `["AllBlocksCleared"]`.
//! vLLM since its PR 42892 sends maps by these names instead, the event's in `type`.

use rmp::encode;

use crate::sim::step::{BlockChange, Origin};

/// Where the blocks are.
const MEDIUM: &str = "GPU";

/// What is the same in all batches of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// Maps instead of arrays.
    pub(super) maps: bool,
    pub(super) block_size: u64,
}

/// MessagePack that is being written. Writing to a `Vec` cannot fail.
struct Packer {
    out: Vec<u8>,
    maps: bool,
}

// === impl Format ===

impl Format {
    /// A batch; `at`: seconds of Unix time.
    pub(super) fn batch(self, at: f64, changes: &[BlockChange]) -> Vec<u8> {
        let mut packer = Packer {
            out: Vec::new(),
            maps: self.maps,
        };
        packer.fields(3, None);
        packer.name("ts");
        packer.float(at);
        packer.name("events");
        packer.list(changes.len());
        for change in changes {
            self.event(&mut packer, change);
        }
        packer.name("data_parallel_rank");
        packer.number(0);
        packer.out
    }

    fn event(self, packer: &mut Packer, change: &BlockChange) {
        match change {
            BlockChange::Stored {
                parent,
                hashes,
                blocks,
                origin,
            } => {
                packer.fields(8, Some("BlockStored"));
                packer.name("block_hashes");
                packer.numbers(hashes.iter().copied());
                packer.name("parent_block_hash");
                packer.maybe(*parent, Packer::number);
                packer.name("token_ids");
                let size = usize::try_from(self.block_size).unwrap_or(usize::MAX);
                let tokens = blocks.start as usize * size..blocks.end as usize * size;
                packer.numbers(tokens.map(|at| origin.token(at).into()));
                packer.name("block_size");
                packer.number(self.block_size);
                packer.name("lora_id");
                packer.maybe(origin.adapter.as_deref(), |packer, name| {
                    packer.number(lora_id(name));
                });
                packer.name("medium");
                packer.text(MEDIUM);
                packer.name("lora_name");
                packer.maybe(origin.adapter.as_deref(), Packer::text);
                packer.name("extra_keys");
                packer.list(hashes.len());
                for block in blocks.clone() {
                    extra_keys(packer, block, origin);
                }
            }
            BlockChange::Removed { hashes } => {
                packer.fields(2, Some("BlockRemoved"));
                packer.name("block_hashes");
                packer.numbers(hashes.iter().copied());
                packer.name("medium");
                packer.text(MEDIUM);
            }
            BlockChange::Cleared => packer.fields(0, Some("AllBlocksCleared")),
        }
    }
}

/// What is hashed beside the tokens: the adapter's name everywhere, the salt in the first block alone.
fn extra_keys(packer: &mut Packer, block: u32, origin: &Origin) {
    let salt = origin.salt.as_deref().filter(|_| block == 0);
    let keys: Vec<_> = [origin.adapter.as_deref(), salt]
        .into_iter()
        .flatten()
        .collect();
    if keys.is_empty() {
        return packer.nil();
    }
    packer.list(keys.len());
    for key in keys {
        packer.text(key);
    }
}

/// vLLM numbers adapters as they are loaded; nobody should read it, and who does finds one number an adapter.
fn lora_id(name: &str) -> u64 {
    (xxhash_rust::xxh3::xxh3_64(name.as_bytes()) >> 33) + 1
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

// === impl Packer ===

impl Packer {
    /// So many fields follow, after the name of what has them.
    fn fields(&mut self, fields: usize, tag: Option<&str>) {
        let len = length(fields + tag.iter().len());
        if self.maps {
            let _ = encode::write_map_len(&mut self.out, len);
        } else {
            let _ = encode::write_array_len(&mut self.out, len);
        }
        if let Some(tag) = tag {
            self.name("type");
            self.text(tag);
        }
    }

    /// In arrays the place is the name.
    fn name(&mut self, name: &str) {
        if self.maps {
            self.text(name);
        }
    }

    fn list(&mut self, len: usize) {
        let _ = encode::write_array_len(&mut self.out, length(len));
    }

    fn numbers(&mut self, numbers: impl ExactSizeIterator<Item = u64>) {
        self.list(numbers.len());
        for number in numbers {
            self.number(number);
        }
    }

    fn number(&mut self, number: u64) {
        let _ = encode::write_uint(&mut self.out, number);
    }

    fn float(&mut self, number: f64) {
        let _ = encode::write_f64(&mut self.out, number);
    }

    fn text(&mut self, text: &str) {
        let _ = encode::write_str(&mut self.out, text);
    }

    fn nil(&mut self) {
        let _ = encode::write_nil(&mut self.out);
    }

    fn maybe<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => self.nil(),
        }
    }
}
