//! What it costs to read a request and to watch a response go by: `cargo bench --bench dialect`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pointsman::dialect::{Api, ModelRewriter, ResponseScanner, inspect};

/// A chat body with one long message of plain text.
fn plain_body(bytes: usize) -> String {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(bytes / 45);
    format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#)
}

/// A chat body as coding agents send them: many messages, three escapes a line.
fn code_body(bytes: usize) -> String {
    let text = r#"    let value = map.get(\"key\").copied();\n"#.repeat(50);
    let message = format!(r#"{{"role":"user","content":"{text}"}}"#);
    let messages = vec![message.as_str(); bytes / message.len()].join(",");
    format!(r#"{{"model":"m","stream":true,"messages":[{messages}]}}"#)
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("inspect");
    for (name, body) in [
        ("plain 400 KB", plain_body(400_000)),
        ("code 400 KB", code_body(400_000)),
        ("small", plain_body(450)),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| inspect(Api::ChatCompletions, black_box(body.as_bytes())));
        });
    }
    group.finish();
}

fn responses(c: &mut Criterion) {
    let chunk = Bytes::from_static(
        b"data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"llama-3-70b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
    );
    let mut group = c.benchmark_group("sse chunk");
    group.bench_function("scan", |b| {
        let mut scanner = ResponseScanner::new(true);
        b.iter(|| scanner.feed(black_box(&chunk)));
    });
    group.bench_function("rewrite", |b| {
        let mut rewriter = ModelRewriter::new(true, "llama-3-70b", "fast");
        b.iter(|| rewriter.feed(black_box(chunk.clone())));
    });
    group.finish();
}

criterion_group!(benches, requests, responses);
criterion_main!(benches);
