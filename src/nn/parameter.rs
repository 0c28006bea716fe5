//! Named parameters in flat storage.
//!
//! All parameters of a model lie in a few large buffers, so that what treats them alike (the optimizer, clipping)
//! needs one dispatch per buffer, however many tensors the model has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::{Deref, DerefMut, Index};
use std::sync::{Arc, OnceLock};

use super::flat::{FlatTensors, Places};
use super::{Constant, Init, InitKind};
use crate::error::{Error, Result};
use crate::gpu::{DType, Device, Tensor};
use crate::shape::Shape;
use crate::tape::{Tape, Var};

/// A named tensor that training changes. Cheap to clone; clones are the same parameter, which is how weights are tied.
///
/// It can be used once the [`ParameterBuilder`] that made it has been [built](ParameterBuilder::build).
#[derive(Clone)]
pub struct Parameter {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    shape: Shape,
    init: Init,
    is_frozen: bool,
    tensor: OnceLock<Tensor>,
}

impl Parameter {
    /// The full name: scopes and own name, joined by dots.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.inner.shape
    }

    /// Whether it is a constant on tapes: see [`ParameterBuilder::frozen`].
    pub fn is_frozen(&self) -> bool {
        self.inner.is_frozen
    }

    /// Puts the parameter on a tape, as a leaf that gradients flow to unless it is [frozen](ParameterBuilder::frozen).
    /// Doing so again gives the same leaf.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[track_caller]
    pub fn on<'t>(&self, tape: &'t Tape) -> Var<'t> {
        match self.inner.is_frozen {
            true => tape.tensor(self.tensor()),
            false => tape.tensor_variable(self.tensor()),
        }
    }

    /// The values on the device, a part of the flat storage.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[track_caller]
    pub fn tensor(&self) -> &Tensor {
        match self.inner.tensor.get() {
            Some(tensor) => tensor,
            None => panic!(
                "parameter `{}` has no storage yet: call ParameterBuilder::build first",
                self.name()
            ),
        }
    }
}

impl fmt::Debug for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parameter({} {})", self.name(), self.shape())
    }
}

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
    /// parameters: training in mixed precision keeps them in `F32`, and needs [`Tape::set_precision`] only.
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
    /// [`Error::Limit`] if one parameter is larger than the adapter lets a kernel bind, [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`]. [`Error::Parameter`] if an initial value is too large for the parameters' type.
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
        let positions = self.parameters.iter().enumerate();
        Ok(Parameters {
            inner: Arc::new(Built {
                device: device.clone(),
                dtype: self.dtype,
                by_name: positions.map(|(i, p)| (p.name().to_owned(), i)).collect(),
                parameters: self.parameters,
                places,
                storage,
            }),
        })
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

/// All parameters of a model. Cheap to clone; clones are the same parameters.
#[derive(Clone)]
pub struct Parameters {
    inner: Arc<Built>,
}

struct Built {
    device: Device,
    dtype: DType,
    parameters: Vec<Parameter>,
    by_name: HashMap<String, usize>,
    places: Places,
    storage: FlatTensors,
}

impl Parameters {
    /// The device that holds them.
    pub fn device(&self) -> &Device {
        &self.inner.device
    }

    /// The parameters in the order in which they were added.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.inner.parameters.iter()
    }

    /// The parameter of that full name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        let index = *self.inner.by_name.get(name)?;
        Some(&self.inner.parameters[index])
    }

    /// How many parameters (tensors) there are.
    pub fn len(&self) -> usize {
        self.inner.parameters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many numbers they hold together, without padding.
    pub fn element_count(&self) -> usize {
        self.iter().map(|p| p.shape().elements()).sum()
    }

    /// The flat tensors in which the parameters lie.
    pub fn segments(&self) -> &[Tensor] {
        self.inner.storage.segments()
    }

    /// For each parameter, in order, the segment it lies in and its first element there.
    pub fn places(&self) -> &[(usize, usize)] {
        &self.inner.places.places
    }

    /// The type that they are stored in.
    pub fn dtype(&self) -> DType {
        self.inner.dtype
    }

    /// Their size on the device, padding included.
    pub fn bytes(&self) -> u64 {
        self.inner.storage.bytes()
    }

    /// New storage of zeros, of type `F32`, laid out like the parameters: for gradients, moments and the like.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn mirror(&self) -> Result<FlatTensors> {
        self.mirror_of(&(0..self.len()).collect::<Vec<usize>>())
    }

    /// [`Parameters::mirror`] for some of the parameters, by ascending index: the others have no part in it and take no
    /// memory. What shares a segment there shares one here.
    ///
    /// # Errors
    ///
    /// As [`Parameters::mirror`].
    ///
    /// # Panics
    ///
    /// If there is no parameter of such an index.
    pub fn mirror_of(&self, members: &[usize]) -> Result<FlatTensors> {
        let Built { device, places, .. } = &*self.inner;
        FlatTensors::zeros(device, &places.of_some(members), DType::F32)
    }

    /// Copies all values to the host: names, shapes and values, in order, halves widened. [`Parameters::load`] takes them
    /// back.
    ///
    /// # Errors
    ///
    /// As [`Parameters::to_host_async`].
    #[cfg(not(target_family = "wasm"))]
    pub fn to_host(&self) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        crate::gpu::block_on(self.to_host_async())
    }

    /// [`Parameters::to_host`] where nothing can block.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], [`Error::Readback`].
    pub async fn to_host_async(&self) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        self.read(&self.inner.storage).await
    }

    /// Overwrites all values, rounded to the parameters' type.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if a parameter is missing, unknown, given twice or of another shape, or a value too large for its
    /// type. Then nothing has been overwritten.
    pub fn load<N: Into<String>>(
        &self,
        values: impl IntoIterator<Item = (N, Shape, Vec<f32>)>,
    ) -> Result<()> {
        self.write(&self.inner.storage, values)
    }

    /// Copies a mirror's values to the host, by name.
    pub(crate) async fn read(&self, flat: &FlatTensors) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        let mut segments = Vec::new();
        for segment in flat.segments() {
            segments.push(segment.to_floats_async().await?);
        }
        let read = flat.places().map(|(index, segment, offset)| {
            let parameter = &self[index];
            let (name, shape) = (parameter.name().to_owned(), parameter.shape());
            let values = &segments[segment][offset..offset + shape.elements()];
            (name, shape, values.to_vec())
        });
        Ok(read.collect())
    }

    /// Overwrites a mirror's values, by name; all of them or, on error, none.
    pub(crate) fn write<N: Into<String>>(
        &self,
        flat: &FlatTensors,
        values: impl IntoIterator<Item = (N, Shape, Vec<f32>)>,
    ) -> Result<()> {
        let mut given = BTreeMap::new();
        for (name, shape, values) in values {
            let name = name.into();
            let Some(parameter) = self.get(&name) else {
                return Err(Error::parameter(name, "the model has no such parameter"));
            };
            if parameter.shape() != shape || shape.elements() != values.len() {
                let (needed, count) = (parameter.shape(), values.len());
                let reason = format!(
                    "the model has shape {needed}, the values have shape {shape} ({count} numbers)"
                );
                return Err(Error::parameter(name, reason));
            }
            require_range(&name, parameter.tensor(), &values)?;
            if given.insert(name.clone(), values).is_some() {
                return Err(Error::parameter(name, "it is given twice"));
            }
        }
        let parts = || self.members(flat).zip(flat.parts());
        if let Some((missing, _)) = parts().find(|(p, _)| !given.contains_key(p.name())) {
            return Err(Error::parameter(missing.name(), "its values are missing"));
        }
        for (parameter, tensor) in parts() {
            tensor.write_floats(&given[parameter.name()])?;
        }
        Ok(())
    }

    /// The parameters that have a part in a mirror, in order.
    pub(crate) fn members<'a>(
        &'a self,
        flat: &'a FlatTensors,
    ) -> impl Iterator<Item = &'a Parameter> {
        flat.places().map(|(index, ..)| &self[index])
    }
}

/// Checks that a parameter's values can be rounded to what holds them.
fn require_range(name: &str, tensor: &Tensor, values: &[f32]) -> Result<()> {
    let checked = tensor.dtype().require_range(values);
    checked.map_err(|reason| Error::parameter(name, reason))
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// By position in the order in which they were added.
impl Index<usize> for Parameters {
    type Output = Parameter;

    fn index(&self, index: usize) -> &Parameter {
        &self.inner.parameters[index]
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
