//! The frame of a program: its command line, its errors as one line, its device, and its files looked at before the work.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use serde::Serialize;
use shadegrad::data::excerpt;
use shadegrad::{Device, DeviceOptions};

use super::args::{self, DeviceArgs, FileArgs};
use super::course::Ranks;
use super::outputs::{self, Mode, Output};
use super::terminal::LONGEST;
use super::training::Summary;
use super::{Result, interrupt, plot, ranks, terminal};

/// Reads the command line as [`args::parse`] does; prints help or a usage error and exits where that is all there is to do.
pub fn read<C>(defaults: &[(&'static str, &'static str)]) -> (C, Vec<String>)
where
    C: CommandFactory + FromArgMatches,
{
    args::parse(std::env::args_os(), defaults).unwrap_or_else(|error| exit(&error))
}

/// Prints help or a usage error and exits.
pub fn exit(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    if ranks::are_several() && error.use_stderr() {
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        terminal::error(&*ranks::refuse(text.trim_end().to_owned()));
        std::process::exit(error.exit_code());
    }
    if ranks::is_silent() {
        // Help, which rank 0 prints.
        std::process::exit(0);
    }
    // Help goes to standard output, and is long.
    if error.use_stderr() && text.len() > LONGEST {
        let _ = writeln!(std::io::stderr(), "{}", excerpt(&text, LONGEST));
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// Runs a program, the first thing in `main`: what goes wrong costs one line and exit code 1.
pub fn run(program: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    let whole = |code| match terminal::failure() {
        Some(error) => Err(format!("standard output: {error}").into()),
        None => Ok(code),
    };
    program().and_then(whole).unwrap_or_else(|error| {
        let error = match ranks::are_several() {
            true => ranks::refuse(error.to_string()),
            false => error,
        };
        terminal::error(&*error);
        ExitCode::FAILURE
    })
}

/// Prints the adapters.
///
/// # Errors
///
/// If there is none.
pub fn list_adapters() -> Result<ExitCode> {
    let adapters = Device::list_adapters();
    if adapters.is_empty() {
        return Err(shadegrad::Error::NoAdapter.into());
    }
    for (index, adapter) in adapters.iter().enumerate() {
        say!("{index}: {adapter}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the device and says which it is.
///
/// # Errors
///
/// Those of [`Device::with_options`].
pub fn open_device(args: &DeviceArgs) -> Result<Device> {
    let device = device(args)?;
    say!("adapter: {}", device.description());
    Ok(device)
}

/// [`open_device`] for one of several ranks: those of a machine take its adapters in turn, unless one is chosen.
///
/// # Errors
///
/// Those of [`Device::with_options`].
pub fn open_device_of(args: &DeviceArgs, ranks: Option<&dyn Ranks>) -> Result<Device> {
    let is_chosen = args.adapter.is_some() || std::env::var_os("WGPU_ADAPTER_NAME").is_some();
    let Some(ranks) = ranks.filter(|_| !is_chosen) else {
        return open_device(args);
    };
    let adapters = Device::list_adapters();
    // Not a software adapter beside GPUs.
    let best = adapters.first().map(|adapter| adapter.class);
    let alike = adapters
        .iter()
        .take_while(|adapter| Some(adapter.class) == best)
        .count();
    open_device(&DeviceArgs {
        adapter: (alike > 0).then(|| (ranks.local_rank() % alike).to_string()),
        ..args.clone()
    })
}

/// [`open_device`] for a program that prints an answer: which device it is goes to standard error.
///
/// # Errors
///
/// Those of [`Device::with_options`].
pub fn open_device_aside(args: &DeviceArgs) -> Result<Device> {
    let device = device(args)?;
    let _ = writeln!(std::io::stderr(), "adapter: {}", device.description());
    Ok(device)
}

fn device(args: &DeviceArgs) -> Result<Device> {
    let options = DeviceOptions {
        adapter: args.adapter.clone(),
        ..DeviceOptions::default()
    };
    Ok(Device::with_options(&options)?)
}

/// What a program ends with after training.
pub fn exit_code(summary: &Summary) -> ExitCode {
    if summary.interrupted {
        ExitCode::from(interrupt::exit_code())
    } else {
        ExitCode::SUCCESS
    }
}

impl FileArgs {
    /// Finds out whether all files can be written, without touching one. `read` is what the program reads beside its
    /// checkpoint, with the flags that named it.
    ///
    /// # Errors
    ///
    /// One line with the flag, the path and the reason.
    pub fn check(&self, settings: &impl Serialize, read: &[(&str, Option<&Path>)]) -> Result<()> {
        if let Some(path) = &self.plot {
            plot::check(path)?;
        }
        if self.checkpoint.is_some() {
            // A file name that is not Unicode has no place in a checkpoint.
            serde_json::to_value(settings).map_err(|error| format!("--checkpoint: {error}"))?;
        }
        let files = [
            // A run may go on in the checkpoint that it was resumed from.
            (
                "--checkpoint",
                &self.checkpoint,
                Mode::Replace,
                Some("--resume"),
            ),
            ("--metrics", &self.metrics, Mode::InPlace, None),
            ("--plot", &self.plot, Mode::Replace, None),
            ("--profile", &self.profile, Mode::Replace, None),
        ];
        let outputs = files.iter().filter_map(|&(flag, path, mode, replaces)| {
            let path = path.as_deref()?;
            Some(Output {
                flag,
                path,
                mode,
                replaces,
            })
        });
        let resumed = ("--resume", self.resume.as_deref());
        let read = read.iter().copied().chain([resumed]);
        let inputs = read.filter_map(|(flag, path)| Some((flag, path?)));
        outputs::check(&outputs.collect::<Vec<_>>(), &inputs.collect::<Vec<_>>())
    }
}
