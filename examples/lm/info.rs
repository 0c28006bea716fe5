//! What a model is, and what it needs, before it is loaded.

use std::path::Path;

use indicatif::HumanBytes;
use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::ParameterBuilder;
use shadegrad::tape::Precision;
use shadegrad::{DType, Device};

use crate::common::args::DeviceArgs;
use crate::common::words::HumanCount;
use crate::common::{Result, program, terminal};

/// The rank of adapters whose training is reckoned.
const RANK: usize = 8;

/// Prints it.
///
/// # Errors
///
/// Those of [`ModelFiles::open`] and [`ModelFiles::with_context`].
pub fn run(directory: &Path, context: Option<usize>, device: &DeviceArgs) -> Result<()> {
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
    say!("device memory, beside what kernels compute with:");
    for precision in [Precision::F32, Precision::Mixed] {
        let generate = needs.inference(precision.dtype(), config.context);
        for (what, bytes) in [
            ("generate, with a full cache", generate),
            ("train all", needs.training(precision)),
            ("train adapters of rank 8", needs.lora(precision, RANK)),
        ] {
            let fits = match memory {
                None => "",
                Some(memory) if bytes <= memory => "  fits",
                Some(_) => "  does not fit",
            };
            let size = HumanBytes(bytes).to_string();
            say!("  {:<6} {what:<28} {size:>12}{fits}", precision.to_string());
        }
    }
    if let Ok(device) = &device {
        say!("adapter: {}", fit(&files, device));
    }
    Ok(())
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
