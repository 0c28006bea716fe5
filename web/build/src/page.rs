//! The directory that is served or published: the page's own files, and the engine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::module::{self, MODULE, SCRIPT};
use crate::toolchain::Toolchain;

/// Where the page of the repository in `root` is built.
pub fn directory(root: &Path) -> PathBuf {
    root.join("web/dist")
}

/// Builds the page of the repository in `root`.
///
/// # Errors
///
/// If there is no compiler for the web, the engine does not compile, or is larger than it may be.
pub fn build(root: &Path, debug: bool) -> Result<()> {
    let toolchain = Toolchain::find()?;
    println!("compiling with {}", toolchain.description());
    let compiled = toolchain.compile(root, if debug { "dev" } else { "web" })?;
    let finished = root
        .join("target/page")
        .join(if debug { "finished-debug" } else { "finished" });
    module::finish(&compiled, &finished, !debug)?;

    let dist = directory(root);
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("can't empty {}", dist.display()))?;
    }
    copy_directory(&root.join("web/page"), &dist)?;
    for name in [SCRIPT, MODULE] {
        fs::copy(finished.join(name), dist.join(name))
            .with_context(|| format!("can't copy {name} to {}", dist.display()))?;
    }
    println!("the page is in {}", dist.display());
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("can't make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("can't read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("can't copy to {}", target.display()))?;
        }
    }
    Ok(())
}
