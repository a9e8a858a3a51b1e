use super::*;

const SMALL: usize = 2;

fn scope() -> Scope<'static> {
    Scope {
        tenant: "t",
        model: "m",
        ..Scope::default()
    }
}

/// The chain of `pieces` in blocks of 8 bytes.
fn chain(pieces: &[&str]) -> Vec<u64> {
    let mut hasher = ChainHasher::new(&scope(), Blocks::of_tokens(SMALL));
    for piece in pieces {
        hasher.next_piece();
        hasher.text(piece.as_bytes());
    }
    hasher.finish()
}

/// The contract, literally: all text in one buffer, cut, hashed.
fn literal(pieces: &[&str], block: usize, root: u64) -> Vec<u64> {
    let text = pieces.iter().map(|piece| piece.as_bytes());
    let text = text.collect::<Vec<_>>().join(&0xFF);
    let hash = |last: &mut u64, block: &[u8]| {
        *last = xxh3_64_with_seed(block, *last);
        Some(*last)
    };
    text.chunks_exact(block).scan(root, hash).collect()
}

#[test]
fn a_chain_is_what_the_contract_says() {
    let root = scope().root(8);
    for pieces in [
        &[][..],
        &[""],
        &["short"],
        &["12345678"],
        &["1234567", "9"],
        &["12345678", "12345678", "", "", "1234567890123456789"],
        &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"],
    ] {
        assert_eq!(chain(pieces), literal(pieces, 8, root), "{pieces:?}");
    }
}

#[test]
fn a_prompt_that_goes_on_keeps_its_chain() {
    for first in ["1234567", "12345678", "123456789", "1234567890123456"] {
        let before = chain(&["user", first]);
        let after = chain(&["user", first, "assistant", "and so on and on"]);
        assert!(after.starts_with(&before), "{first}");
        assert!(after.len() > before.len());
        let longer = chain(&["user", &format!("{first} and more text")]);
        assert!(longer.starts_with(&before), "{first}");
    }
}

#[test]
fn only_full_blocks_count() {
    assert_eq!(chain(&["1234567"]).len(), 0);
    assert_eq!(chain(&["123456789012345"]).len(), 1);
    assert_eq!(chain(&["12345678"]), chain(&["12345678901"]));
}

#[test]
fn boundaries_between_pieces_count() {
    let text = "abcdefghijklmnop";
    assert_ne!(chain(&[text]), chain(&["abc", "defghijklmnop"]));
    assert_ne!(
        chain(&["ab", "cdefghijklmnop"]),
        chain(&["abc", "defghijklmnop"])
    );
    assert_ne!(chain(&["", text]), chain(&[text]));
}

#[test]
fn scopes_share_nothing() {
    let scopes = [
        ("", "", "", ""),
        ("ab", "", "", ""),
        ("", "ab", "", ""),
        ("", "", "ab", ""),
        ("", "", "", "ab"),
        ("a", "b", "", ""),
        ("", "a", "b", ""),
        ("a", "", "b", ""),
    ];
    let mut roots: Vec<_> = scopes
        .iter()
        .flat_map(|&(tenant, model, adapter, cache_salt)| {
            let scope = Scope {
                tenant,
                model,
                adapter,
                cache_salt,
            };
            [scope.root(64), scope.root(256)]
        })
        .collect();
    roots.sort_unstable();
    roots.dedup();
    assert_eq!(roots.len(), 16);
    let mut other = ChainHasher::new(&Scope::default(), Blocks::of_tokens(SMALL));
    other.text(b"12345678");
    assert_ne!(other.finish(), chain(&["12345678"]));
}

#[test]
fn however_the_body_is_cut_the_chain_is_the_same() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"a text of some length"},{"role":"user","content":""}]}"#;
    let facts = crate::dialect::inspect(crate::dialect::Api::ChatCompletions, body.as_bytes());
    let ranges = facts.expect("a good body").prompt;
    let pieces: Vec<_> = ranges.iter().map(|range| &body[range.clone()]).collect();
    let whole = chain(&pieces);
    assert!(whole.len() >= 3);
    for size in 1..body.len() {
        let parts: Vec<_> = body.as_bytes().chunks(size).collect();
        let mut hasher = ChainHasher::new(&scope(), Blocks::of_tokens(SMALL));
        hasher.prompt(&parts, &ranges, &[]);
        assert_eq!(hasher.finish(), whole, "chunks of {size}");
    }
    let mut cut = ChainHasher::new(&scope(), Blocks::of_tokens(SMALL));
    cut.prompt(&[&body[..10]], &ranges, &[]);
    assert!(cut.finish().is_empty());
}

#[test]
fn what_is_attached_stands_where_it_stands_in_the_body() {
    let body = r#"{"messages":[{"role":"user","content":[{"text":"see"},{"image_url":"A"},{"text":"and"},{"image_url":"B"}]}]}"#;
    let facts = crate::dialect::inspect(crate::dialect::Api::ChatCompletions, body.as_bytes());
    let facts = facts.expect("a good body");
    let mut literal = ChainHasher::new(&scope(), Blocks::of_tokens(SMALL));
    for (text, image) in [("user", ""), ("see", "\"A\""), ("and", "\"B\"")] {
        literal.next_piece();
        literal.text(text.as_bytes());
        if !image.is_empty() {
            literal.image(image.as_bytes());
        }
    }
    let literal = literal.finish();
    for size in 1..body.len() {
        let parts: Vec<_> = body.as_bytes().chunks(size).collect();
        let mut hasher = ChainHasher::new(&scope(), Blocks::of_tokens(SMALL));
        hasher.prompt(&parts, &facts.prompt, &facts.attached);
        assert_eq!(hasher.finish(), literal, "chunks of {size}");
    }
}

#[test]
fn an_image_is_one_block_and_closes_the_text_before_it() {
    let with = |before: &str, image: &str, after: &str| {
        let mut hasher = ChainHasher::new(&scope(), Blocks::of_tokens(SMALL));
        hasher.next_piece();
        hasher.text(before.as_bytes());
        hasher.image(image.as_bytes());
        hasher.next_piece();
        hasher.text(after.as_bytes());
        hasher.finish()
    };
    let one = with("see ", "data:image/png;base64,AAAA", "what is it?");
    assert_eq!(one.len(), 2);
    assert_eq!(with("see ", "data:image/png;base64,AAAA", ""), one[..1]);
    let other = with("see ", "data:image/png;base64,AAAB", "what is it?");
    assert!(one.iter().zip(&other).all(|(a, b)| a != b));
    assert_ne!(with("sea ", "data:image/png;base64,AAAA", ""), one[..1]);
    assert_eq!(with("", "https://example.com/a.png", "").len(), 1);
    assert_ne!(with("", "x", "a question?"), with("", "", "xa question?"));
}

#[test]
fn a_chain_is_bounded() {
    let mut hasher = ChainHasher::new(&scope(), Blocks::of_tokens(SMALL).at_most(3));
    hasher.text(&[b'a'; 12]);
    hasher.text(&[b'a'; 1000]);
    assert!(hasher.is_full());
    hasher.image(b"x");
    hasher.next_piece();
    hasher.text(b"more");
    assert_eq!(hasher.finish(), chain(&["a".repeat(24).as_str()]));
    assert_eq!(Blocks::default().max, 2048);
    assert_eq!(Blocks::of_tokens(16).max, 8192);
}

#[test]
fn an_engines_cache_is_counted_in_our_blocks() {
    let blocks = Blocks::default();
    for (kv_blocks, block_tokens, capacity) in [
        (0, 16, None),
        (1000, 0, None),
        (1000, 16, Some(250)),
        (31_250, 64, Some(31_250)),
        (3, 16, Some(0)),
        (u32::MAX, u32::MAX, Some(u32::MAX)),
    ] {
        assert_eq!(blocks.capacity(kv_blocks, block_tokens), capacity);
    }
}
