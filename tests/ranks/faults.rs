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

pub fn misuse(world: &World) {
    if world.rank() == 1 {
        // SAFETY: nothing is read, as there is no such rank.
        unsafe {
            use mpi::ffi::{MPI_Send, RSMPI_COMM_WORLD, RSMPI_INT32_T};
            MPI_Send(std::ptr::null(), 0, RSMPI_INT32_T, 99, 0, RSMPI_COMM_WORLD);
        }
    }
    world.meet("the others");
}

/// Whether a process runs: one that has ended, but that nobody has asked about, does not.
fn is_alive(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
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
        assert!(
            !ended.succeeded && ended.says_killed(victim),
            "after {moment:?}:\n{}\n{}",
            ended.output,
            ended.errors
        );
        let all_end = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            !processes.iter().any(|&process| is_alive(process))
        });
        assert!(all_end, "some of {processes:?} live on");
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
        ("misuse", "error: rank 1 of 3"),
        ("misuse", "): MPI failed: "),
        (
            "misuse",
            match *launch::IS_MPICH {
                true => "Invalid rank has value 99",
                false => "MPI_ERR_RANK",
            },
        ),
    ] {
        let ended = launch::launch(3, program).end_within(Duration::from_secs(30));
        assert!(
            !ended.succeeded && ended.errors.contains(said),
            "{program}:\n{}",
            ended.errors
        );
    }
}
