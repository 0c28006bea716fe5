//! The task: names with hidden letters, batches of them, and what one guesses without a model.
//!
//! A row is a name between two edges, then padding: with the `m` hidden, `emma` is
//!
//! ```text
//! inputs   ⊢  e  ?  m  a  ⊢  ·  ·        ⊢ is EDGE, ? is HIDDEN, · is PADDING
//! targets  –  –  m  –  –  –  –  –        – is IGNORE_INDEX
//! ```

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use shadegrad::data::{Batch, CharTokenizer, IGNORE_INDEX};

/// Fills rows up; no position sees it.
pub const PADDING: u32 = 0;
/// Stands in place of a letter.
pub const HIDDEN: u32 = 1;
/// Where a name begins and ends.
pub const EDGE: u32 = 2;

/// Those three as characters, which no name has: they sort below all that it may have.
const SPECIAL: [char; 3] = ['\0', '\u{1}', '\n'];

/// How a hidden letter is written in a prompt.
pub const GAP: char = '_';

/// Decides which names are held out, whatever the seed of the run is.
const SPLIT_SEED: u64 = 0x006e_616d_6573;

/// A list of names, without repetitions, of which one in ten is held out.
pub struct Names {
    /// Characters to tokens.
    pub tokenizer: CharTokenizer,
    /// Names to train on, from edge to edge.
    pub train: Vec<Vec<u32>>,
    /// Names to test with.
    pub test: Vec<Vec<u32>>,
}

impl Names {
    /// Reads a text with one name a line.
    ///
    /// # Errors
    ///
    /// If there are fewer than ten different names, or a name has a character that stands for something else.
    pub fn read(text: &str) -> Result<Names, String> {
        let lines = text.lines().map(str::trim);
        let names: BTreeSet<&str> = lines.filter(|name| !name.is_empty()).collect();
        if names.len() < 10 {
            let found = names.len();
            return Err(format!(
                "{found} different names are too few: at least 10 are needed, one a line"
            ));
        }
        let reserved = |c: char| c.is_control() || c == GAP;
        if let Some(name) = names.iter().find(|name| name.contains(reserved)) {
            return Err(format!(
                "the name {name:?} has a control character or {GAP:?}, which stands for a hidden letter"
            ));
        }
        let characters = names.iter().flat_map(|name| name.chars());
        let vocabulary: BTreeSet<char> = characters.chain(SPECIAL).collect();
        let vocabulary = CharTokenizer::from_vocabulary(vocabulary.into_iter().collect());
        let tokenizer = vocabulary.expect("they are in ascending order");
        let encode = |name| tokenizer.encode(&format!("\n{name}\n"));
        let names = names.into_iter().map(encode);
        let mut train: Vec<Vec<u32>> = names.map(|name| name.expect("all are known")).collect();
        train.shuffle(&mut generator(SPLIT_SEED, 0));
        let test = train.split_off(train.len() - train.len() / 10);
        Ok(Names {
            tokenizer,
            train,
            test,
        })
    }

    /// The tokens that the longest name takes.
    pub fn longest(&self) -> usize {
        let names = self.train.iter().chain(&self.test);
        names.map(Vec::len).max().expect("there are names")
    }

    /// Training rows of step number `step`: names drawn with replacement, in which each letter is hidden with
    /// probability `hide`, and one in any case.
    pub fn drawn(&self, seed: u64, step: u64, rows: usize, hide: f64) -> Vec<Puzzle> {
        let mut rng = generator(seed, step);
        let mut puzzle = || {
            let name = self.train[rng.random_range(..self.train.len())].clone();
            let letters = 1..name.len() - 1;
            let certain = rng.random_range(letters.clone());
            let hidden = letters.filter(|&place| rng.random_bool(hide) || place == certain);
            let hidden = hidden.collect();
            Puzzle { name, hidden }
        };
        (0..rows).map(|_| puzzle()).collect()
    }

    /// Reads a prompt such as `ann_`, whose hidden letters nobody knows.
    ///
    /// # Errors
    ///
    /// If nothing is hidden, or a character is in no name.
    pub fn prompt(&self, prompt: &str) -> Result<Puzzle, String> {
        let text: String = prompt
            .chars()
            .map(|c| if c == GAP { SPECIAL[1] } else { c })
            .collect();
        let known = |c: char| c == SPECIAL[1] || self.tokenizer.token(c) > Some(EDGE);
        if let Some(c) = text.chars().find(|&c| !known(c)) {
            return Err(format!(
                "{prompt:?} is no prompt: {c:?} is in none of the names"
            ));
        }
        let name = self.tokenizer.encode(&format!("\n{text}\n"));
        let name = name.expect("all are known");
        let hidden: Vec<usize> = (0..name.len()).filter(|&i| name[i] == HIDDEN).collect();
        match hidden.is_empty() {
            true => Err(format!(
                "{prompt:?} is no prompt: write {GAP:?} for a hidden letter"
            )),
            false => Ok(Puzzle { name, hidden }),
        }
    }
}

/// A generator for draw number `step`: what it draws depends on seed and step alone.
fn generator(seed: u64, step: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(step);
    rng
}

/// A name, of which some letters are hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Puzzle {
    /// The name from edge to edge, as it is.
    pub name: Vec<u32>,
    /// The places of the letters that are not shown, ascending.
    pub hidden: Vec<usize>,
}

impl Puzzle {
    /// What is shown of the name.
    pub fn shown(&self) -> Vec<u32> {
        let mut shown = self.name.clone();
        self.hidden.iter().for_each(|&place| shown[place] = HIDDEN);
        shown
    }

    /// The same to be read, without edges.
    pub fn text(&self, tokenizer: &CharTokenizer) -> String {
        let shown = self.shown();
        let letters = tokenizer.decode(&shown[1..shown.len() - 1]);
        let letters = letters.expect("they are of this tokenizer");
        letters.replace(SPECIAL[1], &GAP.to_string())
    }
}

/// Every letter of every name hidden in its turn, and only that one.
pub fn one_by_one(names: &[Vec<u32>]) -> Vec<Puzzle> {
    let of_name = |name: &Vec<u32>| {
        let name = name.clone();
        (1..name.len() - 1).map(move |place| Puzzle {
            name: name.clone(),
            hidden: vec![place],
        })
    };
    names.iter().flat_map(of_name).collect()
}

/// A row for each puzzle, then rows of nothing but padding up to `rows`: batches of one size replay one plan.
pub fn batch(puzzles: &[Puzzle], rows: usize, context: usize) -> Batch {
    let mut batch = Batch {
        inputs: vec![PADDING; rows * context],
        targets: vec![IGNORE_INDEX; rows * context],
        batch_size: rows,
        context,
    };
    for (row, puzzle) in puzzles.iter().enumerate() {
        let start = row * context;
        let shown = puzzle.shown();
        batch.inputs[start..start + shown.len()].copy_from_slice(&shown);
        for &place in &puzzle.hidden {
            batch.targets[start + place] = puzzle.name[place];
        }
    }
    batch
}

/// Guesses without a model.
pub struct Baselines {
    /// The most frequent letter.
    pub most_frequent: u32,
    /// The most frequent letter between two others, edges included.
    between: BTreeMap<[u32; 2], u32>,
}

impl Baselines {
    /// Counts the letters of the names.
    pub fn count(names: &[Vec<u32>]) -> Baselines {
        let mut all = Counts::default();
        let mut between = BTreeMap::<[u32; 2], Counts>::new();
        for triple in names.iter().flat_map(|name| name.windows(3)) {
            let &[before, letter, after] = triple else {
                unreachable!("windows are of three tokens")
            };
            all.add(letter);
            between.entry([before, after]).or_default().add(letter);
        }
        Baselines {
            most_frequent: all.most_frequent(),
            between: between
                .into_iter()
                .map(|(pair, counts)| (pair, counts.most_frequent()))
                .collect(),
        }
    }

    /// The guess from the letters on both sides of a place; the most frequent letter if they never stood so.
    pub fn guess_between(&self, name: &[u32], place: usize) -> u32 {
        let pair = [name[place - 1], name[place + 1]];
        *self.between.get(&pair).unwrap_or(&self.most_frequent)
    }
}

/// How often letters occur.
#[derive(Default)]
struct Counts(BTreeMap<u32, usize>);

impl Counts {
    fn add(&mut self, letter: u32) {
        *self.0.entry(letter).or_default() += 1;
    }

    /// The first one in the alphabet if several are equally frequent.
    fn most_frequent(&self) -> u32 {
        let counts = self.0.iter().rev();
        let most = counts.max_by_key(|&(_, count)| count);
        *most.expect("something has been counted").0
    }
}
