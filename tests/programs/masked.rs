//! `masked_names`: its rows and baselines, its padding mask, and a run that is too short to learn much.

use shadegrad::data::IGNORE_INDEX;
use shadegrad::nn::{EncoderConfig, ParameterBuilder};
use shadegrad::tape::Precision;
use shadegrad::{Device, Tape};

use super::*;

#[allow(dead_code)]
#[path = "../../examples/masked_names/model.rs"]
mod model;
#[allow(dead_code)]
#[path = "../../examples/masked_names/task.rs"]
mod task;

use model::Filler;
use task::{Baselines, EDGE, HIDDEN, Names, PADDING, Puzzle};

const NAMES: &str = "ava\nemma\nana\nava\n  nora \n\nolga\nina\nada\nlena\nmona\nrosa\nida\n";

fn names() -> Names {
    Names::read(NAMES).unwrap()
}

#[test]
fn names_are_distinct_and_one_in_ten_is_held_out() {
    let Names {
        tokenizer,
        train,
        test,
    } = names();
    assert_eq!((train.len(), test.len()), (10, 1));
    let all: Vec<&Vec<u32>> = train.iter().chain(&test).collect();
    let distinct: BTreeSet<&Vec<u32>> = all.iter().copied().collect();
    assert_eq!(distinct.len(), all.len());
    for name in all {
        let text = tokenizer.decode(name).unwrap();
        let inner = text.trim_matches('\n');
        assert_eq!(text, format!("\n{inner}\n"));
        assert!(NAMES.lines().any(|line| line.trim() == inner), "{inner}");
    }
    // The same ones in another order of the file.
    let reversed: Vec<&str> = NAMES.lines().rev().collect();
    assert_eq!(Names::read(&reversed.join("\n")).unwrap().test, test);

    for (text, reason) in [
        ("ava\nemma\n".to_owned(), "2 different names are too few"),
        (format!("{NAMES}a_b\n"), "\"a_b\""),
        (format!("{NAMES}a\tb\n"), "control character"),
    ] {
        let error = Names::read(&text).err().unwrap();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_row_hides_letters_and_asks_for_them_alone() {
    let names = names();
    let puzzle = names.prompt("_mma").unwrap();
    assert_eq!(puzzle.hidden, [1]);
    assert_eq!(puzzle.text(&names.tokenizer), "_mma");
    for (prompt, reason) in [("emma", "write '_'"), ("émm_", "'é'"), ("e\n_", "'\\n'")] {
        let error = names.prompt(prompt).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    let [e, m, a] = ['e', 'm', 'a'].map(|c| names.tokenizer.token(c).unwrap());
    let puzzle = Puzzle {
        name: vec![EDGE, e, m, m, a, EDGE],
        hidden: vec![1, 3],
    };
    let batch = task::batch(&[puzzle], 2, 7);
    let none = IGNORE_INDEX;
    assert_eq!(
        batch.inputs[..7],
        [EDGE, HIDDEN, m, HIDDEN, a, EDGE, PADDING]
    );
    assert_eq!(batch.targets[..7], [none, e, none, m, none, none, none]);
    assert_eq!(batch.inputs[7..], [PADDING; 7]);
    assert_eq!(batch.targets[7..], [none; 7]);

    // Training hides at least one letter of a name, never an edge, and what it draws depends on seed and step.
    let drawn = names.drawn(1, 0, 300, 0.3);
    assert_eq!(drawn, names.drawn(1, 0, 300, 0.3));
    assert!(drawn != names.drawn(2, 0, 300, 0.3) && drawn != names.drawn(1, 1, 300, 0.3));
    for Puzzle { name, hidden } in &drawn {
        assert!(names.train.contains(name));
        assert!(!hidden.is_empty());
        assert!(hidden.iter().all(|&place| name[place] > EDGE));
    }
    assert!(drawn.iter().any(|puzzle| puzzle.hidden.len() > 1));
    let single = names.drawn(1, 0, 300, 0.0);
    assert!(single.iter().all(|puzzle| puzzle.hidden.len() == 1));

    // The test hides each letter once.
    let puzzles = task::one_by_one(&names.test);
    let name = &names.test[0];
    assert_eq!(puzzles.len(), name.len() - 2);
    for (i, puzzle) in puzzles.iter().enumerate() {
        assert_eq!((&puzzle.name, &puzzle.hidden[..]), (name, &[i + 1][..]));
    }
}

#[test]
fn baselines_are_counted() {
    // a: 3 times, b and c: 2 times.
    let [a, b, c] = [3, 4, 5];
    let names = [
        vec![EDGE, a, b, a, EDGE],
        vec![EDGE, c, b, a, EDGE],
        vec![EDGE, c, EDGE],
    ];
    let baselines = Baselines::count(&names);
    assert_eq!(baselines.most_frequent, a);
    let guess = |before, after| baselines.guess_between(&[before, HIDDEN, after], 1);
    // Between an edge and a b stood an a and a c: the first one in the alphabet.
    assert_eq!(guess(EDGE, b), a);
    assert_eq!(guess(c, a), b);
    assert_eq!(guess(EDGE, EDGE), c);
    // Never seen.
    assert_eq!(guess(b, b), a);
}

#[test]
fn padding_does_not_change_what_is_read_out_of_a_name() {
    let names = names();
    let device = Device::new().unwrap();
    let config = EncoderConfig {
        context: 12,
        d_model: 8,
        n_heads: 2,
        n_layers: 1,
        d_ff: 8,
        ..EncoderConfig::new(names.tokenizer.vocab_size())
    };
    let mut builder = ParameterBuilder::new(7);
    let filler = Filler::new(&config, Precision::F32, &mut builder).unwrap();
    builder.build(&device).unwrap();
    let puzzle = names.prompt("em_a").unwrap();
    let count = puzzle.name.len() * config.vocab_size;
    // The logits over the name itself, in a row of so many places.
    let logits = |context: usize, is_masked: bool| {
        let batch = task::batch(std::slice::from_ref(&puzzle), 1, context);
        let tape = Tape::inference(&device);
        let logits = match is_masked {
            true => filler.logits(&tape, &batch),
            false => {
                let tokens = tape.input([1, context], &batch.inputs);
                filler.head.forward(filler.encoder.forward(tokens, None))
            }
        };
        let logits = tape.fetch(logits);
        tape.run().unwrap();
        logits.get().unwrap()[..count].to_vec()
    };
    let distance = |a: &[f32], b: &[f32]| {
        let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    };
    let bare = logits(puzzle.name.len(), true);
    let padded = distance(&bare, &logits(config.context, true));
    let seen = distance(&bare, &logits(config.context, false));
    assert!(padded < 1e-6, "{padded}");
    assert!(seen > 1e-5, "without the mask it would: {seen}");
}

#[test]
fn a_short_run_is_scored_and_mistakes_are_refused() {
    let folder = Folder::new();
    folder.write("names.txt", NAMES);
    folder.write("few.txt", "ava\nemma\n");
    let run = |arguments: &[&str]| {
        let tiny = [
            "-f",
            "names.txt",
            "--steps",
            "40",
            "-b",
            "8",
            "-d",
            "8",
            "-n",
            "2",
            "-l",
            "1",
        ];
        let arguments = [&tiny[..], arguments].concat();
        let mut command = folder.command_of("masked_names", &arguments);
        command.output().expect("the program starts")
    };
    let output = run(&["an_", "e_m_"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.starts_with("adapter: "), "{printed}");
    for expected in [
        "data: names.txt, 10 names to train on, 1 for the test, 12 different letters",
        "encoder of 1 layers, width 8, heads 2, gelu 32, dropout 0",
        "most frequent letter: ",
        "from both neighbours: ",
        "encoder: ",
        "an_ → ",
        "e_m_ → ",
        " · then ",
    ] {
        assert!(printed.contains(expected), "`{expected}`\n{printed}");
    }
    for (arguments, reason) in [
        (&["anna"][..], "write '_'"),
        (&["-f", "few.txt"], "few.txt: 2 different names"),
        (&["-f", "none.txt"], "none.txt"),
        (&["--hide", "2"], "--hide = 2 is not possible"),
        (&["-n", "3"], "a multiple of --n-heads = 3"),
    ] {
        let output = run(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            errors.starts_with("error: ") && errors.contains(reason),
            "{errors}"
        );
        assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    }
}
