//! Builds the browser page into `web/dist`, and serves it on this machine (`docs/web.md`).
//!
//! ```sh
//! cargo run --release -p shadegrad-web-build -- build
//! cargo run --release -p shadegrad-web-build -- serve
//! ```

mod module;
mod page;
mod serve;
mod toolchain;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Builds shadegrad's browser page, and serves it on this machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the page into web/dist
    Build(Build),
    /// Builds the page and serves it on 127.0.0.1
    Serve {
        #[command(flatten)]
        build: Build,
        /// Port to listen on; 0 takes any free one
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Open the page in the browser
        #[arg(long)]
        open: bool,
    },
}

#[derive(clap::Args)]
struct Build {
    /// Compile in a fraction of the time, with function names in traces, to a large and slow module
    #[arg(long)]
    debug: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("web/build lies in the repository");
    match cli.command {
        Command::Build(Build { debug }) => page::build(root, debug),
        Command::Serve {
            build: Build { debug },
            port,
            open,
        } => {
            // Before the build, which takes longer than a person looks at the screen.
            let address = serve::address(port)?;
            page::build(root, debug)?;
            serve::serve(address, &page::directory(root), open)
        }
    }
}
