//! Lets calls in that are addressed to the name of a cluster.
//!
//! Where its configuration names no `authority`, Envoy puts the name of the cluster into `:authority`, and Istio (and Higress
//! with it) calls clusters `outbound|9002||llama-epp.models.svc.cluster.local`. No URI may have `|` there, so our HTTP/2
//! library resets such a stream as malformed, where the libraries of Go and C++ take it. So here, between the socket and that
//! library, `|` becomes `+` and `/` becomes `-` in the `:authority` of requests: characters that a URI may have, and as
//! long, as bytes and in HPACK's Huffman code (RFC 7541, appendix B). Nothing that counts bytes notices: no length changes,
//! neither of a frame nor of an entry of the table that both ends keep.
//!
//! It sees frames (RFC 9113, section 4.1) pass by and looks into HEADERS alone. A frame of those that has not come whole is held
//! back until it has.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// What begins a connection: it is no frame.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Bytes of frames that are looked into: other ones pass as they are. Headers of ext_proc streams take some hundred.
const LARGEST: usize = 16 << 10;

/// Where in a connection its reader is.
#[derive(Debug)]
pub(super) struct Authorities {
    /// What passes without being looked at.
    skip: usize,
    /// The beginning of a frame that has not come whole, or what could not be handed on yet.
    held: Vec<u8>,
    /// How much of that may be handed on, and how much was.
    whole: usize,
    given: usize,
}

// === impl Authorities ===

impl Default for Authorities {
    fn default() -> Self {
        Self {
            skip: PREFACE,
            held: Vec::new(),
            whole: 0,
            given: 0,
        }
    }
}

impl Authorities {
    /// Reads from `stream`.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.given < self.whole {
                let fits = buf.remaining().min(self.whole - self.given);
                buf.put_slice(&self.held[self.given..self.given + fits]);
                self.given += fits;
                if self.given == self.whole {
                    self.held.drain(..self.whole);
                    (self.whole, self.given) = (0, 0);
                }
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let before = buf.filled().len();
                ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
                let read = &mut buf.filled_mut()[before..];
                let end = read.is_empty();
                let whole = self.pass(read);
                self.held.extend_from_slice(&read[whole..]);
                buf.set_filled(before + whole);
                if whole > 0 || end {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut more = [0; 4096];
                let mut more = ReadBuf::new(&mut more);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut more))?;
                let mut held = std::mem::take(&mut self.held);
                held.extend_from_slice(more.filled());
                // What has no end that comes is for the library to complain about.
                let end = more.filled().is_empty();
                self.whole = if end {
                    held.len()
                } else {
                    self.pass(&mut held)
                };
                self.held = held;
                if end && self.whole == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Looks at `bytes`, and returns how many of them may be handed on; from there on a frame is not whole.
    fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            let Some(header) = bytes[at..].first_chunk::<FRAME_HEADER>() else {
                return at;
            };
            let [a, b, c, kind, flags, ..] = *header;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == HEADERS && length <= LARGEST {
                let Some(frame) = bytes[at..].get_mut(..FRAME_HEADER + length) else {
                    return at;
                };
                mend(&mut frame[FRAME_HEADER..], flags);
            }
            self.skip = FRAME_HEADER + length;
        }
    }
}

/// Mends the `:authority` in the payload of a HEADERS frame, if it tells one by its letters.
fn mend(payload: &mut [u8], flags: u8) {
    let padded = usize::from(flags & PADDED != 0);
    let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
    let padding = if padded > 0 {
        payload.first().copied().unwrap_or(0)
    } else {
        0
    };
    let end = payload.len().saturating_sub(padding.into());
    if let Some(block) = payload.get_mut(padded + priority..end) {
        // What cannot be read is for the library to complain about.
        let _ = mend_block(block);
    }
}

/// Walks the representations of a header block (RFC 7541, section 6). `None`: it ends early.
fn mend_block(block: &mut [u8]) -> Option<()> {
    /// The place of `:authority` in the static table.
    const AUTHORITY: usize = 1;
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        if first & 0x80 != 0 {
            // An indexed field.
            integer(block, &mut at, 7)?;
            continue;
        }
        if first & 0xe0 == 0x20 {
            // A new size of the table.
            integer(block, &mut at, 5)?;
            continue;
        }
        // A literal, with indexing or without.
        let name = integer(block, &mut at, if first & 0x40 != 0 { 6 } else { 4 })?;
        if name == 0 {
            let (from, length, _) = string(block, &mut at)?;
            at = from + length;
        }
        let (from, length, huffman) = string(block, &mut at)?;
        at = from + length;
        let value = block.get_mut(from..at)?;
        match (name, huffman) {
            (AUTHORITY, true) => mend_huffman(value),
            (AUTHORITY, false) => mend_plain(value),
            _ => {}
        }
    }
    Some(())
}

/// Where a string begins, its bytes, and whether it is in Huffman code. `at` ends up at its beginning.
fn string(block: &[u8], at: &mut usize) -> Option<(usize, usize, bool)> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    (length <= block.len()).then_some((*at, length, huffman))
}

/// An integer whose first byte has `bits` bits of it (RFC 7541, section 5.1).
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    // Longer than any frame that is looked into.
    None
}

fn mend_plain(value: &mut [u8]) {
    for byte in value {
        match *byte {
            b'|' => *byte = b'+',
            b'/' => *byte = b'-',
            _ => {}
        }
    }
}

/// The same in Huffman code, where `|` and `+` take 11 bits, `/` and `-` take 6.
fn mend_huffman(value: &mut [u8]) {
    /// How long a code is, by the least number that its first 15 bits are below. Longer ones are of no letter that a name has.
    const LENGTHS: [(u32, usize); 9] = [
        (0x0a << 10, 5),
        (0x2e << 9, 6),
        (0x7c << 8, 7),
        (0xfe << 7, 8),
        (0x3fd << 5, 10),
        (0x7fd << 4, 11),
        (0xffc << 3, 12),
        (0x1ffe << 2, 13),
        (0x3ffe << 1, 14),
    ];
    let bits = value.len() * 8;
    let mut at = 0;
    loop {
        // Past the end there are ones, which no short code is.
        let window = (0..3).fold(0, |window, i| {
            window << 8 | u32::from(*value.get(at / 8 + i).unwrap_or(&0xff))
        });
        let next = window >> (9 - at % 8) & 0x7fff;
        let Some((_, length)) = LENGTHS.iter().find(|(below, _)| next < *below) else {
            return;
        };
        if at + length > bits {
            return;
        }
        let changed = match (length, next >> (15 - length)) {
            (11, 0x7fc) => 0x7fc ^ 0x7fb,
            (6, 0x18) => 0x18 ^ 0x16,
            _ => 0,
        };
        at += length;
        for bit in 0..*length {
            let place = at - 1 - bit;
            value[place / 8] ^= ((changed >> bit & 1) as u8) << (7 - place % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// What is left to read, in pieces of so many bytes at most.
    struct Pieces<'a>(&'a [u8], usize);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let (piece, rest) = self
                .0
                .split_at(self.0.len().min(self.1).min(buf.remaining()));
            buf.put_slice(piece);
            self.0 = rest;
            Poll::Ready(Ok(()))
        }
    }

    struct Reader<'a>(Pieces<'a>, Authorities);

    impl AsyncRead for Reader<'_> {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self(stream, authorities) = self.get_mut();
            authorities.poll_read(stream, cx, buf)
        }
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    #[test]
    fn names_of_clusters_become_such_as_a_uri_may_have() {
        // `a|b`, and the RFC's own `www.example.com`, C.4.1, with a `/` and a `|` around it.
        let mut value = [0x1f, 0xfc, 0x8f];
        mend_huffman(&mut value);
        assert_eq!(value, [0x1f, 0xfb, 0x8f]);
        let rfc = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        let mut value = rfc;
        mend_huffman(&mut value);
        assert_eq!(value, rfc);
        // `/` `a` `/` `/`: 011000 00011 011000 011000, and ones.
        let mut value = [0b0110_0000, 0b0110_1100, 0b0011_0001];
        mend_huffman(&mut value);
        assert_eq!(value, [0b0101_1000, 0b0110_1011, 0b0010_1101]);
        let mut value = *b"a|b/c";
        mend_plain(&mut value);
        assert_eq!(&value, b"a+b-c");
    }

    #[test]
    fn only_the_authority_is_mended() {
        let literal = |first: &[u8], value: &[u8]| {
            let mut field = first.to_vec();
            field.push(value.len() as u8);
            field.extend(value);
            field
        };
        // `:method: POST`, `:path`, a size, `:authority`, one without indexing, a name by its letters.
        let block = |authority: &[u8]| {
            let fields = [
                vec![0x83],
                literal(&[0x44], b"/a|b"),
                vec![0x3f, 0xe1, 0x1f],
                literal(&[0x41], authority),
                literal(&[0x01], authority),
                literal(&[0x40, 0x02, b'x', b'|'], b"/|"),
            ];
            fields.concat()
        };
        let mut got = block(b"outbound|9002||a.b");
        assert_eq!(mend_block(&mut got), Some(()));
        assert_eq!(got, block(b"outbound+9002++a.b"));
        let mut cut = block(b"outbound|9002||a.b");
        cut.truncate(20);
        assert_eq!(mend_block(&mut cut), None);
        let mut padded = [&[2, 0, 0, 0, 0, 0], &literal(&[0x41], b"|")[..], b"||"].concat();
        mend(&mut padded, PADDED | PRIORITY);
        let expected = [&[2, 0, 0, 0, 0, 0], &literal(&[0x41], b"+")[..], b"||"].concat();
        assert_eq!(padded, expected);
    }

    /// What is read of `sent`, that comes in pieces of `cut` bytes, with room for so many at a time.
    fn read(sent: &[u8], cut: usize, room: usize) -> Vec<u8> {
        let mut reader = Reader(Pieces(sent, cut), Authorities::default());
        let mut got = Vec::new();
        let mut buffer = vec![0; room];
        while let Some(Ok(read @ 1..)) = reader.read(&mut buffer).now_or_never() {
            got.extend_from_slice(&buffer[..read]);
        }
        got
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_whatever_comes(
            frames in proptest::collection::vec((0..3u8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..6),
            rest in proptest::collection::vec(any::<u8>(), 0..40),
            cut in 1..50usize,
        ) {
            let mut sent = vec![b'x'; PREFACE];
            for (kind, flags, payload) in &frames {
                sent.extend(frame(*kind, *flags, payload));
            }
            sent.extend(rest);
            let got = read(&sent, cut, 16);
            prop_assert_eq!(got.len(), sent.len());
            // What was mended once stays.
            prop_assert_eq!(read(&got, cut, 16), got);
        }
    }

    #[test]
    fn frames_pass_however_they_are_cut() {
        let connection = |authority: &[u8]| {
            let headers = [&[0x41, authority.len() as u8], authority].concat();
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(frame(4, 0, &[]));
            bytes.extend(frame(HEADERS, 4, &headers));
            bytes.extend(frame(0, 0, b"A\x03a|b"));
            bytes.extend(frame(HEADERS, 4, &headers));
            bytes.extend(frame(HEADERS, 4, &headers)[..12].to_vec());
            bytes
        };
        let (sent, mut expected) = (connection(b"a|b|"), connection(b"a+b+"));
        // The last frame is not whole.
        let end = expected.len() - 3;
        expected[end..].copy_from_slice(&sent[end..]);
        for cut in 1..sent.len() {
            for room in [1, 7, 8192] {
                let got = read(&sent, cut, room);
                assert_eq!(got, expected, "pieces of {cut}, room for {room}");
            }
        }
    }
}
