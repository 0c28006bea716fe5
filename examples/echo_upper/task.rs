//! The task: words, what a prompt asks for, and batches of both.
//!
//! A row is `word echo word` or `word upper WORD`, then padding. The loss is over the answer and the padding token that
//! ends it; nothing in front of an answer can be predicted.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use shadegrad::data::{Batch, CharTokenizer, IGNORE_INDEX};

/// Pads rows, and ends answers.
pub const PADDING: u32 = 0;

/// Lengths of words.
const SHORTEST: usize = 3;
const LONGEST: usize = 10;

/// `w + " upper " + w` for the longest words: the last token, padding, is only a target.
pub const CONTEXT: usize = 2 * LONGEST + 7;

/// Words are made of syllables: an onset, a vowel, a coda.
const ONSETS: &str =
    "b bl br c ch cr d dr f fl g gr h j k l m n p pl qu r s sh st t th tr v w x y z";
const VOWELS: &str = "a e i o u y ai ea io oo ou";
const CODAS: &str = "b ck d ft l ll m n nd ng p r rt s ss st t x";

/// A word that is never trained on.
pub const FAVOURITE: &str = "minecraft";

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The word again.
    Echo,
    /// The word in capitals.
    Upper,
}

impl Command {
    /// Both.
    pub const ALL: [Command; 2] = [Command::Echo, Command::Upper];

    /// What is written behind the word.
    pub fn name(self) -> &'static str {
        match self {
            Command::Echo => "echo",
            Command::Upper => "upper",
        }
    }

    /// The right answer.
    pub fn answer(self, word: &str) -> String {
        match self {
            Command::Echo => word.to_owned(),
            Command::Upper => word.to_ascii_uppercase(),
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exercise {
    /// The word.
    pub word: String,
    /// What to do with it.
    pub command: Command,
}

impl Exercise {
    /// What the model is given, `minecraft echo`. The space that follows is the first token of its answer.
    pub fn prompt(&self) -> String {
        format!("{} {}", self.word, self.command.name())
    }

    /// What it has to say to that, `" minecraft"`, before it stops.
    pub fn answer(&self) -> String {
        format!(" {}", self.command.answer(&self.word))
    }
}

/// The part of a prompt that is a word, if it is one that the model can be asked about.
pub fn read(prompt: &str) -> Option<Exercise> {
    let (word, command) = prompt.trim().split_once(' ')?;
    let command = Command::ALL.into_iter().find(|c| c.name() == command)?;
    let fits = (SHORTEST..=LONGEST).contains(&word.len());
    let fits = fits && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let word = word.to_owned();
    fits.then_some(Exercise { word, command })
}

/// Padding, space, capitals, small letters.
pub fn tokenizer() -> CharTokenizer {
    let letters = ('A'..='Z').chain('a'..='z');
    let characters = ['\0', ' '].into_iter().chain(letters);
    CharTokenizer::from_vocabulary(characters.collect()).expect("they are in ascending order")
}

/// A generator for draw number `step`: what it draws depends on seed and step alone.
pub fn generator(seed: u64, step: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(step);
    rng
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

fn pick<'a>(rng: &mut ChaCha8Rng, parts: &'a str) -> &'a str {
    let parts: Vec<&str> = parts.split(' ').collect();
    parts[below(rng, parts.len())]
}

/// A word that can be pronounced, more or less.
pub fn word(rng: &mut ChaCha8Rng) -> String {
    loop {
        let mut word = String::new();
        for _ in 0..=below(rng, 4) {
            word += pick(rng, ONSETS);
            word += pick(rng, VOWELS);
            if below(rng, 3) == 0 {
                word += pick(rng, CODAS);
            }
        }
        if (SHORTEST..=LONGEST).contains(&word.len()) {
            return word;
        }
    }
}

/// Whether a word is kept for the test: one in ten by a hash of its letters (64-bit FNV-1a), and the [`FAVOURITE`].
pub fn is_held_out(word: &str) -> bool {
    let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    word == FAVOURITE || (hash >> 32).is_multiple_of(10)
}

/// Exercises with words that are held out, or with those that are not.
pub fn exercises(rng: &mut ChaCha8Rng, held_out: bool, count: usize) -> Vec<Exercise> {
    let mut exercise = || loop {
        let word = word(rng);
        if is_held_out(&word) == held_out {
            let command = Command::ALL[below(rng, 2)];
            return Exercise { word, command };
        }
    };
    (0..count).map(|_| exercise()).collect()
}

/// A row for each exercise, the answers as targets.
pub fn batch(tokenizer: &CharTokenizer, exercises: &[Exercise]) -> Batch {
    let mut batch = Batch {
        inputs: Vec::new(),
        targets: Vec::new(),
        batch_size: exercises.len(),
        context: CONTEXT,
    };
    for exercise in exercises {
        let (prompt, answer) = (exercise.prompt(), exercise.answer());
        let text = format!("{prompt}{answer}\0");
        let tokens = tokenizer.encode(&text).expect("words are letters");
        // The last token of a prompt predicts the first one of its answer.
        let (given, length) = (prompt.len() - 1, tokens.len() - 1);
        let padding = CONTEXT - length;
        batch.inputs.extend(&tokens[..length]);
        batch.inputs.extend(vec![PADDING; padding]);
        batch.targets.extend(vec![IGNORE_INDEX; given]);
        batch.targets.extend(&tokens[given + 1..]);
        batch.targets.extend(vec![IGNORE_INDEX; padding]);
    }
    batch
}
