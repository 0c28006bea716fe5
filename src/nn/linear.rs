//! Affine maps.

use std::ops::Range;

use super::{Init, Lora, LoraConfig, Parameter, ParameterBuilder};
use crate::error::Result;
use crate::tape::{Tape, Var};

/// `y = x·W + b` over the last axis: `[…, inputs] → […, outputs]`.
///
/// The parameters are `weight` `[inputs, outputs]` and, if there is one, `bias` `[outputs]`. A layer may get a low-rank
/// adapter, see [`Linear::add_lora`].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
    lora: Option<Lora>,
}

impl Linear {
    /// Weights and biases start as [`ParameterBuilder::with_init`] says.
    ///
    /// # Panics
    ///
    /// If the builder has a `weight` in this scope already.
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Linear {
        Linear::divided(builder, inputs, outputs, bias, 1.0)
    }

    /// [`Linear::new`] with values that are smaller by a factor.
    #[track_caller]
    pub(super) fn divided(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
        divisor: f32,
    ) -> Linear {
        let kind = builder.init();
        let weight = kind.weight(inputs, outputs).divided(divisor);
        let bias = bias.then(|| kind.bias(inputs).divided(divisor));
        Linear::of(builder, [inputs, outputs], weight, bias)
    }

    /// Weights of the given distribution, biases zero.
    ///
    /// # Panics
    ///
    /// As [`Linear::new`].
    #[track_caller]
    pub fn with_init(
        builder: &mut ParameterBuilder,
        inputs: usize,
        outputs: usize,
        bias: bool,
        init: Init,
    ) -> Linear {
        let bias = bias.then_some(Init::Zeros);
        Linear::of(builder, [inputs, outputs], init, bias)
    }

    #[track_caller]
    fn of(
        builder: &mut ParameterBuilder,
        shape: [usize; 2],
        weight: Init,
        bias: Option<Init>,
    ) -> Linear {
        Linear {
            weight: builder.parameter("weight", shape, weight),
            bias: bias.map(|init| builder.parameter("bias", [shape[1]], init)),
            lora: None,
        }
    }

    /// Gives the layer a low-rank [adapter](Lora); an earlier one goes. It is described to a builder of its own, under the
    /// layer's name: so that the layer's parameters, made by a builder that is [frozen](ParameterBuilder::frozen), cost nothing
    /// but their own bytes, and an optimizer is given the adapters alone.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::nn::{Gpt, GptConfig, LoraConfig, ParameterBuilder};
    /// use shadegrad::optim::{AdamW, AdamWConfig};
    /// use shadegrad::Device;
    ///
    /// let device = Device::new()?;
    /// let mut builder = ParameterBuilder::new(42).frozen();
    /// let mut gpt = Gpt::new(&GptConfig { n_layers: 1, ..GptConfig::new(27) }, &mut builder)?;
    /// builder.build(&device)?; // … and load what has been learnt
    ///
    /// let mut builder = ParameterBuilder::new(43);
    /// for linear in gpt.linears_mut() {
    ///     if linear.name().ends_with("out") {
    ///         linear.add_lora(&mut builder, &LoraConfig::new(4));
    ///     }
    /// }
    /// let adapters = builder.build(&device)?;
    /// assert_eq!(adapters.element_count(), 4 * (32 + 32));
    /// let optimizer = AdamW::new(&adapters, AdamWConfig::default())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the configuration is [not possible](LoraConfig::validate), or the builder has adapters of a layer of this name
    /// already.
    #[track_caller]
    pub fn add_lora(&mut self, builder: &mut ParameterBuilder, config: &LoraConfig) {
        let outputs = self.weight.shape().dim(1);
        self.add_lora_to(builder, config, std::slice::from_ref(&(0..outputs)));
    }

    /// [`Linear::add_lora`] for a layer that packs several: an adapter for each of some ranges of its outputs, such as
    /// `&[0..32, 64..96]` for queries and values of 32 elements each.
    ///
    /// # Panics
    ///
    /// As [`Linear::add_lora`]; if `columns` are not one to four ranges of the outputs, in order and apart.
    #[track_caller]
    pub fn add_lora_to(
        &mut self,
        builder: &mut ParameterBuilder,
        config: &LoraConfig,
        columns: &[Range<usize>],
    ) {
        let shape = [0, 1].map(|axis| self.weight.shape().dim(axis));
        let scope = &mut builder.enter(self.name());
        self.lora = Some(Lora::new(scope, shape, config, columns));
    }

    /// The adapter, if it has one.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Adds what the adapter would add to the weight itself, `W ← W + s·A·B`, and takes it off: the same outputs, but for
    /// rounding, at no cost. Weights in `F16` are rounded to that once more.
    ///
    /// # Errors
    ///
    /// Those of [`Tape::run`].
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[track_caller]
    pub fn merge_lora(&mut self) -> Result<()> {
        let Some(lora) = self.lora.take() else {
            return Ok(());
        };
        let weight = self.weight.tensor();
        let tape = Tape::inference(weight.device());
        let merged = tape.tensor(weight) + lora.product(&tape);
        tape.assign(weight, merged.cast(weight.dtype()));
        tape.run()
    }

    /// The full name: that of the weight, without `.weight`.
    pub fn name(&self) -> &str {
        let name = self.weight.name();
        name.strip_suffix(".weight").unwrap_or(name)
    }

    /// The weight, `[inputs, outputs]`.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> Option<&Parameter> {
        self.bias.as_ref()
    }

    /// `[…, inputs] → […, outputs]`. Bias and pointwise operations that follow run in the product's epilogue.
    ///
    /// # Panics
    ///
    /// If `x` has fewer than two axes or another last extent.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let y = x.matmul(self.weight.on(x.tape()));
        let y = match &self.bias {
            Some(bias) => y + bias.on(x.tape()),
            None => y,
        };
        match &self.lora {
            Some(lora) => y + lora.forward(x),
            None => y,
        }
    }
}
