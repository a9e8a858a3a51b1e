//! Request bodies that the client compressed: decoded for reading, never for forwarding.

use std::io::Read;

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use super::DecodeError;

/// Most codings that one body may be wrapped in: each costs up to the cap again.
const MAX_CODINGS: usize = 4;

/// Largest zstd window, as a power of two: 8 MiB, what RFC 9659 lets a sender of this coding use.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The first byte of a brotli body, but for its highest bit, that announces a "large window" of up to 1 GiB. It is an
/// extension that RFC 7932, section 9.1, gives no meaning; the decoder would follow it and allocate as much.
const BROTLI_LARGE_WINDOW: u8 = 0x11;

/// Buffer between the compressed bytes and the brotli decoder, in bytes.
const BROTLI_BUFFER: usize = 8192;

enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// Decodes a body by its `Content-Encoding`; `None` = it is not encoded. A list is undone from its end.
///
/// No coding may yield more than `cap` bytes; a body that would is refused as soon as it does. Beside that, a decoder
/// holds at most its window: 32 KiB for gzip and deflate, 16 MiB for brotli, 8 MiB for zstd. A zstd frame that needs
/// a larger one is [`DecodeError::Unsupported`].
pub fn decode(
    content_encoding: &str,
    body: &[u8],
    cap: usize,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut codings = Vec::new();
    for name in content_encoding.split(',') {
        codings.extend(Coding::parse(name.trim())?);
        if codings.len() > MAX_CODINGS {
            return Err(DecodeError::Unsupported(content_encoding.to_owned()));
        }
    }
    let mut plain: Option<Vec<u8>> = None;
    for coding in codings.iter().rev() {
        plain = Some(coding.undo(plain.as_deref().unwrap_or(body), cap)?);
    }
    Ok(plain)
}

// === impl Coding ===

impl Coding {
    fn parse(name: &str) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match name.to_ascii_lowercase().as_str() {
            "" | "identity" => return Ok(None),
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => return Err(DecodeError::Unsupported(name.to_owned())),
        }))
    }

    fn undo(&self, body: &[u8], cap: usize) -> Result<Vec<u8>, DecodeError> {
        match self {
            Self::Gzip => read("gzip", MultiGzDecoder::new(body), cap),
            // RFC 9110 means zlib; some clients send the bare stream.
            Self::Deflate => match read("deflate", ZlibDecoder::new(body), cap) {
                Err(corrupt @ DecodeError::Corrupt { .. }) => {
                    match read("deflate", DeflateDecoder::new(body), cap) {
                        Err(DecodeError::Corrupt { .. }) => Err(corrupt),
                        bare => bare,
                    }
                }
                zlib => zlib,
            },
            Self::Brotli
                if body
                    .first()
                    .is_some_and(|b| b & 0x7f == BROTLI_LARGE_WINDOW) =>
            {
                Err(DecodeError::Corrupt {
                    encoding: "br",
                    reason: "large windows are not allowed".to_owned(),
                })
            }
            Self::Brotli => read("br", brotli::Decompressor::new(body, BROTLI_BUFFER), cap),
            Self::Zstd => {
                let mut decoder =
                    zstd::Decoder::with_buffer(body).map_err(|error| corrupt("zstd", &error))?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG)
                    .map_err(|error| corrupt("zstd", &error))?;
                match read("zstd", decoder, cap) {
                    Err(DecodeError::Corrupt { reason, .. }) if reason == zstd_window_error() => {
                        Err(DecodeError::Unsupported(format!(
                            "zstd with a window of more than 2^{ZSTD_WINDOW_LOG} bytes"
                        )))
                    }
                    plain => plain,
                }
            }
        }
    }
}

fn read(encoding: &'static str, reader: impl Read, cap: usize) -> Result<Vec<u8>, DecodeError> {
    let mut plain = Vec::new();
    let one_more = (cap as u64).saturating_add(1);
    reader
        .take(one_more)
        .read_to_end(&mut plain)
        .map_err(|error| corrupt(encoding, &error))?;
    if plain.len() > cap {
        return Err(DecodeError::TooLarge(cap));
    }
    Ok(plain)
}

/// What the decoder says of a frame whose window is larger than allowed: the crate passes on names alone.
fn zstd_window_error() -> &'static str {
    use zstd::zstd_safe::{get_error_name, zstd_sys::ZSTD_ErrorCode};
    let code = ZSTD_ErrorCode::ZSTD_error_frameParameter_windowTooLarge as usize;
    // The library's error codes are the negative numbers of this list.
    get_error_name(code.wrapping_neg())
}

fn corrupt(encoding: &'static str, error: &std::io::Error) -> DecodeError {
    DecodeError::Corrupt {
        encoding,
        reason: error.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    pub(in crate::dialect) fn encode(coding: &str, plain: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" => {
                let mut to = GzEncoder::new(Vec::new(), Compression::fast());
                to.write_all(plain).unwrap();
                to.finish().unwrap()
            }
            "zlib" => {
                let mut to = ZlibEncoder::new(Vec::new(), Compression::fast());
                to.write_all(plain).unwrap();
                to.finish().unwrap()
            }
            "bare" => {
                let mut to = DeflateEncoder::new(Vec::new(), Compression::fast());
                to.write_all(plain).unwrap();
                to.finish().unwrap()
            }
            "br" => {
                let mut to = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 18);
                to.write_all(plain).unwrap();
                to.into_inner()
            }
            "zstd" => zstd::encode_all(plain, 1).unwrap(),
            other => panic!("no encoder for {other}"),
        }
    }

    /// What the coding is called in `Content-Encoding`.
    pub(in crate::dialect) fn header(coding: &str) -> &str {
        match coding {
            "zlib" | "bare" => "Deflate",
            other => other,
        }
    }

    pub(in crate::dialect) const CODINGS: [&str; 5] = ["gzip", "zlib", "bare", "br", "zstd"];

    #[test]
    fn identity_is_none() {
        for header in ["", "identity", " Identity , identity"] {
            assert_eq!(decode(header, b"plain", 1), Ok(None));
        }
    }

    #[test]
    fn lists_members_and_case() {
        let inner = encode("gzip", b"hello");
        let plain = decode("GZIP, br", &encode("br", &inner), 100);
        assert_eq!(plain, Ok(Some(b"hello".to_vec())));
        let two = [encode("gzip", b"hel"), encode("gzip", b"lo")].concat();
        assert_eq!(decode("x-gzip", &two, 5), Ok(Some(b"hello".to_vec())));
        let two = [encode("zstd", b"hel"), encode("zstd", b"lo")].concat();
        assert_eq!(decode("zstd", &two, 5), Ok(Some(b"hello".to_vec())));
        assert!(matches!(
            decode("gzip,gzip,gzip,gzip,gzip", &inner, 100),
            Err(DecodeError::Unsupported(_))
        ));
        assert_eq!(
            decode("gzip, compress", b"", 100),
            Err(DecodeError::Unsupported("compress".to_owned()))
        );
    }

    #[test]
    fn what_is_not_the_coding_is_corrupt() {
        for coding in CODINGS {
            let whole = encode(coding, &b"some text, some text, more text".repeat(40));
            let cut = &whole[..whole.len() - 3];
            for body in [cut, &b"{\"model\":\"m\"}"[..], b""] {
                let result = decode(header(coding), body, 10_000);
                assert!(
                    matches!(result, Err(DecodeError::Corrupt { .. })),
                    "{coding} {body:?}: {result:?}"
                );
            }
        }
    }

    #[test]
    fn bombs_are_refused() {
        let zeros = vec![0; 8 << 20];
        for coding in CODINGS {
            let bomb = encode(coding, &zeros);
            let result = decode(header(coding), &bomb, 100_000);
            assert_eq!(result, Err(DecodeError::TooLarge(100_000)), "{coding}");
        }
        // The cap holds between the layers too.
        let bomb = encode("gzip", &encode("gzip", &zeros));
        assert_eq!(
            decode("gzip, gzip", &bomb, 1000),
            Err(DecodeError::TooLarge(1000))
        );
    }

    /// Encodes with a window of `2^log` bytes.
    fn brotli_window(plain: &[u8], log: i32, large: bool) -> Vec<u8> {
        let params = brotli::enc::BrotliEncoderParams {
            lgwin: log,
            large_window: large,
            ..Default::default()
        };
        let mut to = brotli::CompressorWriter::with_params(Vec::new(), 4096, &params);
        to.write_all(plain).unwrap();
        to.into_inner()
    }

    #[test]
    fn large_brotli_windows_are_refused() {
        let hello = b"hello, hello, hello, hello".repeat(40);
        let large = brotli_window(&hello, 30, true);
        // A text, an empty stream, and what the decoder itself would refuse.
        for body in [&large[..], &[0x11, 0xde], &[0x91, 0xde], &[0x11]] {
            let result = decode("br", body, 10_000);
            let refused = DecodeError::Corrupt {
                encoding: "br",
                reason: "large windows are not allowed".to_owned(),
            };
            assert_eq!(result, Err(refused), "{body:?}");
        }
        // The largest window of the RFC is none of them.
        for log in 10..=24 {
            let body = brotli_window(&hello, log, false);
            assert_eq!(
                decode("br", &body, 10_000),
                Ok(Some(hello.clone())),
                "{log}"
            );
        }
    }

    #[test]
    fn large_zstd_windows_are_not_supported() {
        let encode = |log| {
            let mut to = zstd::Encoder::new(Vec::new(), 1).unwrap();
            to.window_log(log).unwrap();
            to.write_all(b"hello").unwrap();
            to.finish().unwrap()
        };
        let hello = Ok(Some(b"hello".to_vec()));
        assert_eq!(decode("zstd", &encode(ZSTD_WINDOW_LOG), 100), hello);
        let result = decode("zstd", &encode(ZSTD_WINDOW_LOG + 1), 100);
        assert!(
            matches!(&result, Err(DecodeError::Unsupported(what)) if what.contains("zstd")),
            "{result:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn round_trips(plain in prop::collection::vec(any::<u8>(), 0..2000)) {
            for coding in CODINGS {
                let encoded = encode(coding, &plain);
                let decoded = decode(header(coding), &encoded, plain.len());
                prop_assert_eq!(decoded, Ok(Some(plain.clone())), "{}", coding);
            }
        }

        #[test]
        fn noise_never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for coding in CODINGS {
                let _ = decode(header(coding), &body, 1000);
            }
        }
    }
}
