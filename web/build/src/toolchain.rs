//! Which compiler builds for the web on this machine.
//!
//! One that has the target's standard library (`rustup target add wasm32-unknown-unknown`), or else one that has the sources
//! of the standard library, as Debian's `rustc-web`, `cargo-web` and `rust-web-src` are: it is built along, which needs
//! nothing from elsewhere.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

/// What WebAssembly modules are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// A compiler, with what it needs for [`TARGET`].
pub struct Toolchain {
    cargo: OsString,
    rustc: OsString,
    /// The linker, where the compiler has none of its own.
    linker: Option<PathBuf>,
    /// Whether the standard library has to be built from its sources.
    builds_std: bool,
}

impl Toolchain {
    /// The first one that can build for the web: that of the `PATH`, or the system's.
    ///
    /// # Errors
    ///
    /// If there is none, or none with a linker; it says what to install.
    pub fn find() -> Result<Self> {
        // `cargo run`, which runs this program, says which it is.
        let own = |variable: &str, name: &str| env::var_os(variable).unwrap_or_else(|| name.into());
        let candidates = [
            (own("CARGO", "cargo"), own("RUSTC", "rustc")),
            ("/usr/bin/cargo".into(), "/usr/bin/rustc".into()),
        ];
        let present: Vec<_> = candidates
            .into_iter()
            .filter(|(cargo, _)| output(Command::new(cargo).arg("--version")).is_some())
            .filter_map(|(cargo, rustc)| {
                let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
                Some((cargo, rustc, Path::new(&sysroot).join("lib/rustlib")))
            })
            .collect();
        let compiled = present
            .iter()
            .find(|(.., libraries)| libraries.join(TARGET).join("lib").exists());
        let sources = present
            .iter()
            .find(|(.., libraries)| libraries.join("src/rust/library/Cargo.lock").exists());
        let Some((cargo, rustc, libraries)) = compiled.or(sources) else {
            bail!(
                "no compiler for {TARGET}: run `rustup target add {TARGET}`, or `sh scripts/setup-web.sh`, which also installs \
                 Debian's where rustup has none"
            );
        };
        let linker = if linker_in(libraries).is_some() {
            None
        } else {
            let other = present
                .iter()
                .find_map(|(.., libraries)| linker_in(libraries));
            Some(other.context("no rust-lld, the linker for WebAssembly: install a Rust toolchain with rustup, which has it")?)
        };
        Ok(Self {
            cargo: cargo.clone(),
            rustc: rustc.clone(),
            linker,
            builds_std: compiled.is_none(),
        })
    }

    /// One line: which it is.
    pub fn description(&self) -> String {
        let version = output(Command::new(&self.rustc).arg("--version")).unwrap_or_default();
        let from = if self.builds_std {
            ", standard library built from its sources"
        } else {
            ""
        };
        format!("{version}{from}")
    }

    /// Compiles package `shadegrad-web` of the repository in `root` with `profile`, and returns where the module is.
    ///
    /// # Errors
    ///
    /// If it does not compile; the compiler has said why.
    pub fn compile(&self, root: &Path, profile: &str) -> Result<PathBuf> {
        let target_directory = root.join("target/page");
        let mut cargo = Command::new(&self.cargo);
        cargo
            .current_dir(root)
            .env("RUSTC", &self.rustc)
            // These flags and no others: what is set for native code does not concern this. Without reference types, see
            // `module::without_reference_types`.
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                "-Ctarget-feature=-reference-types",
            )
            .args([
                "build",
                "--lib",
                "-p",
                "shadegrad-web",
                "--target",
                TARGET,
                "--profile",
                profile,
            ])
            .arg("--target-dir")
            .arg(&target_directory);
        if self.builds_std {
            // The option is unstable: a stable compiler has to be told that this is meant.
            cargo
                .env("RUSTC_BOOTSTRAP", "1")
                .args(["-Z", "build-std=std,panic_abort"]);
        }
        if let Some(linker) = &self.linker {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        let status = cargo
            .status()
            .with_context(|| format!("can't run {}", self.cargo.display()))?;
        ensure!(
            status.success(),
            "shadegrad-web does not compile for {TARGET} (cargo's own words are above)"
        );
        let folder = if profile == "dev" { "debug" } else { profile };
        Ok(target_directory
            .join(TARGET)
            .join(folder)
            .join("shadegrad_web.wasm"))
    }
}

/// What a command that succeeds prints, without the line's end.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The program of this name that the `PATH` has.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(&file))
        .find(|path| path.is_file())
}

/// The linker that toolchains of rustup bring.
fn linker_in(libraries: &Path) -> Option<PathBuf> {
    let hosts = fs::read_dir(libraries).ok()?.flatten();
    hosts
        .map(|host| {
            host.path()
                .join("bin")
                .join(format!("rust-lld{}", env::consts::EXE_SUFFIX))
        })
        .find(|path| path.is_file())
}
