//! The bytes that cases speak of: made once for a run, all that is random in them from one seed.

use std::io::Write as _;
use std::sync::OnceLock;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::data::{Body, Case, Chunk, Coding, Request, Response};

const CHAT: (&str, &str) = (
    r#"{"model":"m","messages":[{"role":"user","content":""#,
    r#""}]}"#,
);
const FORM: (&str, &str) = (
    "--sound\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n",
    "\r\n--sound--\r\n",
);

/// The seed of everything random in this process: `VECTORS_SEED`, or one that is printed.
pub(crate) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = match std::env::var("VECTORS_SEED") {
            Ok(text) => text.parse().expect("VECTORS_SEED is a number"),
            Err(_) => rand::rng().random(),
        };
        println!("VECTORS_SEED={seed}");
        seed
    })
}

/// The random numbers of one case, whatever ran before it.
fn rng(case: &Case) -> SmallRng {
    let name = case.to_string();
    SmallRng::seed_from_u64(xxh3_64_with_seed(name.as_bytes(), seed()))
}

/// The request's body, if it has one.
pub(crate) fn request_body(case: &Case) -> Option<Bytes> {
    let body = case.request.body.as_ref()?;
    let plain = body.plain(&mut rng(case));
    Some(match body.coding {
        None => plain,
        Some(coding) => coding.encode(&plain),
    })
}

/// The pieces in which `body` is sent; the client's are of `piece_bytes`.
pub(crate) fn pieces(case: &Case, body: &Bytes, piece_bytes: usize) -> Vec<Bytes> {
    let how = case.request.body.clone().unwrap_or_default();
    let cuts: Vec<usize> = match how.pieces {
        Some(pieces) => {
            let mut rng = rng(case);
            let mut cuts: Vec<usize> = (1..pieces)
                .map(|_| rng.random_range(0..=body.len()))
                .collect();
            cuts.sort_unstable();
            cuts
        }
        None => {
            let size = how.piece_bytes.unwrap_or(piece_bytes);
            (size..body.len()).step_by(size).collect()
        }
    };
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in cuts.into_iter().chain([body.len()]) {
        pieces.push(body.slice(from..to));
        from = to;
    }
    pieces
}

/// The response's body, in its chunks.
pub(crate) fn response_chunks(case: &Case, response: &Response) -> Vec<Bytes> {
    let mut rng = rng(case);
    let chunk = |chunk: &Chunk| match chunk {
        Chunk::Text(text) => Bytes::from(text.clone()),
        Chunk::Random { random } => noise(*random, &mut rng).into(),
    };
    let event = |data: &String| Bytes::from(format!("data: {data}\n\n"));
    let chunks = response.chunks.iter().map(chunk);
    chunks.chain(response.events.iter().map(event)).collect()
}

/// A chat completion request of `bytes` bytes, with a random prompt.
pub(crate) fn chat(bytes: usize, rng: &mut SmallRng) -> Bytes {
    let letters = b"abcdefghijklmnopqrstuvwxyz      ";
    let mut filler = vec![0; bytes - CHAT.0.len() - CHAT.1.len()];
    rng.fill(&mut filler[..]);
    for byte in &mut filler {
        *byte = letters[usize::from(*byte) % letters.len()];
    }
    between(CHAT, filler)
}

fn noise(bytes: usize, rng: &mut SmallRng) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rng.fill(&mut noise[..]);
    noise
}

fn between((before, after): (&str, &str), filler: Vec<u8>) -> Bytes {
    [before.as_bytes(), &filler, after.as_bytes()]
        .concat()
        .into()
}

// === impl Body ===

impl Body {
    fn plain(&self, rng: &mut SmallRng) -> Bytes {
        match self {
            Self {
                text: Some(text), ..
            } => Bytes::from(text.clone()),
            Self {
                chat: Some(bytes), ..
            } => chat(*bytes, rng),
            Self {
                form: Some(bytes), ..
            } => between(FORM, (0..*bytes).map(|_| rng.random()).collect()),
            Self {
                zeros: Some(bytes), ..
            } => vec![0; *bytes].into(),
            _ => panic!("a body has one of text, chat, form and zeros: {self:?}"),
        }
    }
}

// === impl Coding ===

impl Coding {
    fn encode(self, plain: &[u8]) -> Bytes {
        match self {
            Self::Gzip => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(plain).unwrap();
                to.finish().unwrap()
            }
            Self::Deflate => {
                let mut to =
                    flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(plain).unwrap();
                to.finish().unwrap()
            }
            Self::Br => {
                let mut to = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 18);
                to.write_all(plain).unwrap();
                to.into_inner()
            }
            Self::Zstd => zstd::encode_all(plain, 1).unwrap(),
        }
        .into()
    }
}

// === impl Request ===

impl Request {
    /// Pseudo-headers first, then those that every request has, then the case's own: names as given, in order.
    pub(crate) fn all_headers(&self, request_id: &str) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
        add(":method", &self.method);
        if let Some(path) = &self.path {
            add(":path", path);
        }
        add(":scheme", "http");
        add(":authority", "inference.example.com");
        let given = |name: &str| {
            self.headers
                .keys()
                .any(|key| key.eq_ignore_ascii_case(name))
        };
        if !given("x-request-id") {
            add("x-request-id", request_id);
        }
        if self.body.is_some() && !given("content-type") {
            add("content-type", "application/json");
        }
        for (name, values) in &self.headers {
            for value in values.iter().flat_map(|values| values.list()) {
                add(name, value);
            }
        }
        headers
    }
}
