//! `echo_upper`: its words, its rows, and a run that is too short to learn anything.

use shadegrad::data::IGNORE_INDEX;

use super::*;

#[allow(dead_code)]
#[path = "../../examples/echo_upper/task.rs"]
mod task;

use task::{Command as Task, Exercise};

#[test]
fn words_are_drawn_by_seed_and_step_and_split_by_their_letters() {
    let draw =
        |seed, step, held_out| task::exercises(&mut task::generator(seed, step), held_out, 200);
    let trained = draw(1, 0, false);
    assert_eq!(trained, draw(1, 0, false));
    assert!(trained != draw(2, 0, false) && trained != draw(1, 1, false));
    let unseen = draw(1, 0, true);
    for (exercises, held_out) in [(&trained, false), (&unseen, true)] {
        for Exercise { word, .. } in exercises {
            assert_eq!(task::is_held_out(word), held_out, "{word}");
            assert!((3..=10).contains(&word.len()), "{word}");
            assert!(word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
        }
    }
    assert!(task::is_held_out("minecraft"));
    let distinct: BTreeSet<&str> = trained.iter().map(|e| e.word.as_str()).collect();
    assert!(distinct.len() > 190, "{} of 200 differ", distinct.len());
}

#[test]
fn a_row_asks_for_the_answer_and_the_padding_that_ends_it() {
    let tokenizer = task::tokenizer();
    let exercise = task::read("emma upper").unwrap();
    assert_eq!(exercise.command, Task::Upper);
    let batch = task::batch(&tokenizer, &[exercise]);
    assert_eq!(batch.inputs.len(), batch.context);
    assert_eq!(batch.targets.len(), batch.context);
    let inputs = tokenizer.decode(&batch.inputs).unwrap();
    assert_eq!(inputs.trim_end_matches('\0'), "emma upper EMMA");
    // The prompt's last letter has to give the answer's first token.
    let (first, last) = ("emma uppe".len(), "emma upper EMMA".len());
    let counts = |position: &usize| batch.targets[*position] != IGNORE_INDEX;
    let asked: Vec<usize> = (0..batch.context).filter(counts).collect();
    assert_eq!(asked, (first..last).collect::<Vec<_>>());
    assert_eq!(
        tokenizer.decode(&batch.targets[first..last]).unwrap(),
        " EMMA\0"
    );
    // The longest word fills the row.
    let longest = task::read("abcdefghij upper").unwrap();
    let batch = task::batch(&tokenizer, &[longest]);
    assert_eq!(batch.targets.last(), Some(&task::PADDING));

    for prompt in [
        "emma",
        "emma lower",
        "Emma echo",
        "em echo",
        "abcdefghijk echo",
    ] {
        assert_eq!(task::read(prompt), None, "{prompt}");
    }
}

#[test]
fn a_short_run_is_scored_and_bad_prompts_are_refused() {
    let folder = Folder::new();
    let run = |arguments: &[&str]| {
        let mut command = folder.command_of("echo_upper", arguments);
        command.output().expect("the program starts")
    };
    let output = run(&["--steps", "2", "-b", "8", "--test-words", "3"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(printed.starts_with("adapter: "), "{printed}");
    // Nothing is learnt in two steps, and the score says so.
    for expected in [
        "attention only",
        "echo: 0 of 3 unseen words exact (0.0 %)",
        "upper: 0 of 3 unseen words exact (0.0 %)",
        "minecraft echo →",
        "(wrong)",
    ] {
        assert!(printed.contains(expected), "`{expected}`\n{printed}");
    }
    for arguments in [&["minecraft shout"][..], &["--test-words", "0"]] {
        let output = run(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(errors.starts_with("error: "), "{errors}");
        assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    }
}
