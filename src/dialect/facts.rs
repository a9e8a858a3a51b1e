//! One pass over a request body, steered by a table of what its API has where.

use std::ops::Range;

use super::json::{Cursor, Invalid};
use super::{DialectError, RequestFacts};

/// What an API's request body looks like.
pub(super) struct Shape {
    /// The fields that make up the prompt.
    pub(super) prompt: &'static [(&'static str, Read)],
    /// The fields of which one must be there for the request to make sense, and the error when none is.
    pub(super) required: Option<(&'static [&'static str], &'static str)>,
    /// The fields that limit output tokens; the first that is given wins.
    pub(super) max_tokens: &'static [&'static str],
    /// The field that limits output tokens inside `sampling_params`.
    pub(super) sampled_max_tokens: Option<&'static str>,
    /// The field that names an adapter.
    pub(super) lora: Option<&'static str>,
}

/// How a field gives prompt.
#[derive(Clone, Copy)]
pub(super) enum Read {
    /// A string.
    Text,
    /// Any value, as it stands.
    Raw,
    /// A string, or content parts.
    Content,
    /// A list of messages.
    Messages,
    /// A string, or a list of messages.
    Items,
    /// One prompt or many, each a string or token ids.
    Prompt,
    /// Token ids.
    Tokens,
    /// Any value that is not null or empty: it stands for a prompt that cannot be read here.
    Elsewhere,
}

/// A message of any dialect; a Responses API item is one too.
const MESSAGE: &[(&str, Read)] = &[
    ("role", Read::Text),
    ("content", Read::Content),
    ("tool_calls", Read::Raw),
    ("arguments", Read::Text),
    ("output", Read::Content),
];

/// A content part of any dialect: text, an Anthropic tool use (`input`) or tool result (`content`).
/// Images and sound are left out: their encoded bytes say nothing of the tokens they take. A static, because parts are
/// known by their table.
static PART: &[(&str, Read)] = &[
    ("text", Read::Text),
    ("input", Read::Raw),
    ("content", Read::Content),
];

/// What a content part holds instead of text, named as OpenAI's chat format and vLLM name it. The name of the field
/// says as much as the part's `type` does, and model servers read a part without a `type` too.
const MEDIA: [&str; 4] = ["image_url", "audio_url", "video_url", "input_audio"];

/// What else stands for content that is not in the body as text: Anthropic's images and documents, OpenAI's files.
const ATTACHED: [&str; 5] = ["source", "file", "file_data", "file_id", "file_url"];

/// By which a client keeps its part of the servers' prefix caches apart: vLLM's, and SGLang's.
const SALTS: [&str; 2] = ["cache_salt", "extra_key"];

/// No table of prompt fields is longer.
const MAX_FIELDS: usize = 6;

/// Most prompt ranges that are kept, at 16 bytes each: a list of one-letter prompts has one for every four bytes.
const MAX_RANGES: usize = 64 << 10;

/// Prompt ranges in document order. A range that a duplicate key made void is left empty until the end,
/// so that duplicates cost linear time.
#[derive(Default)]
struct Ranges {
    kept: Vec<Range<usize>>,
    /// Bytes of the ranges past `MAX_RANGES`.
    more: usize,
    /// Content parts that are no text and that an encoder reads.
    media: usize,
    /// The values of all content parts that are no text, at most [`MAX_RANGES`].
    attached: Vec<Range<usize>>,
}

/// What one field added to the ranges.
struct Added {
    ranges: Range<usize>,
    more: usize,
    media: usize,
    attached: Range<usize>,
}

/// The prompt fields of one object, and where the ranges of each stand.
struct Fields {
    table: &'static [(&'static str, Read)],
    /// Which ranges each field gave, and whether its value was usable.
    seen: [Option<(Added, bool)>; MAX_FIELDS],
}

/// Reads a request body of the given shape.
pub(super) fn read(shape: &Shape, body: &[u8]) -> Result<RequestFacts, DialectError> {
    let text = std::str::from_utf8(body).map_err(|error| Invalid {
        what: "invalid UTF-8",
        at: error.valid_up_to(),
    })?;
    let mut facts = RequestFacts::default();
    let mut ranges = Ranges::default();
    let mut fields = Fields::new(shape.prompt);
    let mut limits = [None; 2];
    let mut sampled_limit = None;
    let mut cursor = Cursor::behind_mark(text);
    cursor.object(|cursor, key| match key {
        "model" => {
            cursor.peek()?;
            let start = cursor.at();
            let name = cursor.string()?;
            facts.model_span = Some(start..cursor.at());
            facts.model = name
                .map(|name| cursor.decode(&name).into_owned())
                .filter(|name| !name.is_empty());
            Ok(())
        }
        "stream" => {
            facts.stream = cursor.raw()? == "true";
            Ok(())
        }
        "sampling_params" if shape.sampled_max_tokens.is_some() => {
            sampled_limit = None;
            if cursor.peek()? != b'{' {
                return cursor.skip().map(drop);
            }
            cursor.object(|cursor, key| {
                let value = cursor.raw()?;
                if Some(key) == shape.sampled_max_tokens {
                    sampled_limit = value.parse().ok();
                }
                Ok(())
            })
        }
        key if SALTS.contains(&key) => {
            let salt = cursor.string()?;
            facts.cache_salt = salt.map(|salt| cursor.decode(&salt).into_owned());
            Ok(())
        }
        key if Some(key) == shape.lora => {
            let name = cursor.string()?;
            facts.lora = name.map(|name| cursor.decode(&name).into_owned());
            Ok(())
        }
        key => match shape.max_tokens.iter().position(|field| *field == key) {
            Some(rank) => {
                limits[rank] = cursor.raw()?.parse().ok();
                Ok(())
            }
            None => fields.member(cursor, key, &mut ranges),
        },
    })?;
    cursor.finish()?;
    if let Some((any, error)) = shape.required
        && !any.iter().any(|field| fields.usable(field))
    {
        return Err(DialectError(error.to_owned()));
    }
    let elsewhere =
        |(name, read): &(&str, Read)| matches!(read, Read::Elsewhere) && fields.usable(name);
    facts.continues = shape.prompt.iter().any(elsewhere);
    facts.max_tokens = limits.into_iter().flatten().next().or(sampled_limit);
    facts.prompt = ranges.kept;
    facts.prompt.retain(|range| !range.is_empty());
    let kept: usize = facts.prompt.iter().map(ExactSizeIterator::len).sum();
    facts.prompt_bytes = kept + ranges.more;
    facts.multimodal = ranges.media > 0;
    facts.attached = ranges.attached;
    facts.attached.retain(|range| !range.is_empty());
    Ok(facts)
}

// === impl DialectError ===

impl From<Invalid> for DialectError {
    fn from(Invalid { what, at }: Invalid) -> Self {
        Self(format!(
            "error unmarshaling request bodyMap: {what} at byte {at}"
        ))
    }
}

// === impl Fields ===

impl Fields {
    fn new(table: &'static [(&'static str, Read)]) -> Self {
        debug_assert!(table.len() <= MAX_FIELDS);
        Self {
            table,
            seen: Default::default(),
        }
    }

    /// Reads the value of `key`: into the prompt if the table has it, past it if not.
    fn member(
        &mut self,
        cursor: &mut Cursor<'_>,
        key: &str,
        ranges: &mut Ranges,
    ) -> Result<(), Invalid> {
        let Some(index) = self.table.iter().position(|(field, _)| *field == key) else {
            if !std::ptr::eq(self.table, PART) {
                return cursor.skip().map(drop);
            }
            let encoded = MEDIA.contains(&key);
            let some = cursor.peek()? != b'n';
            let value = cursor.skip()?;
            ranges.media += usize::from(encoded && some);
            if some && (encoded || ATTACHED.contains(&key)) && ranges.attached.len() < MAX_RANGES {
                ranges.attached.push(value);
            }
            return Ok(());
        };
        // Of duplicate keys the last one counts, as in the parsers of the model servers.
        if let Some((void, _)) = self.seen[index].take() {
            ranges.forget(void);
        }
        let (first, more, media) = (ranges.kept.len(), ranges.more, ranges.media);
        let attached = ranges.attached.len();
        let usable = self.table[index].1.value(cursor, ranges)?;
        let added = Added {
            ranges: first..ranges.kept.len(),
            more: ranges.more - more,
            media: ranges.media - media,
            attached: attached..ranges.attached.len(),
        };
        self.seen[index] = Some((added, usable));
        Ok(())
    }

    fn usable(&self, field: &str) -> bool {
        let mut fields = self.table.iter().zip(&self.seen);
        fields.any(|((name, _), seen)| *name == field && matches!(seen, Some((_, true))))
    }
}

// === impl Read ===

impl Read {
    /// Reads one value. `true`: it is of the right kind and not empty.
    fn value(self, cursor: &mut Cursor<'_>, ranges: &mut Ranges) -> Result<bool, Invalid> {
        match (self, cursor.peek()?) {
            (Read::Raw, b'[' | b'{' | b'"') => {
                let span = cursor.skip()?;
                ranges.push(span);
                Ok(true)
            }
            (Read::Text | Read::Content | Read::Items | Read::Prompt, b'"') => {
                ranges.text(cursor).map(|text| text || self.may_be_empty())
            }
            (Read::Content, b'{') => ranges.fields(cursor, PART).map(|()| true),
            (Read::Content, b'[') => ranges.each(cursor, PART).map(|list| list.len > 0),
            (Read::Messages, b'[') => ranges
                .each(cursor, MESSAGE)
                .map(|list| list.len > 0 && list.all_objects),
            (Read::Items, b'[') => ranges.each(cursor, MESSAGE).map(|_| true),
            (Read::Prompt, b'[') => ranges.prompts(cursor),
            (Read::Tokens, b'[') => ranges.tokens(cursor),
            (Read::Elsewhere, b'[') => {
                let some = cursor.peek_into_array()? != b']';
                cursor.skip().map(|_| some)
            }
            (Read::Elsewhere, b'"') => Ok(cursor.string()?.is_some_and(|text| !text.is_empty())),
            (Read::Elsewhere, b'{') => cursor.skip().map(|_| true),
            (_, first) => {
                cursor.skip()?;
                // A Responses API server may take shapes that we do not know: only null is nothing.
                Ok(self.may_be_empty() && first != b'n')
            }
        }
    }

    fn may_be_empty(self) -> bool {
        matches!(self, Read::Items)
    }
}

/// Takes back what stands at `ranges`: without moving what stands after it.
fn void(all: &mut Vec<Range<usize>>, ranges: Range<usize>) {
    // What added nothing may stand where something has been forgotten since.
    if ranges.is_empty() {
        return;
    }
    if ranges.end == all.len() {
        all.truncate(ranges.start);
    } else {
        all[ranges].fill(0..0);
    }
}

/// What a list was made of.
struct List {
    len: usize,
    all_objects: bool,
}

// === impl Ranges ===

impl Ranges {
    fn push(&mut self, range: Range<usize>) {
        if self.kept.len() < MAX_RANGES {
            self.kept.push(range);
        } else {
            self.more += range.len();
        }
    }

    /// What a field added does not count after all.
    fn forget(
        &mut self,
        Added {
            ranges,
            more,
            media,
            attached,
        }: Added,
    ) {
        self.more -= more;
        self.media -= media;
        void(&mut self.kept, ranges);
        void(&mut self.attached, attached);
    }

    /// A string, or nothing. `true`: it was a string, and not an empty one.
    fn text(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Invalid> {
        let content = cursor.string()?.map(|text| text.content);
        let content = content.filter(|content| !content.is_empty());
        let found = content.is_some();
        if let Some(content) = content {
            self.push(content);
        }
        Ok(found)
    }

    fn fields(
        &mut self,
        cursor: &mut Cursor<'_>,
        table: &'static [(&'static str, Read)],
    ) -> Result<(), Invalid> {
        let mut fields = Fields::new(table);
        cursor.object(|cursor, key| fields.member(cursor, key, self))
    }

    /// A list of objects with the fields of `table`; a string among them is text.
    fn each(
        &mut self,
        cursor: &mut Cursor<'_>,
        table: &'static [(&'static str, Read)],
    ) -> Result<List, Invalid> {
        let mut list = List {
            len: 0,
            all_objects: true,
        };
        cursor.array(|cursor| {
            list.len += 1;
            if cursor.peek()? == b'{' {
                return self.fields(cursor, table);
            }
            list.all_objects = false;
            self.text(cursor).map(drop)
        })?;
        Ok(list)
    }

    /// A list of strings, a list of token ids, or a list of such lists.
    fn prompts(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Invalid> {
        if !matches!(cursor.peek_into_array()?, b'"' | b'[') {
            return self.tokens(cursor);
        }
        cursor.array(|cursor| match cursor.peek()? {
            b'[' => self.tokens(cursor).map(drop),
            _ => self.text(cursor).map(drop),
        })?;
        Ok(true)
    }

    fn tokens(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Invalid> {
        let some = cursor.peek_into_array()? != b']';
        let span = cursor.skip()?;
        if some {
            self.push(span);
        }
        Ok(some)
    }
}
