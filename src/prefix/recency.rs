//! Who used what when: the order in which blocks are evicted.
//!
//! A span is a stretch of one run that one endpoint holds and whose blocks were last used together. The spans of an endpoint
//! in one run follow each other: the deeper, the longer ago, because whoever uses a block uses all before it. Each span
//! is in two lists, one of its endpoint and one of all, the most recently used first; of one use, the
//! shallower first. So the last of a list is a leaf, always.

/// No span.
pub(super) const NONE: u32 = u32::MAX;

/// A span: blocks from the end of the span above it (else the run's first) to `end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) run: u32,
    pub(super) endpoint: u32,
    /// Blocks of the run up to where the span ends.
    pub(super) end: u32,
    /// The span before it in the same run.
    pub(super) up: u32,
    own: Link,
    all: Link,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    newer: u32,
    older: u32,
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    newest: u32,
    oldest: u32,
}

/// What one endpoint has.
#[derive(Clone, Copy, Debug)]
struct Owner {
    spans: Ends,
    blocks: u32,
}

/// The spans of all endpoints.
#[derive(Debug)]
pub(super) struct Recency {
    spans: Vec<Span>,
    /// Span numbers to be used again.
    free: Vec<u32>,
    owners: Vec<Owner>,
    all: Ends,
    blocks: u64,
}

// === impl Link, Ends ===

impl Link {
    const LOOSE: Self = Self {
        newer: NONE,
        older: NONE,
    };
}

impl Ends {
    const EMPTY: Self = Self {
        newest: NONE,
        oldest: NONE,
    };
}

/// Takes a span out of the list that `link` is the links of.
fn unlink(spans: &mut [Span], ends: &mut Ends, span: u32, link: fn(&mut Span) -> &mut Link) {
    let Link { newer, older } = *link(&mut spans[span as usize]);
    match newer {
        NONE => ends.newest = older,
        newer => link(&mut spans[newer as usize]).older = older,
    }
    match older {
        NONE => ends.oldest = newer,
        older => link(&mut spans[older as usize]).newer = newer,
    }
}

/// Puts a span at the front of the list that `link` is the links of.
fn push(spans: &mut [Span], ends: &mut Ends, span: u32, link: fn(&mut Span) -> &mut Link) {
    let older = std::mem::replace(&mut ends.newest, span);
    *link(&mut spans[span as usize]) = Link { newer: NONE, older };
    match older {
        NONE => ends.oldest = span,
        older => link(&mut spans[older as usize]).newer = span,
    }
}

// === impl Recency ===

impl Recency {
    pub(super) fn new() -> Self {
        Self {
            spans: Vec::new(),
            free: Vec::new(),
            owners: Vec::new(),
            all: Ends::EMPTY,
            blocks: 0,
        }
    }

    /// Makes room for an endpoint.
    pub(super) fn admit(&mut self, endpoint: u32) {
        if endpoint as usize >= self.owners.len() {
            let nothing = Owner {
                spans: Ends::EMPTY,
                blocks: 0,
            };
            self.owners.resize(endpoint as usize + 1, nothing);
        }
    }

    pub(super) fn span(&self, span: u32) -> Span {
        self.spans[span as usize]
    }

    /// Where a span starts in its run.
    pub(super) fn start(&self, span: u32) -> u32 {
        match self.spans[span as usize].up {
            NONE => 0,
            up => self.spans[up as usize].end,
        }
    }

    pub(super) fn set_end(&mut self, span: u32, end: u32) {
        self.spans[span as usize].end = end;
    }

    pub(super) fn set_up(&mut self, span: u32, up: u32) {
        self.spans[span as usize].up = up;
    }

    /// A span from the start of a run to `end`: the most recent one.
    pub(super) fn add(&mut self, run: u32, endpoint: u32, end: u32) -> u32 {
        let span = Span {
            run,
            endpoint,
            end,
            up: NONE,
            own: Link::LOOSE,
            all: Link::LOOSE,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.spans[number as usize] = span;
                number
            }
            None => {
                // By eighths: the room is counted against the budget.
                if self.spans.len() == self.spans.capacity() {
                    self.spans.reserve_exact((self.spans.len() / 8).max(64));
                }
                self.spans.push(span);
                self.spans.len() as u32 - 1
            }
        };
        self.link(number);
        number
    }

    /// It was used, more recently than anything else.
    pub(super) fn touch(&mut self, span: u32) {
        self.unlink(span);
        self.link(span);
    }

    /// The span is no more.
    pub(super) fn drop_span(&mut self, span: u32) {
        self.unlink(span);
        self.free.push(span);
    }

    /// The spans above one are no more: it takes their place.
    pub(super) fn absorb(&mut self, span: u32) {
        let mut up = std::mem::replace(&mut self.spans[span as usize].up, NONE);
        while up != NONE {
            let next = self.spans[up as usize].up;
            self.drop_span(up);
            up = next;
        }
    }

    /// Blocks were added.
    pub(super) fn gained(&mut self, endpoint: u32, blocks: u32) {
        self.owners[endpoint as usize].blocks += blocks;
        self.blocks += u64::from(blocks);
    }

    /// Blocks were evicted.
    pub(super) fn lost(&mut self, endpoint: u32, blocks: u32) {
        self.owners[endpoint as usize].blocks -= blocks;
        self.blocks -= u64::from(blocks);
    }

    /// The span that an endpoint is to lose first.
    pub(super) fn oldest_of(&self, endpoint: u32) -> Option<u32> {
        let oldest = self.owners.get(endpoint as usize)?.spans.oldest;
        (oldest != NONE).then_some(oldest)
    }

    /// The span that is to go first of all.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.all.oldest != NONE).then_some(self.all.oldest)
    }

    /// Blocks that an endpoint has.
    pub(super) fn blocks_of(&self, endpoint: u32) -> u32 {
        self.owners.get(endpoint as usize).map_or(0, |it| it.blocks)
    }

    /// Blocks that all endpoints have, each counted for each.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
            + self.free.capacity() * size_of::<u32>()
            + self.owners.capacity() * size_of::<Owner>()
    }

    fn link(&mut self, span: u32) {
        let owner = self.spans[span as usize].endpoint as usize;
        let own = &mut self.owners[owner].spans;
        push(&mut self.spans, own, span, |it| &mut it.own);
        push(&mut self.spans, &mut self.all, span, |it| &mut it.all);
    }

    fn unlink(&mut self, span: u32) {
        let owner = self.spans[span as usize].endpoint as usize;
        let own = &mut self.owners[owner].spans;
        unlink(&mut self.spans, own, span, |it| &mut it.own);
        unlink(&mut self.spans, &mut self.all, span, |it| &mut it.all);
    }

    /// Panics if the lists do not have `spans` spans, or the endpoints other `blocks`.
    #[cfg(test)]
    pub(super) fn check(&self, spans: usize, blocks: &std::collections::BTreeMap<u32, u32>) {
        let walk = |mut span: u32, older: fn(&Span) -> u32| {
            std::iter::from_fn(move || {
                let it = (span != NONE).then(|| self.span(span))?;
                span = older(&it);
                Some(it)
            })
        };
        assert_eq!(walk(self.all.newest, |it| it.all.older).count(), spans);
        assert_eq!(self.spans.len() - self.free.len(), spans);
        let owned = |owner: &Owner| walk(owner.spans.newest, |it| it.own.older).count();
        assert_eq!(self.owners.iter().map(owned).sum::<usize>(), spans);
        for (endpoint, owner) in self.owners.iter().enumerate() {
            let expected = blocks.get(&(endpoint as u32)).copied().unwrap_or_default();
            assert_eq!(owner.blocks, expected);
        }
        assert_eq!(
            blocks.values().map(|it| u64::from(*it)).sum::<u64>(),
            self.blocks
        );
    }
}
