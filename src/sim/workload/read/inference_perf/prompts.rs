//! What requests ask: the n-th prompt of a file, with its blocks.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

use super::lengths::{Distribution, Length};
use super::spec::{Conversations, Data, SharedPrefix};
use super::{BLOCK, MOST, Wrong, wrong};

const REMEDY: &str = "write data.type shared_prefix, random, synthetic or conversation_replay";

/// Where prompts come from.
pub(super) enum Prompts {
    /// Nothing is shared.
    Random { input: Length, output: Length },
    /// Each prompt comes again and again.
    Shared(Vec<Question>),
    /// Each is a session: its next turn follows on the last.
    Turns(Vec<Question>, Talks),
    /// Sessions that begin anew when their turns are over.
    Conversations(Conversations, Vec<Talk>),
}

/// One prompt of a group.
#[derive(Clone, Copy)]
pub(super) struct Question {
    number: u64,
    group: u64,
    system: u32,
    own: u32,
    output: u32,
}

/// Of each session of a stage, the tokens that were said.
#[derive(Default)]
pub(super) struct Talks {
    stage: u16,
    said: Vec<u32>,
}

/// A conversation.
#[derive(Clone, Copy, Default)]
pub(super) struct Talk {
    /// Which one it is of all, from 1; 0: none has begun.
    number: u64,
    stage: u16,
    turns: u32,
    said: u32,
}

/// A prompt, in blocks of [`BLOCK`] tokens.
pub(super) struct Prompt {
    pub(super) tokens: u32,
    pub(super) output: u32,
    /// Seconds from the answer before.
    pub(super) think: f32,
    /// The stage and the number of its session.
    pub(super) session: Option<(u16, u64)>,
    /// Blocks that are of the group's system prompt, whose number that is.
    shared: u32,
    group: u64,
    /// What names its other blocks; `None`: nobody has them in common.
    own: Option<u64>,
}

/// A session's stages and numbers in one number.
fn of_stage(stage: u16, number: u64) -> u64 {
    u64::from(stage) << 40 | number
}

// === impl Prompts ===

impl Prompts {
    pub(super) fn of(data: &Data, rng: &mut SmallRng) -> Result<Self, Wrong> {
        match (&*data.kind, &data.shared_prefix, &data.conversation_replay) {
            ("shared_prefix", Some(shape), _) => Self::shared(shape, rng),
            ("conversation_replay", _, Some(shape)) => Self::conversations(shape),
            ("random" | "synthetic", ..) => {
                let length = |given: Option<Length>, field| {
                    let length = given.unwrap_or(Length::Drawn(Distribution::default()));
                    length.check(field).map(|()| length)
                };
                Ok(Self::Random {
                    input: length(data.input_distribution, "data.input_distribution")?,
                    output: length(data.output_distribution, "data.output_distribution")?,
                })
            }
            ("shared_prefix" | "conversation_replay", ..) => {
                let kind = &data.kind;
                wrong(
                    format!("data.{kind} is missing"),
                    "write what the prompts are",
                )
            }
            (kind, ..) => wrong(format!("data.type is `{kind}`"), REMEDY),
        }
    }

    fn shared(shape: &SharedPrefix, rng: &mut SmallRng) -> Result<Self, Wrong> {
        let question = shape.question_distribution.unwrap_or(shape.question_len);
        let output = shape.output_distribution.unwrap_or(shape.output_len);
        shape
            .system_prompt_len
            .check("data.shared_prefix.system_prompt_len")?;
        question.check("data.shared_prefix.question_len")?;
        output.check("data.shared_prefix.output_len")?;
        let prompts = f64::from(shape.num_groups) * f64::from(shape.num_prompts_per_group);
        let mut questions = Vec::new();
        if (1.0..=MOST).contains(&prompts) {
            for group in 0..u64::from(shape.num_groups) {
                let system = shape.system_prompt_len.draw(rng);
                for _ in 0..shape.num_prompts_per_group {
                    questions.push(Question {
                        number: questions.len() as u64,
                        group,
                        system,
                        own: question.draw(rng),
                        output: output.draw(rng),
                    });
                }
            }
        }
        let tokens = |q: &Question| f64::from(q.system) + f64::from(q.own);
        let fits = |q: &Question| (1.0..=MOST).contains(&tokens(q));
        if questions.is_empty() || !questions.iter().all(fits) {
            return wrong(
                "data.shared_prefix: there are no prompts, or more than 10 million, or of as many tokens",
                "say how many groups, prompts and tokens",
            );
        }
        questions.shuffle(rng);
        Ok(match shape.enable_multi_turn_chat {
            true => Self::Turns(questions, Talks::default()),
            false => Self::Shared(questions),
        })
    }

    fn conversations(shape: &Conversations) -> Result<Self, Wrong> {
        for (length, field) in [
            (shape.dynamic_system_prompt_len, "dynamic_system_prompt_len"),
            (shape.turns_per_conversation, "turns_per_conversation"),
            (shape.input_tokens_per_turn, "input_tokens_per_turn"),
            (shape.output_tokens_per_turn, "output_tokens_per_turn"),
            (shape.tool_call_latency_sec, "tool_call_latency_sec"),
        ] {
            length.check(&format!("data.conversation_replay.{field}"))?;
        }
        let many = f64::from(shape.num_conversations);
        if !(1.0..=MOST).contains(&many) || f64::from(shape.shared_system_prompt_len) > MOST {
            return wrong(
                "data.conversation_replay: there are no conversations, or more than 10 million, or of as many tokens",
                "say how many conversations and tokens",
            );
        }
        let talks = vec![Talk::default(); shape.num_conversations as usize];
        Ok(Self::Conversations(shape.clone(), talks))
    }

    /// How many sessions there are at a time, if prompts are of sessions.
    pub(super) fn sessions(&self) -> Option<u64> {
        match self {
            Self::Random { .. } | Self::Shared(_) => None,
            Self::Turns(questions, _) => Some(questions.len() as u64),
            Self::Conversations(_, talks) => Some(talks.len() as u64),
        }
    }

    /// Its sessions go on when they are answered, not at a rate.
    pub(super) fn needs_clients(&self) -> bool {
        matches!(self, Self::Conversations(..))
    }

    /// The prompt of the `number`-th request, in that order; stages never go back.
    pub(super) fn next(&mut self, number: u64, stage: u16, rng: &mut SmallRng) -> Prompt {
        match self {
            Self::Random { input, output } => Prompt {
                tokens: input.draw(rng),
                output: output.draw(rng),
                think: 0.0,
                session: None,
                shared: 0,
                group: 0,
                own: None,
            },
            Self::Shared(questions) => {
                let at = questions[(number % questions.len() as u64) as usize];
                at.prompt(at.system + at.own, None)
            }
            Self::Turns(questions, talks) => {
                let place = (number % questions.len() as u64) as usize;
                let at = questions[place];
                if talks.stage != stage || talks.said.is_empty() {
                    talks.stage = stage;
                    talks.said = questions.iter().map(|question| question.system).collect();
                }
                let said = &mut talks.said[place];
                let tokens = said.saturating_add(at.own);
                *said = tokens.saturating_add(at.output);
                at.prompt(tokens, Some((stage, at.number)))
            }
            Self::Conversations(shape, talks) => {
                let (slot, all) = (number % talks.len() as u64, talks.len() as u64);
                let talk = &mut talks[slot as usize];
                if talk.turns == 0 || talk.stage != stage {
                    *talk = Talk {
                        number: if talk.number == 0 {
                            slot + 1
                        } else {
                            talk.number + all
                        },
                        stage,
                        turns: shape.turns_per_conversation.draw(rng).max(1),
                        said: shape.shared_system_prompt_len
                            + shape.dynamic_system_prompt_len.draw(rng),
                    };
                }
                let tokens = talk
                    .said
                    .saturating_add(shape.input_tokens_per_turn.draw(rng));
                let output = shape.output_tokens_per_turn.draw(rng);
                talk.said = tokens.saturating_add(output);
                talk.turns -= 1;
                Prompt {
                    tokens,
                    output,
                    think: shape.tool_call_latency_sec.draw(rng) as f32,
                    session: Some((stage, slot)),
                    shared: shape.shared_system_prompt_len / BLOCK,
                    // A stage has a system prompt of its own.
                    group: u64::from(stage),
                    own: Some(talk.number),
                }
            }
        }
    }
}

// === impl Question ===

impl Question {
    fn prompt(self, tokens: u32, session: Option<(u16, u64)>) -> Prompt {
        let own = session.map_or(self.number, |(stage, number)| of_stage(stage, number));
        Prompt {
            tokens,
            output: self.output,
            think: 0.0,
            session,
            shared: self.system / BLOCK,
            group: self.group,
            own: Some(own),
        }
    }
}

// === impl Prompt ===

impl Prompt {
    /// The names of its blocks: those of groups and those of prompts never meet.
    pub(super) fn names(&self) -> impl Iterator<Item = u64> {
        let (group, own) = (self.group, self.own);
        let shared = (0..u64::from(self.shared)).map(move |block| name(group << 1, block));
        let blocks = match own {
            Some(_) => u64::from(self.tokens.div_ceil(BLOCK)),
            None => 0,
        };
        let own = own.unwrap_or_default() << 1 | 1;
        shared.chain((u64::from(self.shared)..blocks).map(move |block| name(own, block)))
    }
}

/// One number for a block of something: no two are the same, as far as 64 bits can tell.
fn name(of: u64, block: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(&block.to_le_bytes(), of)
}
