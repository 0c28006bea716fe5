//! Adapters added to a model's weights.

use std::path::{Path, PathBuf};

use clap::Args;
use shadegrad::Device;
use shadegrad::hugging_face::{AdapterFiles, ModelFiles, SaveDType};
use shadegrad::nn::Gpt;

use super::{files_of, open, saving};
use crate::common::args::{DeviceArgs, kinds};
use crate::common::{Result, program};

/// The command line of `lm merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// The model's directory
    model: PathBuf,
    /// The adapters' directory, of `lm tune --lora` or of the peft library
    adapters: PathBuf,
    /// Directory for the merged model, in the layout of the model
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Type of the saved weights: f32, f16, bf16, or as-stored in the model's files
    #[arg(long, value_parser = kinds(SaveDType::ALL, SaveDType::name), default_value_t = SaveDType::AsStored, value_name = "TYPE")]
    save_dtype: SaveDType,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Merge {
    /// Writes the model with the adapters in its weights.
    ///
    /// # Errors
    ///
    /// One line about a file.
    pub fn run(&self) -> Result<()> {
        let (model, _) = open(&self.model)?;
        AdapterFiles::open(&self.adapters)?;
        let of_model = files_of(&self.model, &model);
        // Merged twice, adapters would count twice.
        let of_model = of_model.iter().map(|(_, path)| ("the model", &**path));
        model.check_output(&self.out)?;
        saving::prepare(&self.out, &model, &of_model.collect::<Vec<_>>())?;
        let device = program::open_device_aside(&self.device)?;
        let (mut gpt, parameters) = model.load(&device)?;
        into(&mut gpt, &model, &self.adapters, &device)?;
        model.save_as(&self.out, &parameters, self.save_dtype)?;
        saving::keep(&self.model, &self.out)?;
        saving::note_rounding(&model, self.save_dtype);
        say!("the merged model: {}", self.out.display());
        Ok(())
    }
}

/// Adds the adapters of a directory to a loaded model's weights.
pub fn into(gpt: &mut Gpt, model: &ModelFiles, adapter: &Path, device: &Device) -> Result<()> {
    AdapterFiles::open(adapter)?.load(model, gpt, device)?;
    for linear in gpt.linears_mut() {
        linear.merge_lora()?;
    }
    Ok(())
}
