//! What makes the parameters of a model.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use super::flat::{FlatTensors, Places};
use super::parameter::{Inner, Parameter};
use super::parameters::{Parameters, require_range};
use super::{Constant, Init, InitKind};
use crate::error::Result;
use crate::gpu::{DType, Device};
use crate::shape::Shape;

/// Collects the parameters of a model while its layers are being made. See the [module documentation](crate::nn).
#[derive(Debug)]
pub struct ParameterBuilder {
    seed: u64,
    init: InitKind,
    prefix: String,
    parameters: Vec<Parameter>,
    constants: Vec<Constant>,
    names: HashSet<String>,
    dtype: DType,
    is_frozen: bool,
    segment_limit: u64,
    pub(super) parameter_limit: u64,
}

impl ParameterBuilder {
    /// A builder whose random initial values come from `seed`.
    pub fn new(seed: u64) -> ParameterBuilder {
        ParameterBuilder {
            seed,
            init: InitKind::default(),
            prefix: String::new(),
            parameters: Vec::new(),
            constants: Vec::new(),
            names: HashSet::new(),
            dtype: DType::F32,
            is_frozen: false,
            segment_limit: u64::MAX,
            parameter_limit: u64::MAX,
        }
    }

    /// Chooses what the layers of this crate start with; parameters added by [`ParameterBuilder::parameter`] start as they
    /// say.
    pub fn with_init(mut self, init: InitKind) -> ParameterBuilder {
        self.init = init;
        self
    }

    /// What layers start with.
    pub fn init(&self) -> InitKind {
        self.init
    }

    /// Chooses the type that all parameters are stored in, norms' weights and biases included. [`DType::F16`] is for
    /// inference: half the memory, half of what a token must read, and a [`Gpt`](super::Gpt) that
    /// [generates](super::Gpt::generate) in [`Precision::Mixed`](crate::tape::Precision::Mixed). Optimizers refuse such
    /// parameters: training in mixed precision keeps them in `F32`, and needs [`Tape::set_precision`](crate::Tape::set_precision) only.
    ///
    /// A model that is in memory is loaded into another one of halves:
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
    /// use shadegrad::{DType, Device};
    ///
    /// let device = Device::new()?;
    /// let config = GptConfig { n_layers: 1, ..GptConfig::new(27) };
    /// let mut builder = ParameterBuilder::new(42);
    /// Gpt::new(&config, &mut builder)?;
    /// let trained = builder.build(&device)?;
    ///
    /// let mut builder = ParameterBuilder::new(0).with_dtype(DType::F16);
    /// let gpt = Gpt::new(&config, &mut builder)?;
    /// let halves = builder.build_zeroed(&device)?;
    /// halves.load(trained.to_host()?)?;
    /// assert_eq!(2 * halves.bytes(), trained.bytes());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If it is [`DType::U32`].
    #[track_caller]
    pub fn with_dtype(mut self, dtype: DType) -> ParameterBuilder {
        assert!(dtype.is_float(), "parameters are F32 or F16, not {dtype:?}");
        self.dtype = dtype;
        self
    }

    /// The type that parameters are stored in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Makes all parameters that are described from here on constants: no gradient flows to them, nor through what depends
    /// on nothing else, and optimizers refuse them. So they cost their own bytes and nothing else, with
    /// [`DType::F16`] half of that, while [adapters](super::Linear::add_lora) of another builder are trained.
    /// [`ParameterGroups`](crate::optim::ParameterGroups) freeze some parameters of a set that is trained.
    pub fn frozen(mut self) -> ParameterBuilder {
        self.is_frozen = true;
        self
    }

    /// Limits the size of the flat buffers, in bytes. The adapter's own limits hold in any case; a parameter that is
    /// larger than `bytes` gets a buffer to itself.
    pub fn with_segment_limit(mut self, bytes: u64) -> ParameterBuilder {
        self.segment_limit = bytes;
        self
    }

    /// Lets layers that can do so split parameters of more than `bytes` into several: see
    /// [`Embedding`](super::Embedding). The limit belongs to the model, like its sizes: names in checkpoints depend on it.
    /// [`ParameterBuilder::parameter_limit_of`] is what an adapter needs.
    pub fn with_parameter_limit(mut self, bytes: u64) -> ParameterBuilder {
        self.parameter_limit = bytes;
        self
    }

    /// The most bytes that one parameter may have on a device.
    pub fn parameter_limit_of(device: &Device) -> u64 {
        device.largest_storage()
    }

    /// What has been added so far.
    pub(crate) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Makes the parameters of a part of the model: all names get the prefix `name.`.
    pub fn scope<R>(
        &mut self,
        name: impl AsRef<str>,
        make: impl FnOnce(&mut ParameterBuilder) -> R,
    ) -> R {
        make(&mut self.enter(name))
    }

    /// [`ParameterBuilder::scope`] as long as the answer lives. Constructors of layers use it, so that their panics name the
    /// line of the caller, as those within a closure don't.
    ///
    /// ```
    /// use shadegrad::nn::{Linear, ParameterBuilder};
    ///
    /// let mut builder = ParameterBuilder::new(42);
    /// let first = Linear::new(&mut builder.enter("first"), 64, 32, true);
    /// assert_eq!(first.weight().name(), "first.weight");
    /// ```
    pub fn enter(&mut self, name: impl AsRef<str>) -> Scope<'_> {
        let outer = self.prefix.len();
        self.prefix.push_str(name.as_ref());
        self.prefix.push('.');
        Scope {
            builder: self,
            outer,
        }
    }

    /// Adds a parameter.
    ///
    /// # Panics
    ///
    /// If there is one of that name already, the shape is not possible, or the initial values are not finite.
    #[track_caller]
    pub fn parameter(
        &mut self,
        name: impl AsRef<str>,
        shape: impl Into<Shape>,
        init: Init,
    ) -> Parameter {
        let name = format!("{}{}", self.prefix, name.as_ref());
        let shape = shape.into();
        assert!(
            self.names.insert(name.clone()),
            "there is a parameter `{name}` already: give each layer a name with ParameterBuilder::scope"
        );
        assert!(
            init.is_finite(),
            "parameter `{name}`: initial values {init:?} are not finite; what are its fans and gain?"
        );
        let parameter = Parameter {
            inner: Arc::new(Inner {
                name,
                shape,
                init,
                is_frozen: self.is_frozen,
                tensor: OnceLock::new(),
            }),
        };
        self.parameters.push(parameter.clone());
        parameter
    }

    /// Adds a fixed tensor that is not trained, such as a table of sines.
    ///
    /// # Panics
    ///
    /// If `values` has not as many elements as the shape.
    #[track_caller]
    pub fn constant(&mut self, shape: impl Into<Shape>, values: Vec<f32>) -> Constant {
        let shape = shape.into();
        assert!(
            values.len() == shape.elements(),
            "constant: shape {shape} is not filled by {} values",
            values.len()
        );
        self.constant_with(shape, move || values.clone())
    }

    /// [`ParameterBuilder::constant`] of values that are computed when it is built.
    pub(super) fn constant_with(
        &mut self,
        shape: impl Into<Shape>,
        values: impl Fn() -> Vec<f32> + Send + Sync + 'static,
    ) -> Constant {
        let constant = Constant::new(shape.into(), Box::new(values));
        self.constants.push(constant.clone());
        constant
    }

    /// Allocates the storage and writes the initial values.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) if one parameter is larger than the adapter lets a kernel bind,
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::DeviceLost`](crate::Error::DeviceLost).
    /// [`Error::Parameter`](crate::Error::Parameter) if an initial value is too large for the parameters' type.
    pub fn build(self, device: &Device) -> Result<Parameters> {
        let seed = self.seed;
        let parameters = self.build_zeroed(device)?;
        for parameter in &parameters {
            let Inner {
                name, shape, init, ..
            } = &*parameter.inner;
            // New storage is zero already.
            if *init != Init::Zeros && !device.is_meta() {
                let values = init.values(seed, name, shape.elements());
                require_range(name, parameter.tensor(), &values)?;
                parameter.tensor().write_floats(&values)?;
            }
        }
        Ok(parameters)
    }

    /// [`ParameterBuilder::build`] for values that are loaded next: all parameters are zero, and the host neither draws
    /// nor holds any.
    ///
    /// # Errors
    ///
    /// As [`ParameterBuilder::build`].
    pub fn build_zeroed(self, device: &Device) -> Result<Parameters> {
        let largest = ParameterBuilder::parameter_limit_of(device);
        let places = Places::of(
            self.parameters
                .iter()
                .map(|parameter| (parameter.name(), parameter.shape())),
            self.dtype,
            self.segment_limit,
            largest,
        )?;
        let storage = FlatTensors::zeros(device, &places, self.dtype)?;
        for segment in storage.segments() {
            segment.buffer.want_halves();
        }
        for (parameter, tensor) in self.parameters.iter().zip(storage.parts()) {
            let fresh = parameter.inner.tensor.set(tensor.clone()).is_ok();
            assert!(fresh, "only a builder fills its parameters");
        }
        for constant in &self.constants {
            constant.build(device)?;
        }
        let (dtype, parameters) = (self.dtype, self.parameters);
        Ok(Parameters::new(device, dtype, parameters, places, storage))
    }
}

/// A builder whose names get a prefix: see [`ParameterBuilder::enter`].
#[derive(Debug)]
pub struct Scope<'b> {
    builder: &'b mut ParameterBuilder,
    /// How long the prefix around it is.
    outer: usize,
}

impl Deref for Scope<'_> {
    type Target = ParameterBuilder;

    fn deref(&self) -> &ParameterBuilder {
        self.builder
    }
}

impl DerefMut for Scope<'_> {
    fn deref_mut(&mut self) -> &mut ParameterBuilder {
        self.builder
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        self.builder.prefix.truncate(self.outer);
    }
}
