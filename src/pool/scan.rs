//! Reads the few series that we need from a metrics page, while it comes in.
//!
//! A vLLM page has some 700 lines, of which seven matter. So a line is looked at only as far as its name, and only a
//! name that is wanted has its labels and value read. Lines may be cut anywhere by the network; a cut line is
//! kept, up to [`LONGEST_LINE`] bytes. What is malformed is passed over: a page is never refused, it only tells less.
//! A number that cannot be true (negative, not finite, past [`MOST_REQUESTS`] or [`FULLEST`]) makes its signal unknown:
//! one server that lies must not decide where all requests go.

use super::engines::{EngineSpec, Signal};
use super::slab::{LoraState, Scrape, lora_key};

/// A longer line is passed over. LoRA lists are the longest that matter.
pub const LONGEST_LINE: usize = 64 << 10;

/// More requests than any engine holds, in one series.
pub const MOST_REQUESTS: f64 = 1e6;
/// The greatest KV cache use that is taken, for full: engines round.
pub const FULLEST: f64 = 1.01;

/// Reads one page.
#[derive(Debug)]
pub struct PageScanner<'a> {
    engine: &'a EngineSpec,
    /// The beginning of a line whose end has not come.
    cut: Vec<u8>,
    /// In a line that is too long.
    skipping: bool,
    found: Scrape,
    lora_value: f64,
}

// === impl PageScanner ===

impl<'a> PageScanner<'a> {
    /// For a page of `engine`.
    pub fn new(engine: &'a EngineSpec) -> Self {
        Self {
            engine,
            cut: Vec::new(),
            skipping: false,
            found: Scrape::default(),
            lora_value: f64::NEG_INFINITY,
        }
    }

    /// The next bytes of the page.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.cut.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.cut);
                whole.extend_from_slice(line);
                self.line(&whole);
                whole.clear();
                self.cut = whole;
            }
        }
        if self.skipping {
            return;
        }
        if self.cut.len() + bytes.len() > LONGEST_LINE {
            self.cut.clear();
            self.skipping = true;
        } else {
            self.cut.extend_from_slice(bytes);
        }
    }

    /// The page is complete: what it told.
    pub fn finish(mut self) -> Scrape {
        let last = std::mem::take(&mut self.cut);
        if !self.skipping {
            self.line(&last);
        }
        let known = |sum: f32| !sum.is_nan();
        self.found.waiting = self.found.waiting.filter(|&sum| known(sum));
        self.found.running = self.found.running.filter(|&sum| known(sum));
        self.found.progress = self.found.progress.filter(|sum| !sum.is_nan());
        self.found
    }

    fn line(&mut self, line: &[u8]) {
        if line.len() > LONGEST_LINE {
            return;
        }
        let engine = self.engine;
        for (spec, signal) in &engine.metrics {
            let name = spec.name.as_bytes();
            // The whole name, not the beginning of a longer one. That one byte is asked first: it tells nearly all of a
            // page's names from this one, and they all begin alike.
            let ends = matches!(line.get(name.len()), Some(b'{' | b' ' | b'\t'));
            if !ends || !line.starts_with(name) {
                continue;
            }
            let rest = &line[name.len()..];
            let (labels, value) = match rest.first() {
                Some(b'{') => match labels_end(&rest[1..]) {
                    Some(end) => (&rest[1..=end], &rest[end + 2..]),
                    None => return,
                },
                Some(b' ' | b'\t') => (&[][..], rest),
                _ => continue,
            };
            let wanted = spec.labels.iter().all(|(key, value)| {
                label(labels, key).is_some_and(|found| found == value.as_str())
            });
            if wanted && let Some(value) = number(value) {
                self.take(*signal, labels, value);
            }
        }
    }

    fn take(&mut self, signal: Signal, labels: &[u8], value: f64) {
        let found = &mut self.found;
        let counted = |n: f64| (n >= 1.0 && n <= f64::from(u32::MAX)).then_some(n as u32);
        // A sum with a wrong number in it is unknown: NaN, until the page is complete.
        let requests = match value {
            value if (0.0..=MOST_REQUESTS).contains(&value) => value as f32,
            _ => f32::NAN,
        };
        match signal {
            Signal::Waiting => found.waiting = Some(found.waiting.unwrap_or(0.0) + requests),
            Signal::Running => found.running = Some(found.running.unwrap_or(0.0) + requests),
            Signal::KvUsage if (0.0..=FULLEST).contains(&value) => {
                let usage = value.min(1.0) as f32;
                found.kv_usage = Some(found.kv_usage.unwrap_or(0.0).max(usage));
            }
            Signal::KvUsage => {}
            Signal::BlockSize => found.block_size = counted(value).or(found.block_size),
            Signal::Blocks => found.kv_blocks = counted(value).or(found.kv_blocks),
            Signal::CacheInfo => {
                let of = |key: &str| label(labels, key)?.parse().ok();
                found.block_size = of(&self.engine.block_size_label).or(found.block_size);
                found.kv_blocks = of(&self.engine.blocks_label).or(found.kv_blocks);
            }
            // Only what rises is progress, and a sum with a wrong number in it is none.
            Signal::Progress if value >= 0.0 && value.is_finite() => {
                found.progress = Some(found.progress.unwrap_or(0.0) + value);
            }
            Signal::Progress => found.progress = Some(f64::NAN),
            // Of several ranks all must be well.
            Signal::Healthy if value == 0.0 || value == 1.0 => {
                found.healthy = Some(found.healthy.unwrap_or(true) && value == 1.0);
            }
            Signal::Healthy => {}
            Signal::Started if value.is_finite() => found.started = Some(value),
            Signal::Started => {}
            Signal::Attribute(key) => found.attributes.put(key, value as f32),
            Signal::Lora => {
                // Strictly greater: of two that are equal the first stays, as in the reference.
                if value.is_finite() && value > self.lora_value {
                    self.lora_value = value;
                    found.lora = Some(adapters(labels));
                }
            }
        }
    }
}

fn adapters(labels: &[u8]) -> LoraState {
    let keys = |name: &str| {
        let list = label(labels, name).unwrap_or_default();
        list.split(',')
            .map(str::trim)
            .filter(|adapter| !adapter.is_empty())
            .map(lora_key)
            .collect()
    };
    LoraState {
        max: label(labels, "max_lora")
            .and_then(|max| max.parse().ok())
            .unwrap_or(0),
        running: keys("running_lora_adapters"),
        waiting: keys("waiting_lora_adapters"),
        resident: Box::default(),
    }
}

/// Where the closing brace is: quoted values may hold braces.
fn labels_end(bytes: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The value of one label. Escapes are resolved.
fn label(labels: &[u8], key: &str) -> Option<String> {
    let mut rest = labels;
    loop {
        let equals = memchr::memchr(b'=', rest)?;
        let name = rest[..equals].trim_ascii();
        let quoted = rest[equals + 1..].trim_ascii_start().strip_prefix(b"\"")?;
        let mut value = Vec::new();
        let mut bytes = quoted.iter().enumerate();
        let end = loop {
            match bytes.next()? {
                (at, b'"') => break at,
                (_, b'\\') => match bytes.next()?.1 {
                    b'n' => value.push(b'\n'),
                    &other => value.push(other),
                },
                (_, &byte) => value.push(byte),
            }
        };
        if name == key.as_bytes() {
            return String::from_utf8(value).ok();
        }
        rest = quoted[end + 1..].trim_ascii_start();
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
}

/// The value of a series, which may be NaN or infinite; a timestamp after it is passed over.
fn number(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::engines::known;
    use super::*;
    use proptest::prelude::*;

    const VLLM: &str = r#"# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 37.0
vllm:num_requests_running{engine="1",model_name="meta-llama/Llama-3.1-8B-Instruct"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"} 12.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="a } b \" c"} 0.7421
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:lora_requests_info{max_lora="2",running_lora_adapters="adapter_ko",waiting_lora_adapters=""} 1.7886264546318772e+09
vllm:lora_requests_info{max_lora="2",running_lora_adapters="adapter_json, adapter_ko",waiting_lora_adapters="adapter_x"} 1.7886264577368872e+09
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_cpu_blocks="None",num_gpu_blocks="27808"} 1.0
"#;

    fn scan(engine: &str, page: &str) -> Scrape {
        let engines = known();
        let spec = engines.iter().find(|e| e.name == engine).unwrap();
        let mut scanner = PageScanner::new(spec);
        scanner.feed(page.as_bytes());
        scanner.finish()
    }

    #[test]
    fn vllm() {
        let got = scan("vllm", VLLM);
        assert_eq!(
            (got.waiting, got.running, got.kv_usage),
            (Some(12.0), Some(40.0), Some(0.7421))
        );
        assert_eq!((got.block_size, got.kv_blocks), (Some(16), Some(27808)));
        let lora = got.lora.unwrap();
        assert_eq!(lora.max, 2);
        assert_eq!(*lora.running, ["adapter_json", "adapter_ko"].map(lora_key));
        assert_eq!(*lora.waiting, [lora_key("adapter_x")]);
    }

    #[test]
    fn what_is_missing_is_not_zero() {
        let page = "vllm:num_requests_running{engine=\"0\"} NaN\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n";
        let got = scan("vllm", page);
        assert_eq!(
            (got.waiting, got.running, got.kv_blocks),
            (None, None, None)
        );
        assert_eq!(got.block_size, Some(16));
        assert_eq!(
            scan("vllm", "vllm:gpu_cache_usage_perc 0.25").kv_usage,
            Some(0.25)
        );
    }

    #[test]
    fn what_cannot_be_true_is_unknown() {
        for (value, waiting, kv_usage) in [
            ("0", Some(0.0), Some(0.0)),
            ("1", Some(1.0), Some(1.0)),
            ("1.005", Some(1.005), Some(1.0)),
            ("1e6", Some(1e6), None),
            ("1.1e6", None, None),
            ("1e39", None, None),
            ("-1", None, None),
            ("+Inf", None, None),
            ("-Inf", None, None),
            ("NaN", None, None),
        ] {
            let page =
                format!("vllm:num_requests_waiting {value}\nvllm:kv_cache_usage_perc {value}\n");
            let got = scan("vllm", &page);
            assert_eq!((got.waiting, got.kv_usage), (waiting, kv_usage), "{value}");
        }
        // What is left of a sum is not the sum; the fullest of the caches that are known still counts.
        let page = "vllm:num_requests_running 3\nvllm:num_requests_running{engine=\"1\"} -1\nvllm:kv_cache_usage_perc 0.5\nvllm:kv_cache_usage_perc{engine=\"1\"} 99\n";
        let got = scan("vllm", page);
        assert_eq!((got.running, got.kv_usage), (None, Some(0.5)));
    }

    #[test]
    fn whether_the_engine_works_and_how_far_it_came() {
        let of = |page: &str| {
            let got = scan("vllm", page);
            (got.healthy, got.progress, got.started)
        };
        let both = "vllm:generation_tokens_total{engine=\"0\"} 5.0\nvllm:generation_tokens_total{engine=\"1\"} 7.0\nvllm:prompt_tokens_total{engine=\"0\"} 1e3\nprocess_start_time_seconds 1.788e+09\n";
        assert_eq!(of(both), (None, Some(1012.0), Some(1.788e9)));
        for (page, healthy) in [
            ("", None),
            ("vllm:engine_healthy{engine=\"0\"} 1.0\n", Some(true)),
            ("vllm:engine_healthy{engine=\"0\"} 0.0\n", Some(false)),
            // One rank is enough.
            (
                "vllm:engine_healthy{engine=\"0\"} 0.0\nvllm:engine_healthy{engine=\"1\"} 1.0\n",
                Some(false),
            ),
            ("vllm:engine_healthy{engine=\"0\"} NaN\n", None),
            ("vllm:engine_healthy{engine=\"0\"} 0.5\n", None),
        ] {
            assert_eq!(of(page).0, healthy, "{page}");
        }
        // What is left of a sum is not the sum.
        for wrong in ["-1", "NaN", "+Inf"] {
            let page = format!("{both}vllm:prompt_tokens_total{{engine=\"1\"}} {wrong}\n");
            assert_eq!(of(&page).1, None, "{wrong}");
        }
    }

    #[test]
    fn other_engines() {
        let page = "sglang:num_running_reqs{tp_rank=\"0\"} 162.0\nsglang:num_queue_reqs{} 2826.0\nsglang:token_usage 0.28 1700000000\nsglang:page_size{a=\"b\"} 1.0\nsglang:num_pages{a=\"b\"} 442356.0\n";
        let got = scan("sglang", page);
        assert_eq!(
            (got.waiting, got.running, got.kv_usage),
            (Some(2826.0), Some(162.0), Some(0.28))
        );
        assert_eq!((got.block_size, got.kv_blocks), (Some(1), Some(442_356)));
        let page = "nv_trt_llm_request_metrics{model=\"x\",request_type=\"waiting\"} 2\nnv_trt_llm_request_metrics{model=\"x\",request_type=\"scheduled\"} 3\nnv_trt_llm_request_metrics{model=\"x\",request_type=\"max\"} 512\n";
        let got = scan("triton-tensorrt-llm", page);
        assert_eq!((got.waiting, got.running), (Some(2.0), Some(3.0)));
        let got = scan(
            "trtllm-serve",
            "trtllm_kv_cache_utilization{engine_type=\"trtllm\"} 0.62\n",
        );
        assert_eq!(got.kv_usage, Some(0.62));
        assert_eq!(
            scan(
                "triton",
                "nv_inference_pending_request_count{model=\"m\"} 4\n"
            )
            .waiting,
            Some(4.0)
        );
    }

    #[test]
    fn attributes_are_the_first_series_that_is_a_number() {
        use super::super::slab::attribute_key;
        let (a, b) = (attribute_key("a"), attribute_key("b"));
        let mut engines = known();
        let metric = |spec| super::super::engines::MetricSpec::parse(spec).unwrap();
        let more = [(metric("m{x=1}"), a), (metric("n"), b)];
        let more = more.map(|(spec, key)| (spec, Signal::Attribute(key)));
        engines[0].metrics.extend(more);
        let mut scanner = PageScanner::new(&engines[0]);
        scanner.feed(b"m{x=\"2\"} 9\nm{x=\"1\"} NaN\nm{x=\"1\"} -4.5\nm{x=\"1\"} 7\nnn 3\n");
        let got = scanner.finish().attributes;
        assert_eq!((got.get(a), got.get(b)), (Some(-4.5), None));
    }

    #[test]
    fn garbage_tells_nothing_and_long_lines_are_passed_over() {
        let long = format!(
            "vllm:x{{a=\"{}\"}} 1\nvllm:num_requests_waiting 5\n",
            "y".repeat(2 * LONGEST_LINE)
        );
        assert_eq!(scan("vllm", &long).waiting, Some(5.0));
        for garbage in [
            "<html>",
            "vllm:num_requests_waiting{",
            "vllm:num_requests_waiting{a=\"",
            "vllm:num_requests_waiting",
            "vllm:num_requests_waiting{a} 1x",
        ] {
            assert_eq!(scan("vllm", garbage), Scrape::default(), "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(cuts in proptest::collection::vec(0..VLLM.len(), 0..20)) {
            let engines = known();
            let mut scanner = PageScanner::new(&engines[0]);
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts {
                scanner.feed(&VLLM.as_bytes()[from..cut]);
                from = cut;
            }
            scanner.feed(&VLLM.as_bytes()[from..]);
            prop_assert_eq!(scanner.finish(), scan("vllm", VLLM));
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let engines = known();
            let mut scanner = PageScanner::new(&engines[0]);
            scanner.feed(b"vllm:lora_requests_info{");
            scanner.feed(&bytes);
            scanner.finish();
        }
    }
}
