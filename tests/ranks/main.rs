//! Several ranks on this machine. This program starts itself under `mpirun` for each of its tests, and looks at what comes
//! out. `cargo test --features mpi --test ranks -- NAME` runs those whose names contain it.

mod diloco;
#[path = "../common/example.rs"]
mod example;
mod faults;
mod halves;
mod launch;
mod programs;
mod sums;
#[cfg(feature = "tokenizers")]
mod texts;
mod training;

use shadegrad::Device;
use shadegrad::parallel::World;

/// What each of several ranks does.
type Program = fn(&World);

/// What ranks do: those of the tests, by name.
const PROGRAMS: &[(&str, Program)] = &[
    ("sums", sums::program),
    ("agreement", sums::agreement),
    ("halves", halves::program),
    ("training", training::program),
    ("outer", diloco::outer),
    ("both ways", diloco::both_ways),
    ("apart", diloco::apart),
    ("work", faults::work),
    ("panic", faults::panic),
    ("abort", faults::abort),
    ("misuse", faults::misuse),
];

const TESTS: &[(&str, fn())] = &[
    (
        "sums_are_those_in_the_order_of_ranks",
        sums::sums_are_those_in_the_order_of_ranks,
    ),
    (
        "what_differs_between_ranks_is_named",
        sums::what_differs_between_ranks_is_named,
    ),
    (
        "a_sum_that_halves_do_not_hold_skips_the_step",
        halves::a_sum_that_halves_do_not_hold_skips_the_step,
    ),
    ("ranks_train_as_one_does", training::ranks_train_as_one_does),
    (
        "outer_steps_are_those_of_the_formula",
        diloco::outer_steps_are_those_of_the_formula,
    ),
    (
        "averages_of_single_steps_are_steps_together",
        diloco::averages_of_single_steps_are_steps_together,
    ),
    (
        "a_rank_killed_between_averages_ends_the_others",
        diloco::a_rank_killed_between_averages_ends_the_others,
    ),
    ("programs_train_on_ranks", programs::programs_train_on_ranks),
    ("programs_train_apart", programs::programs_train_apart),
    ("programs_end_together", programs::programs_end_together),
    (
        "gradients_travel_as_halves",
        programs::gradients_travel_as_halves,
    ),
    ("costs_are_measured", programs::costs_are_measured),
    (
        "what_is_wrong_is_said_once",
        programs::what_is_wrong_is_said_once,
    ),
    (
        "a_killed_program_leaves_a_whole_checkpoint",
        programs::a_killed_program_leaves_a_whole_checkpoint,
    ),
    #[cfg(feature = "tokenizers")]
    (
        "train_text_trains_on_ranks",
        texts::train_text_trains_on_ranks,
    ),
    #[cfg(feature = "tokenizers")]
    (
        "whole_models_are_tuned_on_ranks",
        texts::whole_models_are_tuned_on_ranks,
    ),
    #[cfg(feature = "tokenizers")]
    (
        "adapters_are_trained_on_ranks_and_resumed_on_others",
        texts::adapters_are_trained_on_ranks_and_resumed_on_others,
    ),
    #[cfg(feature = "tokenizers")]
    ("texts_are_learnt_apart", texts::texts_are_learnt_apart),
    #[cfg(feature = "tokenizers")]
    (
        "what_is_wrong_with_tuning_is_said_once",
        texts::what_is_wrong_with_tuning_is_said_once,
    ),
    (
        "a_killed_rank_ends_the_others",
        faults::a_killed_rank_ends_the_others,
    ),
    (
        "a_stopped_rank_ends_the_others",
        faults::a_stopped_rank_ends_the_others,
    ),
    (
        "a_rank_that_fails_names_itself",
        faults::a_rank_that_fails_names_itself,
    ),
];

fn main() {
    if let Ok(name) = std::env::var(launch::PROGRAM) {
        let (_, program) = PROGRAMS.iter().find(|(known, _)| *known == name).unwrap();
        program(&World::new());
        return;
    }
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(&part[..]));
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let start = std::time::Instant::now();
        // A failure panics, which ends the program.
        test();
        println!(
            "test {name} ... ok ({:.0} s)",
            start.elapsed().as_secs_f64()
        );
    }
}

fn device() -> Device {
    Device::new().unwrap_or_else(|error| panic!("{error}"))
}
