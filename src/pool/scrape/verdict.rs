//! What is wrong with a metrics page on which nothing is known: judged by how it begins, so that good pages cost nothing.

use super::super::failure::Fault;

/// Bytes of the beginning that are looked at.
const HEAD: usize = 256;

/// The beginning of a page.
pub(in crate::pool) struct Head {
    bytes: [u8; HEAD],
    length: usize,
}

// === impl Head ===

impl Head {
    pub(in crate::pool) fn new() -> Self {
        Self {
            bytes: [0; HEAD],
            length: 0,
        }
    }

    /// More of the page; blank lines before its first line do not count.
    pub(in crate::pool) fn feed(&mut self, mut data: &[u8]) {
        if self.length == HEAD {
            return;
        }
        if self.length == 0 {
            data = data.trim_ascii_start();
        }
        let room = &mut self.bytes[self.length..];
        let taken = room.len().min(data.len());
        room[..taken].copy_from_slice(&data[..taken]);
        self.length += taken;
    }

    /// What is wrong with a page that begins so and says nothing, and in words.
    pub(in crate::pool) fn verdict(&self) -> (Fault, &'static str) {
        match &self.bytes[..self.length] {
            [] => (Fault::Empty, "the page is empty"),
            head if is_metrics(head) => (
                Fault::Missing,
                "nothing known on the page: is it the right engine, and the right path?",
            ),
            _ => (
                Fault::Malformed,
                "the page is no page of metrics: is it the right port, and the right path?",
            ),
        }
    }
}

/// Whether the first line, which may be cut off, is one of Prometheus' text format: a comment, or a name, perhaps labels, and a
/// number.
fn is_metrics(head: &[u8]) -> bool {
    if head[0] == b'#' {
        return true;
    }
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let is_name = |&byte: &u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    let name = line.iter().take_while(|byte| is_name(byte)).count();
    if name == 0 || line[0].is_ascii_digit() {
        return false;
    }
    match line[name..].trim_ascii() {
        [b'{', ..] => true,
        // It is the end of what was kept.
        [] => line.len() == HEAD,
        value => {
            let value = value.split(u8::is_ascii_whitespace).next();
            let value = value.and_then(|value| std::str::from_utf8(value).ok());
            value.is_some_and(|value| value.parse::<f64>().is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_anything_known_is_judged_by_its_beginning() {
        let long = format!("{} 1\n", "x".repeat(HEAD));
        for (page, expected) in [
            ("", Fault::Empty),
            ("\n \r\n", Fault::Empty),
            ("# HELP a b\na 1\n", Fault::Missing),
            ("\n\nold_name{a=\"b\"} 1\n", Fault::Missing),
            ("old:name 1.5e3 1700000000\n", Fault::Missing),
            ("x NaN", Fault::Missing),
            (&long, Fault::Missing),
            ("<html>", Fault::Malformed),
            ("{\"data\": []}", Fault::Malformed),
            ("not found", Fault::Malformed),
            ("name\n", Fault::Malformed),
            ("404 1\n", Fault::Malformed),
            ("\u{fffd}\u{0}", Fault::Malformed),
        ] {
            for pieces in [1, 3, 1000] {
                let mut head = Head::new();
                page.as_bytes()
                    .chunks(pieces)
                    .for_each(|data| head.feed(data));
                assert_eq!(head.verdict().0, expected, "{page:?} by {pieces}");
            }
        }
    }
}
