//! Ranks that die, hang and fail.

use std::process::Command;
use std::time::{Duration, Instant};

use shadegrad::parallel::World;
use shadegrad::{DType, Tensor};

use crate::{device, launch};

/// Adds up without end, or for longer than any test takes.
pub fn work(world: &World) {
    println!("process {} {}", world.rank(), std::process::id());
    world.set_patience(Duration::from_secs(5));
    let device = device();
    let tensors =
        [300_000, 5].map(|elements| Tensor::zeros(&device, [elements], DType::F32).unwrap());
    let start = Instant::now();
    let mut ends = [0.0];
    while ends == [0.0] {
        world.sum(&tensors, DType::F32).unwrap();
        ends[0] = f64::from(u8::from(start.elapsed() > Duration::from_secs(120)));
        world.sum_f64(&mut ends);
    }
}

pub fn panic(world: &World) {
    assert!(world.rank() != 1, "this rank has had enough");
    world.meet("the others");
}

pub fn abort(world: &World) {
    if world.rank() == 1 {
        world.abort("no such file");
    }
    world.meet("the others");
}

pub fn mismatch(world: &World) {
    // All ranks must bring as many.
    world.sum_f64(&mut vec![1.0; 1 + 1000 * world.rank()]);
    world.meet("the others");
}

pub fn signal(name: &str, process: u32) {
    let status = Command::new("kill")
        .args([name, &process.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Moments that differ from run to run.
fn moments(count: u32) -> impl Iterator<Item = Duration> {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    (1..=count).map(move |n| {
        Duration::from_micros(u64::from(
            clock.subsec_micros().wrapping_mul(n * 7919) % 3_000_000,
        ))
    })
}

pub fn a_killed_rank_ends_the_others() {
    for (n, moment) in moments(20).enumerate() {
        let ranks = 2 + n % 3;
        let launched = launch::launch(ranks, "work");
        let processes = launched.processes(ranks);
        std::thread::sleep(moment);
        let victim = n % ranks;
        signal("-KILL", processes[victim]);
        let ended = launched.end_within(Duration::from_secs(30));
        let said = format!("rank {victim} ");
        assert!(
            !ended.succeeded && ended.errors.contains(&said),
            "after {moment:?}:\n{}",
            ended.errors
        );
        for process in processes {
            let alive = Command::new("kill")
                .args(["-0", &process.to_string()])
                .output()
                .unwrap();
            assert!(!alive.status.success(), "process {process} lives on");
        }
    }
}

pub fn a_stopped_rank_ends_the_others() {
    for ranks in [2, 4] {
        let launched = launch::launch(ranks, "work");
        let processes = launched.processes(ranks);
        std::thread::sleep(Duration::from_secs(2));
        signal("-STOP", processes[1]);
        let ended = launched.end_within(Duration::from_secs(30));
        let said = "rank 1 does not come: it hangs, or was stopped";
        assert!(
            !ended.succeeded && ended.errors.contains(said),
            "{}",
            ended.errors
        );
    }
}

pub fn a_rank_that_fails_names_itself() {
    for (program, said) in [
        ("panic", "this rank has had enough"),
        ("panic", "error: rank 1 of 3"),
        ("abort", "error: rank 1 of 3"),
        ("abort", "): no such file"),
        ("mismatch", "MPI failed: MPI_ERR_TRUNCATE"),
    ] {
        let ended = launch::launch(3, program).end_within(Duration::from_secs(30));
        assert!(
            !ended.succeeded && ended.errors.contains(said),
            "{program}:\n{}",
            ended.errors
        );
    }
}
