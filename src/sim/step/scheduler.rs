//! Steps: who takes part, and what is so when one is over. vLLM V1's `Scheduler.schedule` and `update_from_output`.

use super::cost::{Chunk, Decode, Work};
use super::engine::Engine;
use super::flight::Flight;
use super::requests::{Event, Running};

impl Engine {
    /// Puts the next step together, and those after it in which nothing but the decoding sequences will change.
    pub(super) fn start(&mut self, single: bool) {
        let preemptions = self.totals.preemptions;
        self.chunks.clear();
        self.grow();
        let mut budget = self.budget - self.decoders.count.min(self.budget);
        self.go_on_reading(&mut budget);
        let mut load = 0.0;
        let admits = self.totals.preemptions == preemptions;
        let mut settled = true;
        if admits {
            (load, settled) = self.admit(&mut budget);
        }

        let mut decode = self.decoding();
        let mut chunks = Vec::with_capacity(self.chunks.len());
        for &(slot, chunk) in &self.chunks {
            // One token of an answer that is read again is decoded like any other.
            if chunk.tokens == 1 && self.slots[slot].done > 0 {
                decode.sequences += 1;
                decode.context += u64::from(chunk.context);
            } else {
                chunks.push(chunk);
            }
        }
        let mut work = self.cost.step(&chunks, decode);
        work.seconds += load;
        if self.chunks.is_empty() && self.decoders.count == 0 {
            // Nobody could run. It cannot be with requests that fit into the cache, but must not be an endless loop.
            work = Work {
                seconds: 1e-3,
                ..Work::default()
            };
        }
        let jumps =
            !single && settled && self.chunks.is_empty() && (admits || self.waiting.is_empty());
        let steps = if jumps { self.uneventful() } else { 1 };
        self.flight = Some(Flight {
            begin: self.time,
            steps,
            work,
        });
    }

    /// A step, or the last of a jump, is over.
    pub(super) fn complete(&mut self, flight: Flight, each: bool, events: &mut impl FnMut(Event)) {
        for id in self.preempted.drain(..) {
            events(Event::Preempted {
                id,
                at: flight.begin,
            });
        }
        let at = flight.end();
        if flight.steps > 1 {
            let blocks = self.decoders.blocks(1, flight.steps);
            self.blocks.take(blocks as u32);
        }
        self.totals.iterations += flight.steps;
        let prompt: u64 = self.chunks.iter().map(|(_, c)| u64::from(c.tokens)).sum();
        self.totals.tokens += prompt + u64::from(self.decoders.count) * flight.steps;
        self.previous = flight.last_begin();
        self.time = at;
        self.decoders.advance(flight.steps);
        self.released = (0, 0);

        if each {
            let decoding = self.running.iter().filter(|r| self.slots[r.slot].decodes);
            for running in decoding {
                events(Event::Token {
                    id: self.slots[running.slot].id,
                    at,
                });
            }
        }
        let tick = self.decoders.tick;
        let cancelled = self.totals.cancelled > 0;
        let ends = |r: &Running, engine: &Self| {
            r.last == tick
                || cancelled && engine.slots[r.slot].decodes && engine.slots[r.slot].cancelled
        };
        let mut kept = 0;
        for i in 0..self.running.len() {
            let running = self.running[i];
            if ends(&running, self) {
                self.end(running.slot, at, events);
            } else {
                self.running[kept] = running;
                kept += 1;
            }
        }
        self.running.truncate(kept);

        let mut chunks = std::mem::take(&mut self.chunks);
        for (slot, chunk) in chunks.drain(..) {
            self.has_read(slot, chunk, at, each, events);
        }
        self.chunks = chunks;
        self.totals.cancelled = 0;
    }

    /// Gives back what a request has, which runs no more.
    pub(super) fn retire(&mut self, slot: u32) {
        let request = &mut self.slots[slot];
        if request.decodes {
            request.decodes = false;
            let elapsed = (self.decoders.tick - request.since) as u32;
            request.computed += elapsed;
            request.done += elapsed;
            self.decoders.leave(request.computed);
            self.blocks.stop_reading(request.hold);
        }
        let (full, begun) = (
            request.computed / self.block_size,
            request.computed.div_ceil(self.block_size),
        );
        // An answer's blocks become hittable here, not one by one while it grows. Who could hit them but the request
        // itself, after a preemption, or one that goes on with the answer?
        let (mut hold, before) = (request.hold, self.blocks.available());
        self.blocks.publish(&mut hold, &request.chain, full);
        self.blocks.release(hold, begun - full);
        request.hold = Default::default();
        self.released.0 += 1;
        self.released.1 += self.blocks.available() - before;
        if let (Some(adapters), Some(adapter)) = (&mut self.adapters, request.adapter) {
            adapters.leave(adapter);
        }
    }

    /// Each decoding sequence takes a block if it needs one. The last in the batch give theirs back until all have.
    fn grow(&mut self) {
        let needed = self.decoders.blocks(0, 1);
        if needed <= u64::from(self.blocks.available()) {
            self.blocks.take(needed as u32);
            return;
        }
        let mut at = 0;
        while let Some(&Running { slot, .. }) = self.running.get(at) {
            let request = &self.slots[slot];
            if !request.decodes {
                break;
            }
            let elapsed = (self.decoders.tick - request.since) as u32;
            let full = (request.computed + elapsed).is_multiple_of(self.block_size);
            if full {
                while self.blocks.available() == 0 && self.running.len() > at {
                    self.preempt_last();
                }
                if self.running.len() <= at {
                    break;
                }
                self.blocks.take(1);
            }
            at += 1;
        }
    }

    /// The last in the batch reads on if its prompt did not fit into one step.
    fn go_on_reading(&mut self, budget: &mut u32) {
        let Some(&Running { slot, .. }) = self.running.last() else {
            return;
        };
        let request = &self.slots[slot];
        if request.decodes || *budget == 0 {
            return;
        }
        let (context, tokens) = (
            request.computed,
            (request.total() - request.computed).min(*budget),
        );
        let size = self.block_size;
        let needed = (context + tokens).div_ceil(size) - context.div_ceil(size);
        if needed > self.blocks.available() {
            self.preempt_last();
            return;
        }
        self.blocks.take(needed);
        self.chunks.push((slot, Chunk { tokens, context }));
        *budget -= tokens;
    }

    fn preempt_last(&mut self) {
        let Some(Running { slot, .. }) = self.running.pop() else {
            return;
        };
        self.retire(slot);
        let request = &mut self.slots[slot];
        request.computed = 0;
        self.preempted.push(request.id);
        self.totals.preemptions += 1;
        self.waiting.push_front(slot);
    }

    /// Lets those in who may run. Returns the seconds that their adapters take to load, and whether it would come to the
    /// same end in the next step if nothing but the decoding sequences changed.
    fn admit(&mut self, budget: &mut u32) -> (f64, bool) {
        self.deferred = 0;
        let released = std::mem::take(&mut self.released);
        // An idle engine has nothing to put a step together behind.
        let behind = self.asynchronous && !self.running.is_empty();
        let (places, blocks) = if behind { released } else { (0, 0) };
        let max = self.max_seqs.saturating_sub(places) as usize;
        let (mut load, mut at) = (0.0, 0);
        let mut settled = (places, blocks) == (0, 0) || self.waiting.is_empty();
        while *budget > 0
            && self.running.len() < max
            && let Some(&slot) = self.waiting.get(at)
        {
            let request = &self.slots[slot];
            if behind && request.arrived > self.previous {
                settled = false;
                break;
            }
            if let (Some(adapters), Some(id)) = (&self.adapters, request.adapter)
                && !adapters.admits(id)
            {
                self.deferred += 1;
                at += 1;
                continue;
            }
            let (total, size) = (request.total(), self.block_size);
            // The last token is always computed: its logits are what the first new one is drawn from.
            let hit = self.blocks.look_up(&request.chain, (total - 1) / size);
            let context = hit.blocks * size;
            let tokens = (total - context).min(*budget);
            let needed = (context + tokens).div_ceil(size) - hit.blocks;
            let reserved = if self.reserve_prompt {
                total.div_ceil(size) - hit.blocks
            } else {
                needed
            };
            if reserved + hit.idle + blocks > self.blocks.available() {
                break;
            }
            let request = &mut self.slots[slot];
            request.hold = self.blocks.hold();
            request.computed = context;
            self.blocks.take(needed);
            if request.done == 0 {
                request.cached_tokens = context;
                request.scheduled = self.time;
                self.totals.hits += u64::from(context);
                self.totals.queries += u64::from(request.prompt);
            }
            if let (Some(adapters), Some(id)) = (&mut self.adapters, request.adapter) {
                load += adapters.join(id);
            }
            self.waiting.remove(at);
            self.running.push(Running {
                slot,
                last: u64::MAX,
            });
            self.chunks.push((slot, Chunk { tokens, context }));
            *budget -= tokens;
        }
        (load, settled)
    }

    /// How many steps there are until a sequence ends or blocks run out, in which nothing else will change.
    fn uneventful(&self) -> u64 {
        let last = self.running.iter().map(|r| r.last).min();
        let steps = last.unwrap_or(0).saturating_sub(self.decoders.tick).max(1);
        self.decoders
            .lasting(u64::from(self.blocks.available()), steps)
    }

    fn decoding(&self) -> Decode {
        let (shared, shared_once) = self.blocks.shared();
        let size = u64::from(self.block_size);
        Decode {
            sequences: self.decoders.count,
            context: self.decoders.context,
            shared: shared * size,
            shared_once: shared_once * size,
        }
    }

    /// A request has read so much of its prompt.
    fn has_read(
        &mut self,
        slot: u32,
        chunk: Chunk,
        at: f64,
        each: bool,
        events: &mut impl FnMut(Event),
    ) {
        let request = &mut self.slots[slot];
        request.computed += chunk.tokens;
        let mut hold = request.hold;
        self.blocks.publish(
            &mut hold,
            &request.chain,
            request.computed / self.block_size,
        );
        request.hold = hold;
        let cancelled = request.cancelled;
        if request.computed < request.total() && !cancelled {
            return;
        }
        if !cancelled {
            let id = request.id;
            if request.done == 0 {
                events(Event::FirstToken {
                    id,
                    at,
                    cached_tokens: request.cached_tokens,
                    scheduled: request.scheduled,
                });
            } else if each {
                events(Event::Token { id, at });
            }
            request.done += 1;
        }
        // It was admitted late, so it is near the end.
        let place = self.running.iter().rposition(|r| r.slot == slot);
        if cancelled || request.done >= request.output {
            if let Some(place) = place {
                self.running.remove(place);
            }
            self.end(slot, at, events);
            return;
        }
        request.decodes = true;
        request.since = self.decoders.tick;
        self.decoders.join(request.computed);
        self.blocks.read(request.hold);
        if let Some(place) = place {
            self.running[place].last =
                self.decoders.tick + u64::from(request.output - request.done);
        }
    }

    /// A request has its last token, or nobody waits for it.
    fn end(&mut self, slot: u32, at: f64, events: &mut impl FnMut(Event)) {
        self.retire(slot);
        let request = self.slots.remove(slot);
        if !request.cancelled {
            events(Event::Finished { id: request.id, at });
        }
    }
}
