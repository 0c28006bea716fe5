//! Starting this program under the launcher of the MPI library that it is linked with.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The variable that tells a rank what to do.
pub const PROGRAM: &str = "SHADEGRAD_RANKS_PROGRAM";

/// Longer than anything here takes.
pub const LONGEST: Duration = Duration::from_secs(600);

/// What starts ranks.
struct Launcher {
    program: &'static str,
    /// Of all its command lines.
    flags: &'static [&'static str],
}

/// Whether the library is MPICH, and not Open MPI.
pub static IS_MPICH: LazyLock<bool> = LazyLock::new(|| {
    let library = mpi::environment::library_version().unwrap();
    match library.starts_with("Open MPI") || library.starts_with("MPICH") {
        true => library.starts_with("MPICH"),
        false => panic!("neither Open MPI nor MPICH: {library}"),
    }
});

/// Debian lets both be installed: `mpirun` is of one of them then.
static LAUNCHER: LazyLock<Launcher> = LazyLock::new(|| {
    let (programs, flags, says): (_, &[&str], _) = match *IS_MPICH {
        true => (["mpirun", "mpirun.mpich"], &[], "HYDRA"),
        false => (
            ["mpirun", "mpirun.openmpi"],
            &["--oversubscribe", "--allow-run-as-root"],
            "Open MPI",
        ),
    };
    let is_of_library = |program: &&str| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains(says))
    };
    let program = programs.into_iter().find(is_of_library);
    let program = program.unwrap_or_else(|| {
        panic!(
            "neither {} is a launcher of {says}: run scripts/setup-mpi.sh",
            programs.join(" nor ")
        )
    });
    Launcher { program, flags }
});

/// Ranks that are at work.
pub struct Launched {
    child: Child,
    pub lines: Receiver<String>,
    readers: Vec<JoinHandle<String>>,
}

/// What has become of them.
pub struct Ended {
    pub succeeded: bool,
    pub output: String,
    pub errors: String,
}

impl Ended {
    /// Whether it is said that this rank was killed. MPICH's launcher only says that one was, and may name another one.
    pub fn says_killed(&self, rank: usize) -> bool {
        match *IS_MPICH {
            true => self.output.contains("EXIT STRING: "),
            false => self.errors.contains(&format!("rank {rank} ")),
        }
    }
}

/// Starts so many ranks of this program.
pub fn launch(ranks: usize, program: &str) -> Launched {
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().expect("paths are Unicode").to_owned();
    mpirun(
        &["-n".to_owned(), ranks.to_string(), own],
        &[(PROGRAM, program)],
    )
}

/// Starts ranks by the launcher's command line.
pub fn mpirun(words: &[String], environment: &[(&str, &str)]) -> Launched {
    let Launcher { program, flags } = *LAUNCHER;
    let child = Command::new(program)
        .args(flags)
        .args(words)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let (sender, lines) = channel();
    let output = child.stdout.take().unwrap();
    let errors = child.stderr.take().unwrap();
    let readers = vec![
        std::thread::spawn(move || {
            let mut all = String::new();
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                all += &line;
                all.push('\n');
                let _ = sender.send(line);
            }
            all
        }),
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = BufReader::new(errors).read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        }),
    ];
    Launched {
        child,
        lines,
        readers,
    }
}

impl Launched {
    /// The process numbers of the ranks, which each of them prints at first.
    pub fn processes(&self, ranks: usize) -> Vec<u32> {
        let mut processes = vec![0; ranks];
        while processes.contains(&0) {
            let line = self.lines.recv_timeout(LONGEST).expect("all ranks begin");
            let words: Vec<&str> = line.split(' ').collect();
            if let ["process", rank, number] = words[..] {
                processes[rank.parse::<usize>().unwrap()] = number.parse().unwrap();
            }
        }
        processes
    }

    /// Waits for the end, which must not take longer than so.
    #[track_caller]
    pub fn end_within(mut self, limit: Duration) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > limit {
                let _ = self.child.kill();
                panic!("the ranks go on after {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let texts = self
            .readers
            .into_iter()
            .map(|reader| reader.join().unwrap());
        let [output, errors] = texts.collect::<Vec<_>>().try_into().unwrap();
        Ended {
            succeeded: status.success(),
            output,
            errors,
        }
    }
}

/// Runs so many ranks, which must succeed. Gives what they print.
#[track_caller]
pub fn run(ranks: usize, program: &str) -> String {
    let Ended {
        succeeded,
        output,
        errors,
    } = launch(ranks, program).end_within(LONGEST);
    assert!(
        succeeded,
        "{program} with {ranks} ranks:\n{output}\n{errors}"
    );
    output
}
