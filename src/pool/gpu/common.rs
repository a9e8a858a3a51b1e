//! What endpoints lose together.

use super::super::Snapshot;

/// How much two endpoints have in common, and so may lose together: the more, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Common {
    /// Nothing that is known.
    Nothing,
    /// The node.
    Node,
    /// A board, directly or over others.
    Board,
    /// Everything: it is the same endpoint.
    Endpoint,
}

// === impl Common ===

impl Common {
    /// What the endpoints at `a` and `b` have in common.
    pub fn of(snapshot: &Snapshot, a: u32, b: u32) -> Self {
        if a == b {
            return Self::Endpoint;
        }
        let ((s, i), (t, j)) = (snapshot.cell(a), snapshot.cell(b));
        let (of_a, of_b) = (&s.gpu_cells, &t.gpu_cells);
        let same = |a: u32, b: u32| a != 0 && a == b;
        if same(of_a.domain(i), of_b.domain(j)) {
            Self::Board
        } else if same(of_a.node(i), of_b.node(j)) {
            Self::Node
        } else {
            Self::Nothing
        }
    }

    /// The most that the endpoint at `a` has in common with one of `others`.
    pub fn most<'a>(
        snapshot: &Snapshot,
        a: u32,
        others: impl IntoIterator<Item = &'a u32>,
    ) -> Self {
        let each = others.into_iter().map(|&b| Self::of(snapshot, a, b));
        each.max().unwrap_or(Self::Nothing)
    }

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Node => "node",
            Self::Board => "board",
            Self::Endpoint => "endpoint",
        }
    }
}
