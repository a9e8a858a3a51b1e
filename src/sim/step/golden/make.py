#!/usr/bin/env python3
"""Writes reference.json: what the Python reference (gpu-and-simulation.md section 2) makes of random requests.

    make.py FOLDER_OF_ENGINE_REF > reference.json

One thing differs from the reference: there, a request that cannot be admitted moves the cached blocks it found to the
end of the LRU list; in vLLM, and here, it leaves them where they are.
"""
import json, random, sys

sys.path.insert(0, sys.argv[1])
import engine_ref as ref


class Engine(ref.Engine):
    found = moved = None

    def acquire(self, block):
        if self.found is None:
            self.found = self.lru.copy()
        return super().acquire(block)

    def grow(self, request, upto):
        enough = super().grow(request, upto)
        if not enough and request not in self.running:
            self.moved = self.found
        self.found = None
        return enough

    def drop(self, request):
        super().drop(request)
        if self.moved is not None:
            self.lru, self.moved = self.moved, None


def prompt(rng, trees, size):
    """Segments [name, blocks] from the root of a random tree downwards."""
    name, segments = rng.randrange(trees) + 1, []
    for _ in range(rng.randrange(1, 4)):
        name = name * 10 + rng.randrange(3) + 1
        segments.append([name, 1 + name * 2654435761 % size])
    return segments


def run(name, gpu, model, tp, blocks, seqs, budget, slow, count, rate, trees, size, output):
    rng = random.Random(name)
    requests, at = [], 0.0
    for i in range(count):
        # Every fourth one arrives together with the one before it.
        at += 0.0 if i % 4 == 3 else rng.expovariate(rate)
        at = round(at, 6)
        segments = prompt(rng, trees, size)
        full = sum(n for _, n in segments)
        tokens = 16 * full + rng.choice([0, 0, rng.randrange(16), rng.randrange(200)])
        requests.append([at, tokens, rng.randrange(1, output), segments])
    engine = Engine(ref.GPUS[gpu], ref.Model(*ref.MODELS[model], tp=tp), blocks, seqs, budget, 16, tuple(slow))
    keys = lambda segments: [("prompt", n, k) for n, length in segments for k in range(length)]
    todo = [ref.Req(i, t, n, o, keys(s)) for i, (t, n, o, s) in enumerate(requests)]
    ref.simulate([engine], todo, lambda r, engines: engines[0])
    for request, done in zip(requests, todo):
        request += [round(done.first, 9), round(done.end, 9)]
    return dict(gpu=gpu, model=model, tp=tp, blocks=blocks, seqs=seqs, budget=budget, slow=slow, requests=requests,
                preemptions=engine.preempt, hits=engine.hit, queries=engine.query)


print("[")
rows = [
    run("a", "RTX4090", "llama3-8b", 1, 300, 32, 512, [1, 1], 120, 8.0, 5, 40, 200),
    run("b", "H100", "llama3-70b", 2, 420, 48, 2048, [1.3, 1.1], 120, 12.0, 3, 60, 250),
    run("c", "A100", "qwen3-32b", 2, 5000, 24, 256, [1, 1], 100, 6.0, 8, 60, 120),
    run("d", "L4", "llama3-8b", 1, 150, 64, 128, [1, 2], 80, 0.7, 4, 20, 300),
]
print(",\n".join(json.dumps(row, separators=(",", ":")) for row in rows))
print("]")
