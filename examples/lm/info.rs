//! What a model is, and what it needs, before it is loaded.

use std::path::Path;

use indicatif::HumanBytes;
use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::{LoraConfig, ParameterBuilder};
use shadegrad::optim::{AdamW, AdamWConfig};
use shadegrad::tape::{MemoryUse, Precision};
use shadegrad::{DType, Device};

use super::for_rows;
use super::step::Step;
use crate::common::args::DeviceArgs;
use crate::common::words::HumanCount;
use crate::common::{Result, program, terminal};

/// The rank of adapters whose training is reckoned.
const RANK: usize = 8;

/// Tokens of a row that it is trained on, as `lm tune` has them.
const ROW: usize = 128;

/// Prints it.
///
/// # Errors
///
/// Those of [`ModelFiles::open`] and [`ModelFiles::with_context`].
pub fn run(
    directory: &Path,
    context: Option<usize>,
    (rows, checkpoint_blocks): (usize, bool),
    device: &DeviceArgs,
) -> Result<()> {
    let mut files = ModelFiles::open(directory)?;
    if let Some(context) = context {
        files = files.with_context(context)?;
    }
    let (config, needs) = (files.config(), files.needs());
    let count = |n: usize| HumanCount(n as u64);
    let kinds = files.dtypes().into_iter();
    let kinds = kinds.map(|(dtype, bytes)| format!("{} of {dtype}", HumanBytes(bytes)));
    say!(
        "{}: {} parameters, {} tokens, context {}",
        files.model_type(),
        HumanCount(needs.parameters()),
        count(config.vocab_size),
        count(config.context)
    );
    say!(
        "{} layers of {}, {} heads of {}, {} of keys and values",
        config.n_layers,
        config.d_model,
        config.n_heads,
        config.head_dim(),
        config.n_kv_heads()
    );
    say!("files: {}", kinds.collect::<Vec<_>>().join(", "));
    let device = program::open_device_aside(device);
    let memory = match &device {
        Ok(device) => device.memory(),
        Err(error) => {
            terminal::note(format_args!("{error}"));
            None
        }
    };
    let fits = |bytes: u64| match memory {
        None => "",
        Some(memory) if bytes <= memory => "  fits",
        Some(_) => "  does not fit",
    };
    let line = |precision: Precision, what: &str, bytes: u64, end: &str| {
        let size = HumanBytes(bytes).to_string();
        let precision = precision.to_string();
        say!("  {precision:<6} {what:<28} {size:>12}{end}{}", fits(bytes));
    };
    let precisions = [Precision::F32, Precision::Mixed];
    say!("device memory, beside what kernels compute with:");
    for precision in precisions {
        let generate = needs.inference(precision.dtype(), config.context);
        line(precision, "generate, with a full cache", generate, "");
        if device.is_err() {
            line(precision, "train all", needs.training(precision), "");
            let lora = needs.lora(precision, RANK);
            line(precision, "train adapters of rank 8", lora, "");
        }
    }
    let Ok(device) = &device else { return Ok(()) };
    let fit = fit(&files, device);
    let columns = context.unwrap_or(ROW).min(config.context);
    let files = for_rows(files, columns)?;
    say!("device memory to train on {rows} × {columns} tokens a step, with all that it computes:");
    for precision in precisions {
        let step = Step {
            rows,
            eval_rows: rows,
            context: columns,
            accumulates: false,
            precision,
        };
        for (what, rank) in [
            ("train all", None),
            ("train adapters of rank 8", Some(RANK)),
        ] {
            match memory_of(&files, &step, rank, checkpoint_blocks, &device.meta()) {
                Ok(memory) => {
                    let activations = HumanBytes(memory.intermediate);
                    let end = format!(", {activations} of activations");
                    line(precision, what, memory.total(), &end);
                }
                Err(error) => say!("  {:<6} {what:<28} {error}", precision.to_string()),
            }
        }
    }
    say!("adapter: {fit}");
    Ok(())
}

/// What a step takes that trains adapters on all linear layers, if there is a rank, or else all parameters.
fn memory_of(
    files: &ModelFiles,
    step: &Step,
    rank: Option<usize>,
    checkpoint_blocks: bool,
    meta: &Device,
) -> shadegrad::Result<MemoryUse> {
    let (mut gpt, parameters) = match rank {
        None => files.load(meta)?,
        Some(rank) => {
            let (mut gpt, _) = files.load_frozen(step.precision.dtype(), None, meta)?;
            let mut builder = ParameterBuilder::new(0);
            let all = ["all-linear".to_owned()];
            files.add_lora(&mut gpt, &mut builder, &LoraConfig::new(rank), &all)?;
            (gpt, builder.build(meta)?)
        }
    };
    gpt.set_checkpoint_blocks(checkpoint_blocks);
    step.memory(&gpt, &mut AdamW::new(&parameters, AdamWConfig::default())?)
}

/// What the adapter has for it.
fn fit(files: &ModelFiles, device: &Device) -> String {
    let memory = match device.memory() {
        Some(bytes) => format!("memory of {}", HumanBytes(bytes)),
        None => "its driver doesn't say how much memory there is".to_owned(),
    };
    let limit = ParameterBuilder::parameter_limit_of(device);
    let largest = files.needs().largest(DType::F32);
    let fits = if largest <= limit {
        "fits"
    } else {
        "does not fit"
    };
    format!(
        "{memory}; a parameter may have {}, the largest has {} as f32: {fits}",
        HumanBytes(limit),
        HumanBytes(largest)
    )
}
