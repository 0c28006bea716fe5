//! What a model will take of a device's memory.

use crate::error::{Error, Result, bytes, require_within};
use crate::gpu::{DType, Device};
use crate::nn::{Gpt, GptConfig, ParameterBuilder, PositionKind};
use crate::tape::Precision;

/// Bytes a parameter that is trained, its gradient and AdamW's two moments included; halves come on top in mixed precision.
const TRAINED: u64 = 16;

/// What a model takes of a device's memory, in bytes, known before anything is loaded: see
/// [`ModelFiles::needs`](super::ModelFiles::needs). Kernels' operands and results come on top: little for inference; in
/// training they grow with batch and context.
///
/// ```
/// use shadegrad::DType;
/// use shadegrad::hugging_face::MemoryNeeds;
/// use shadegrad::nn::{GptConfig, PositionKind};
///
/// let config = GptConfig { positions: PositionKind::Rotary, context: 2048, ..GptConfig::new(1000) };
/// let needs = MemoryNeeds::of(&config)?;
/// assert_eq!(needs.parameters(), config.parameter_count() as u64);
/// assert_eq!(needs.cache(DType::F16, 1, 100), 4 * 2 * 32 * 100 * 2);
/// # Ok::<(), shadegrad::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryNeeds {
    parameters: u64,
    /// With the padding between them.
    stored: u64,
    /// Numbers of the largest parameter that is never split.
    largest: u64,
    /// Of one of the tables, and how many there are.
    table: u64,
    tables: u64,
    /// Numbers in the cache for a token of a text.
    cached: u64,
    /// Inputs and outputs together of all linear layers in the blocks.
    linear: u64,
}

impl MemoryNeeds {
    /// Those of a model.
    ///
    /// # Errors
    ///
    /// Those of [`GptConfig::validate`].
    pub fn of(config: &GptConfig) -> Result<MemoryNeeds> {
        let mut builder = ParameterBuilder::new(0);
        Gpt::new(config, &mut builder)?;
        let mut needs = MemoryNeeds {
            parameters: 0,
            stored: 0,
            largest: 0,
            table: 0,
            tables: 1,
            cached: (2 * config.n_layers * config.n_kv_heads() * config.head_dim()) as u64,
            linear: 0,
        };
        for parameter in builder.parameters() {
            let shape = parameter.shape();
            needs.parameters += shape.elements() as u64;
            needs.stored += shape.elements().next_multiple_of(4) as u64;
            if parameter.name() != "token_embedding.weight" {
                needs.largest = needs.largest.max(shape.elements() as u64);
            }
            if shape.rank() == 2 && parameter.name().starts_with("blocks.") {
                needs.linear += (shape.dim(0) + shape.dim(1)) as u64;
            }
        }
        let width = match config.positions {
            PositionKind::Learned => 0,
            PositionKind::Sinusoidal => config.d_model,
            PositionKind::Rotary => config.head_dim(),
        };
        needs.table = (4 * config.context * width) as u64;
        let local = config.local.as_ref();
        if local.is_some_and(|local| local.rotary.is_some()) {
            needs.tables = 2;
        }
        Ok(needs)
    }

    /// How many numbers the model has. Tied weights count once.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The largest parameter, stored as `dtype`, which an adapter must let kernels [bind](ParameterBuilder::parameter_limit_of).
    /// The token table doesn't count: it is split.
    pub fn largest(&self, dtype: DType) -> u64 {
        self.largest * dtype.bytes() as u64
    }

    /// The parameters, stored as `dtype`.
    pub fn weights(&self, dtype: DType) -> u64 {
        self.stored * dtype.bytes() as u64
    }

    /// The tables of positions, which are as long as the [context](super::ModelFiles::with_context).
    pub fn tables(&self) -> u64 {
        self.tables * self.table
    }

    /// A [`KvCache`](crate::nn::KvCache) for `batch` texts of up to `capacity` tokens.
    pub fn cache(&self, dtype: DType, batch: usize, capacity: usize) -> u64 {
        (batch as u64 * capacity as u64).saturating_mul(self.cached * dtype.bytes() as u64)
    }

    /// Generating one text of up to `capacity` tokens: parameters, tables and cache.
    pub fn inference(&self, dtype: DType, capacity: usize) -> u64 {
        let cache = self.cache(dtype, 1, capacity);
        (self.weights(dtype) + self.tables()).saturating_add(cache)
    }

    /// Training all parameters with AdamW: these, their gradients, both moments, in mixed precision the copy in halves, and
    /// the tables.
    pub fn training(&self, precision: Precision) -> u64 {
        self.stored * trained(precision) + self.tables()
    }

    /// Training adapters of `rank` on all linear layers of the blocks with AdamW; everything else is frozen and costs its own
    /// bytes, in mixed precision those of halves. Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
    pub fn lora(&self, precision: Precision, rank: usize) -> u64 {
        let adapters = self.linear * rank as u64;
        self.weights(precision.dtype()) + adapters * trained(precision) + self.tables()
    }

    /// Refuses a model whose parameters, stored as `dtype`, and tables are more than `memory`, if that is known, such as what
    /// the device [has](Device::memory); [`ModelFiles::load`](super::ModelFiles::load) does so first.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; [`Error::Limit`] if a table is larger than the device's buffers may be.
    pub fn check(&self, dtype: DType, memory: Option<u64>, device: &Device) -> Result<()> {
        let limits = device.limits();
        let largest = limits
            .max_buffer_size
            .min(limits.max_storage_buffer_binding_size);
        let what = "the model's table of positions, in bytes,";
        require_within(largest, what, self.table)?;
        let needed = self.weights(dtype) + self.tables();
        match memory {
            Some(memory) if needed > memory => {
                let halves = match dtype {
                    DType::F16 => String::new(),
                    _ => format!(
                        " ({} as F16)",
                        bytes(self.weights(DType::F16) + self.tables())
                    ),
                };
                let (needed, memory) = (bytes(needed), bytes(memory));
                let reason = format!(
                    "the model's parameters take {needed} as {dtype:?}{halves}, the adapter has {memory}"
                );
                Err(Error::OutOfMemory { reason })
            }
            _ => Ok(()),
        }
    }
}

fn trained(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => TRAINED,
        Precision::Mixed => TRAINED + 2,
    }
}
