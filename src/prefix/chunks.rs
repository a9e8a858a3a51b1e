//! An array that grows while it is read: what is in it never moves, so nobody has to wait for anybody.

use std::sync::OnceLock;

/// Items in the first chunk; each next one has twice as many.
const FIRST: usize = 256;

/// Chunks, and so room for 2^32 items.
const CHUNKS: usize = 25;

/// Items by number, made on demand from their default.
pub(super) struct Chunks<T> {
    chunks: [OnceLock<Box<[T]>>; CHUNKS],
}

/// The chunk and the place in it of item `number`.
fn place(number: u32) -> (usize, usize) {
    let shifted = number as usize + FIRST;
    let chunk = (shifted / FIRST).ilog2() as usize;
    (chunk, shifted - (FIRST << chunk))
}

// === impl Chunks ===

impl<T: Default> Chunks<T> {
    pub(super) fn new() -> Self {
        Self {
            chunks: [const { OnceLock::new() }; CHUNKS],
        }
    }

    /// Item `number`, if its chunk was made.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        let (chunk, at) = place(number);
        self.chunks[chunk].get().map(|items| &items[at])
    }

    /// Item `number`.
    pub(super) fn grown(&self, number: u32) -> &T {
        let (chunk, at) = place(number);
        let items =
            self.chunks[chunk].get_or_init(|| (0..FIRST << chunk).map(|_| T::default()).collect());
        &items[at]
    }

    /// Memory of all chunks, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let made = self.chunks.iter().filter_map(OnceLock::get);
        made.map(|items| size_of_val::<[T]>(items)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_own_place() {
        let all: Vec<_> = (0..5_000).map(place).collect();
        for (number, place) in all.iter().enumerate() {
            let next = (place.0, place.1 + 1);
            let following = all.get(number + 1);
            assert!(following.is_none_or(|it| *it == next || *it == (place.0 + 1, 0)));
        }
        assert_eq!(place(255), (0, 255));
        assert_eq!(place(256), (1, 0));
        assert_eq!(place(u32::MAX).0, CHUNKS - 1);
    }

    #[test]
    fn items_stay_and_are_counted() {
        let chunks = Chunks::<u64>::new();
        assert!(chunks.get(300).is_none());
        let item: *const u64 = chunks.grown(300);
        chunks.grown(100_000);
        assert_eq!(chunks.get(300).map(std::ptr::from_ref), Some(item));
        assert!(chunks.get(0).is_none());
        assert!(chunks.bytes() >= 8 * 512);
    }
}
