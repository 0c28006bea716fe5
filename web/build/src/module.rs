//! The module as browsers get it: with its JavaScript, optimised, and no larger than it may be.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use wasm_bindgen_cli_support::Bindgen;

use crate::toolchain::{in_path, output};

/// Most bytes that the optimised module may have.
const MOST_BYTES: u64 = 2_500_000;
/// Most bytes that it may have compressed by gzip, which is what static hosts send.
const MOST_COMPRESSED: u64 = 900_000;

/// What the compiler's output may use, which every browser with WebGPU has: rustc's defaults, and what wasm-bindgen adds.
/// Named, since old versions of wasm-opt don't know all features that a module's own list names.
const FEATURES: [&str; 5] = [
    "bulk-memory",
    "multivalue",
    "mutable-globals",
    "nontrapping-float-to-int",
    "sign-ext",
];

/// Makes `shadegrad_web.js` and `shadegrad_web_bg.wasm` in `folder` from what the compiler made, `compiled`. What is there
/// already and was made from the same is left as it is.
///
/// # Errors
///
/// If wasm-bindgen or wasm-opt fails, or the optimised module is larger than it may be.
pub fn finish(compiled: &Path, folder: &Path, optimise: bool) -> Result<()> {
    let optimiser = if optimise { in_path("wasm-opt") } else { None };
    let stamp = stamp(compiled, optimiser.as_deref())?;
    let stamp_file = folder.join("made-from");
    if fs::read_to_string(&stamp_file).ok().as_ref() != Some(&stamp) {
        // Gone first: a run that fails half-way must not look finished.
        fs::remove_dir_all(folder)
            .or_else(|error| if folder.exists() { Err(error) } else { Ok(()) })?;
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let mut bindgen = Bindgen::new();
        let bytes =
            fs::read(compiled).with_context(|| format!("can't read {}", compiled.display()))?;
        bindgen
            .input_bytes("shadegrad_web", without_reference_types(bytes))
            .typescript(false)
            .web(true)?;
        bindgen
            .remove_name_section(optimise)
            .remove_producers_section(optimise);
        bindgen.generate(folder).context("wasm-bindgen")?;
        if let Some(program) = &optimiser {
            run_optimiser(program, &folder.join(MODULE))?;
        }
        fs::write(&stamp_file, &stamp)?;
    }

    let (bytes, compressed) = sizes(&folder.join(MODULE))?;
    println!(
        "{MODULE}: {} ({} compressed by gzip)",
        kilobytes(bytes),
        kilobytes(compressed)
    );
    match optimiser {
        Some(_) => {
            ensure!(
                bytes <= MOST_BYTES,
                "{MODULE} has {bytes} bytes: more than the {MOST_BYTES} that it may have"
            );
            ensure!(
                compressed <= MOST_COMPRESSED,
                "{MODULE} has {compressed} bytes compressed: more than the {MOST_COMPRESSED} that it may have"
            );
        }
        None if optimise => eprintln!(
            "WARNING: no wasm-opt in the PATH: the module is not optimised, and larger and slower than the one to publish.\n\
             WARNING: install binaryen (sh scripts/setup-web.sh), and build again."
        ),
        None => {}
    }
    Ok(())
}

/// The module's file name, as wasm-bindgen makes it.
pub const MODULE: &str = "shadegrad_web_bg.wasm";
/// The name of its JavaScript.
pub const SCRIPT: &str = "shadegrad_web.js";

fn run_optimiser(program: &Path, module: &Path) -> Result<()> {
    let features = FEATURES.map(|feature| format!("--enable-{feature}"));
    let status = Command::new(program)
        .arg(module)
        .args(["-o".as_ref(), module.as_os_str()])
        .arg("-Os")
        .args(&features)
        .status()
        .with_context(|| format!("can't run {}", program.display()))?;
    ensure!(
        status.success(),
        "{} failed: its own words are above",
        program.display()
    );
    Ok(())
}

/// The module whose list of features says that it has no reference types, which lets wasm-bindgen keep JavaScript's values in
/// an array and not in a table of the module: Debian's wasm-opt (108) makes tables of another type of those. Nothing else in
/// the module uses them, but a standard library that was compiled with the target's defaults puts them into the list.
fn without_reference_types(mut module: Vec<u8>) -> Vec<u8> {
    const USED: &[u8] = b"+\x0freference-types";
    if let Some(place) = module
        .windows(USED.len())
        .rposition(|window| window == USED)
    {
        module[place] = b'-';
    }
    module
}

/// What the result depends on.
fn stamp(compiled: &Path, optimiser: Option<&Path>) -> Result<String> {
    let made = |path: PathBuf| -> Result<String> {
        let metadata =
            fs::metadata(&path).with_context(|| format!("can't read {}", path.display()))?;
        Ok(format!(
            "{} {} {:?}",
            path.display(),
            metadata.len(),
            metadata.modified()?
        ))
    };
    let version = optimiser.map(|program| output(Command::new(program).arg("--version")));
    Ok(format!(
        "{}\n{}\n{version:?}\n",
        made(compiled.to_owned())?,
        made(env::current_exe()?)?
    ))
}

/// Bytes of a file, and how many gzip makes of them.
fn sizes(path: &Path) -> Result<(u64, u64)> {
    let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    Ok((bytes.len() as u64, encoder.finish()?.len() as u64))
}

fn kilobytes(bytes: u64) -> String {
    format!("{:.0} KB", bytes as f64 / 1e3)
}
