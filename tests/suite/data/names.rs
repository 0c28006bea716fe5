//! Lists of names.

use std::collections::HashSet;

use proptest::prelude::*;

use shadegrad::Error;
use shadegrad::data::{Batch, CharTokenizer, IGNORE_INDEX, NamesDataset};

/// `count` distinct names of two to five letters.
fn list(count: usize) -> String {
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    (0..count)
        .map(|n| {
            let tail = "xyz".chars().take(n % 4);
            let head = [letter(n / 26), letter(n)];
            head.into_iter()
                .chain(tail)
                .chain(['\n'])
                .collect::<String>()
        })
        .collect()
}

/// The name in a row of inputs and targets, after checking the row's form.
fn name_of(inputs: &[u32], targets: &[u32]) -> Option<Vec<u32>> {
    let Some(end) = targets.iter().position(|&target| target == 0) else {
        assert!(inputs.iter().all(|&token| token == 0));
        assert!(targets.iter().all(|&target| target == IGNORE_INDEX));
        return None;
    };
    let name = &targets[..end];
    assert!(!name.contains(&IGNORE_INDEX) && !name.contains(&0));
    assert_eq!(inputs[0], 0);
    assert_eq!(&inputs[1..=end], name);
    assert!(inputs[end + 1..].iter().all(|&token| token == 0));
    assert!(
        targets[end + 1..]
            .iter()
            .all(|&target| target == IGNORE_INDEX)
    );
    Some(name.to_vec())
}

fn names_of(batch: &Batch) -> Vec<Option<Vec<u32>>> {
    assert_eq!(batch.inputs.len(), batch.batch_size * batch.context);
    let rows = batch.inputs.chunks(batch.context);
    rows.zip(batch.targets.chunks(batch.context))
        .map(|(inputs, targets)| name_of(inputs, targets))
        .collect()
}

#[test]
fn a_row_starts_ends_and_is_padded() {
    let dataset = NamesDataset::new("ava\nava\n", 6, 0).unwrap();
    assert_eq!(dataset.tokenizer().vocabulary(), ['\n', 'a', 'v']);
    let batch = dataset.train_batch(1, 0);
    assert_eq!(batch.inputs, [0, 1, 2, 1, 0, 0]);
    assert_eq!(batch.targets, [1, 2, 1, 0, IGNORE_INDEX, IGNORE_INDEX]);
    assert_eq!(batch.target_count(), 4);
}

#[test]
fn the_window_may_be_one_more_than_the_longest_name_and_no_less() {
    let text = "ava\nmaximiliano\nemma\n";
    let dataset = NamesDataset::new(text, 12, 0).unwrap();
    assert_eq!(dataset.context(), 12);
    let error = NamesDataset::new(text, 11, 0).unwrap_err().to_string();
    for part in ["maximiliano", "11 characters", "at least 12"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(NamesDataset::new(text, 0, 0).is_err());
    // Characters, not bytes.
    assert!(NamesDataset::new("zoé\nava\n", 4, 0).is_ok());
}

#[test]
fn lines_are_trimmed_and_duplicates_stay() {
    let dataset = NamesDataset::new("  ava \r\n\n\t\nava\nava", 4, 0).unwrap();
    assert_eq!((dataset.train_len(), dataset.test_len()), (2, 1));
    assert_eq!(dataset.tokenizer().vocabulary(), ['\n', 'a', 'v']);
}

#[test]
fn bad_lists_are_refused() {
    let refused = |text| NamesDataset::new(text, 16, 0).unwrap_err();
    for text in ["", " \n\t\n"] {
        assert!(matches!(refused(text), Error::EmptyData { .. }));
    }
    assert!(refused("ava\n").to_string().contains("\"ava\""));
    assert!(refused("ava\na\tb\n").to_string().contains(r"a\tb"));
}

#[test]
fn the_test_set_is_a_tenth_at_most_1000_at_least_1() {
    for (count, expected) in [(2, 1), (19, 1), (20, 2), (9_999, 999), (32_033, 1_000)] {
        let text = "ava\n".repeat(count);
        let dataset = NamesDataset::new(&text, 4, 0).unwrap();
        assert_eq!(dataset.test_len(), expected, "{count}");
        assert_eq!(dataset.train_len(), count - expected, "{count}");
    }
}

#[test]
fn a_checkpoints_tokenizer_is_used_or_refused() {
    let tokenizer = CharTokenizer::from_text("\nabcdefghijklmnopqrstuvwxyz").unwrap();
    let dataset = NamesDataset::with_tokenizer("ava\nemma\n", tokenizer.clone(), 8, 0).unwrap();
    assert_eq!(dataset.tokenizer(), &tokenizer);
    let error = NamesDataset::with_tokenizer("ava\nzoé\n", tokenizer, 8, 0).unwrap_err();
    assert!(
        matches!(
            error,
            Error::UnknownCharacter {
                character: 'é', ..
            }
        ),
        "{error}"
    );
    for vocabulary in ["abc", "\t\nabc"] {
        let tokenizer = CharTokenizer::from_text(vocabulary).unwrap();
        let error = NamesDataset::with_tokenizer("a\nb\n", tokenizer, 8, 0).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}

#[test]
fn a_batch_depends_on_seed_and_step_only() {
    let text = list(500);
    let dataset = NamesDataset::new(&text, 8, 1).unwrap();
    let reference = dataset.train_batch(32, 100);
    assert_ne!(reference, dataset.train_batch(32, 101));
    assert_eq!(reference, dataset.train_batch(32, 100));
    let again = NamesDataset::new(&text, 8, 1).unwrap();
    assert_eq!(reference, again.train_batch(32, 100));
    let other = NamesDataset::new(&text, 8, 2).unwrap();
    assert_ne!(reference, other.train_batch(32, 100));
    // A wider batch begins with the rows of a narrower one.
    assert_eq!(
        dataset.train_batch(64, 100).inputs[..reference.inputs.len()],
        reference.inputs
    );
}

#[test]
fn training_draws_every_training_name_and_no_test_name() {
    let text = list(100);
    let dataset = NamesDataset::new(&text, 8, 3).unwrap();
    let drawn: HashSet<_> = (0..50)
        .flat_map(|step| names_of(&dataset.train_batch(32, step)))
        .map(Option::unwrap)
        .collect();
    let train = text.lines().filter(|name| dataset.is_known(name));
    let train: HashSet<_> = train
        .map(|name| dataset.tokenizer().encode(name).unwrap())
        .collect();
    assert_eq!(train.len(), 90);
    assert_eq!(drawn, train);
}

#[test]
fn a_name_is_known_if_it_is_trained_on() {
    let text = list(100);
    let dataset = NamesDataset::new(&text, 8, 4).unwrap();
    assert_eq!(
        text.lines().filter(|name| dataset.is_known(name)).count(),
        90
    );
    assert!(!dataset.is_known("nobody"));
    for batch in dataset.test_batches(3) {
        for name in names_of(&batch).into_iter().flatten() {
            assert!(!dataset.is_known(&dataset.tokenizer().decode(&name).unwrap()));
        }
    }
}

#[test]
#[should_panic(expected = "at least one row")]
fn an_empty_batch_is_a_bug() {
    let dataset = NamesDataset::new("ava\nemma\n", 8, 4).unwrap();
    let _ = dataset.test_batches(0);
}

proptest! {
    #[test]
    fn batches_in_order_cover_their_names_once(
        count in 2usize..400, batch_size in 1usize..50, max in 0usize..500, seed: u64
    ) {
        let text = list(count);
        let dataset = NamesDataset::new(&text, 7, seed).unwrap();
        let collect = |batches: &mut dyn Iterator<Item = Batch>| {
            let mut names = Vec::new();
            for batch in batches {
                assert_eq!((batch.batch_size, batch.context), (batch_size, 7));
                names.extend(names_of(&batch));
            }
            // Padding comes last and is less than a batch.
            let real = names.iter().take_while(|name| name.is_some()).count();
            assert!(names[real..].iter().all(Option::is_none));
            assert!(names.len() - real < batch_size);
            names.truncate(real);
            names.into_iter().map(Option::unwrap).collect::<Vec<_>>()
        };
        let test = collect(&mut dataset.test_batches(batch_size));
        let train = collect(&mut dataset.train_subset_batches(batch_size, count));
        prop_assert_eq!((train.len(), test.len()), (dataset.train_len(), dataset.test_len()));
        let subset = collect(&mut dataset.train_subset_batches(batch_size, max));
        prop_assert_eq!(&subset[..], &train[..max.min(train.len())]);
        let mut all = [train, test].concat();
        all.sort();
        let mut names: Vec<_> = text
            .lines()
            .map(|name| dataset.tokenizer().encode(name).unwrap())
            .collect();
        names.sort();
        prop_assert_eq!(all, names);
        prop_assert_eq!(
            dataset.test_batches(batch_size).len(),
            dataset.test_len().div_ceil(batch_size)
        );
    }
}
