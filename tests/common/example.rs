//! The example programs, for tests that run them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// An example program, built if this test runs without the examples having been built.
pub fn program(name: &'static str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    // target/debug/deps/this-test → target/debug
    let test = std::env::current_exe().expect("a test has a path");
    let profile_folder = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/PROFILE/deps");
    let target = profile_folder.parent().expect("profiles lie in target");
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} is not named after a profile", profile_folder.display()),
    };
    let mut built = BUILT.lock().unwrap();
    if built.insert(name) {
        // What this test was built with, where that is more than features: scripts/mpich.sh.
        let config = std::env::var("SHADEGRAD_CARGO_CONFIG");
        let status = Command::new(env!("CARGO"))
            .args(config.iter().flat_map(|config| ["--config", config]))
            .args(["build", "--quiet", "--example", name, "--profile", profile])
            .arg("--target-dir")
            .arg(target)
            .args(cfg!(feature = "tokenizers").then_some("--features=tokenizers"))
            .args(cfg!(feature = "mpi").then_some("--features=mpi"))
            .args(cfg!(feature = "download").then_some("--features=download"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the example {name} does not build");
    }
    profile_folder
        .join("examples")
        .join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}
