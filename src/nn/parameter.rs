//! Named parameters in flat storage.
//!
//! All parameters of a model lie in a few large buffers, so that what treats them alike (the optimizer, clipping)
//! needs one dispatch per buffer, however many tensors the model has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use super::{Constant, Init};
use crate::error::{Error, Result};
use crate::gpu::{DType, Device, Tensor};
use crate::shape::Shape;
use crate::tape::{Tape, Var};

/// Every parameter starts at a multiple of this many elements, so that kernels may take four at a time. A binding
/// starts up to 240 bytes before, where WebGPU lets it.
const ALIGNMENT: usize = 4;

/// Segments are multiples of this many elements: the optimizers take two vec4s at a time.
const SEGMENT_ALIGNMENT: usize = 8;

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

    /// Puts the parameter on a tape, as a leaf that gradients flow to. Doing so again gives the same leaf.
    ///
    /// # Panics
    ///
    /// If the parameters have not been built yet.
    #[track_caller]
    pub fn on<'t>(&self, tape: &'t Tape) -> Var<'t> {
        tape.tensor_variable(self.tensor())
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
    prefix: String,
    parameters: Vec<Parameter>,
    constants: Vec<Constant>,
    names: HashSet<String>,
    segment_limit: u64,
    parameter_limit: u64,
}

impl ParameterBuilder {
    /// A builder whose random initial values come from `seed`.
    pub fn new(seed: u64) -> ParameterBuilder {
        ParameterBuilder {
            seed,
            prefix: String::new(),
            parameters: Vec::new(),
            constants: Vec::new(),
            names: HashSet::new(),
            segment_limit: u64::MAX,
            parameter_limit: u64::MAX,
        }
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
        let limits = device.limits();
        limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size)
    }

    /// The most bytes that a parameter is to have.
    pub(super) fn parameter_limit(&self) -> u64 {
        self.parameter_limit
    }

    /// Makes the parameters of a part of the model: all names get the prefix `name.`.
    pub fn scope<R>(
        &mut self,
        name: impl AsRef<str>,
        make: impl FnOnce(&mut ParameterBuilder) -> R,
    ) -> R {
        let outer = self.prefix.len();
        self.prefix.push_str(name.as_ref());
        self.prefix.push('.');
        let made = make(self);
        self.prefix.truncate(outer);
        made
    }

    /// Adds a parameter.
    ///
    /// # Panics
    ///
    /// If there is one of that name already, or the shape is not possible.
    #[track_caller]
    pub fn parameter(
        &mut self,
        name: impl AsRef<str>,
        shape: impl Into<Shape>,
        init: Init,
    ) -> Parameter {
        let name = format!("{}{}", self.prefix, name.as_ref());
        assert!(
            self.names.insert(name.clone()),
            "there is a parameter `{name}` already"
        );
        let parameter = Parameter {
            inner: Arc::new(Inner {
                name,
                shape: shape.into(),
                init,
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
        let constant = Constant::new(shape.into(), values);
        self.constants.push(constant.clone());
        constant
    }

    /// Allocates the storage and writes the initial values.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] if one parameter is larger than the adapter lets a kernel bind, [`Error::OutOfMemory`],
    /// [`Error::DeviceLost`].
    pub fn build(self, device: &Device) -> Result<Parameters> {
        let seed = self.seed;
        let parameters = self.build_zeroed(device)?;
        for parameter in &parameters {
            let Inner {
                name, shape, init, ..
            } = &*parameter.inner;
            // New storage is zero already.
            if *init != Init::Zeros {
                let values = init.values(seed, name, shape.elements());
                parameter.tensor().write(&values)?;
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
        let places = Places::of(&self.parameters, self.segment_limit, largest)?;
        let shapes: Vec<Shape> = self.parameters.iter().map(Parameter::shape).collect();
        let storage = FlatTensors::zeros(device, &places, &shapes)?;
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
                by_name: positions.map(|(i, p)| (p.name().to_owned(), i)).collect(),
                parameters: self.parameters,
                places,
                storage,
            }),
        })
    }
}

/// Where the parameters lie: which segment, and from which element on.
struct Places {
    places: Vec<(usize, usize)>,
    /// Elements per segment, padding included.
    segments: Vec<usize>,
}

impl Places {
    fn of(parameters: &[Parameter], wanted: u64, largest: u64) -> Result<Places> {
        let limit = (wanted.min(largest) / 4) as usize;
        let limit = limit - limit % SEGMENT_ALIGNMENT;
        let mut places = Vec::with_capacity(parameters.len());
        let mut segments: Vec<usize> = Vec::new();
        for parameter in parameters {
            let elements = parameter.shape().elements();
            let alone = 4 * elements.next_multiple_of(SEGMENT_ALIGNMENT) as u64;
            if alone > largest {
                return Err(Error::Limit {
                    what: format!("parameter `{}`, in bytes,", parameter.name()),
                    needed: alone,
                    limit: largest,
                });
            }
            let padded = elements.next_multiple_of(ALIGNMENT);
            match segments.last_mut().filter(|used| **used + padded <= limit) {
                Some(used) => {
                    let offset = std::mem::replace(used, *used + padded);
                    places.push((segments.len() - 1, offset));
                }
                None => {
                    places.push((segments.len(), 0));
                    segments.push(padded);
                }
            }
        }
        for segment in &mut segments {
            *segment = segment.next_multiple_of(SEGMENT_ALIGNMENT);
        }
        Ok(Places { places, segments })
    }
}

/// One tensor per parameter, all lying in a few flat ones: the parameters' own storage, or what mirrors it, such as
/// gradients and moments. Elements between the parts are padding, zero for good.
#[derive(Clone, Debug)]
pub struct FlatTensors {
    segments: Vec<Tensor>,
    parts: Vec<Tensor>,
}

impl FlatTensors {
    fn zeros(device: &Device, places: &Places, shapes: &[Shape]) -> Result<FlatTensors> {
        let segments = places.segments.iter();
        let segments = segments
            .map(|&elements| Tensor::zeros(device, [elements], DType::F32))
            .collect::<Result<Vec<Tensor>>>()?;
        let parts = places.places.iter().zip(shapes);
        let parts = parts
            .map(|(&(segment, offset), &shape)| segments[segment].part(offset, shape))
            .collect();
        Ok(FlatTensors { segments, parts })
    }

    /// The flat tensors, each of rank 1 and a multiple of 8 elements long.
    pub fn segments(&self) -> &[Tensor] {
        &self.segments
    }

    /// Their size on the device, padding included: at most 3 elements behind each part and 4 at the end of a segment.
    pub fn bytes(&self) -> u64 {
        let elements = self
            .segments
            .iter()
            .map(|segment| segment.shape().elements());
        4 * elements.sum::<usize>() as u64
    }

    /// The part of each parameter, in the parameters' order and with their shapes.
    pub fn parts(&self) -> &[Tensor] {
        &self.parts
    }
}

/// All parameters of a model. Cheap to clone; clones are the same parameters.
#[derive(Clone)]
pub struct Parameters {
    inner: Arc<Built>,
}

struct Built {
    device: Device,
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

    /// New storage of zeros, laid out like the parameters: for gradients, moments and the like.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn mirror(&self) -> Result<FlatTensors> {
        let shapes: Vec<Shape> = self.iter().map(Parameter::shape).collect();
        FlatTensors::zeros(self.device(), &self.inner.places, &shapes)
    }

    /// Copies all values to the host: names, shapes and values, in order. [`Parameters::load`] takes them back.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], [`Error::Readback`].
    pub fn to_host(&self) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        self.read(&self.inner.storage)
    }

    /// Overwrites all values.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] if a parameter is missing, unknown, given twice or of another shape. Then nothing has been
    /// overwritten.
    pub fn load<N: Into<String>>(
        &self,
        values: impl IntoIterator<Item = (N, Shape, Vec<f32>)>,
    ) -> Result<()> {
        self.write(&self.inner.storage, values)
    }

    /// Copies a mirror's values to the host, by name.
    pub(crate) fn read(&self, flat: &FlatTensors) -> Result<Vec<(String, Shape, Vec<f32>)>> {
        let segments = flat.segments().iter();
        let segments = segments
            .map(Tensor::to_vec::<f32>)
            .collect::<Result<Vec<_>>>()?;
        let read = self.iter().zip(self.places());
        let read = read.map(|(parameter, &(segment, offset))| {
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
        let refuse = |name: String, reason: String| Err(Error::Parameter { name, reason });
        let mut given = BTreeMap::new();
        for (name, shape, values) in values {
            let name = name.into();
            let Some(parameter) = self.get(&name) else {
                return refuse(name, "the model has no such parameter".to_owned());
            };
            if parameter.shape() != shape || shape.elements() != values.len() {
                let count = values.len();
                let needed = parameter.shape();
                return refuse(
                    name,
                    format!(
                        "the model has shape {needed}, the values have shape {shape} ({count} numbers)"
                    ),
                );
            }
            if given.insert(name.clone(), values).is_some() {
                return refuse(name, "it is given twice".to_owned());
            }
        }
        if let Some(missing) = self.iter().find(|p| !given.contains_key(p.name())) {
            return refuse(
                missing.name().to_owned(),
                "its values are missing".to_owned(),
            );
        }
        for (parameter, tensor) in self.iter().zip(flat.parts()) {
            tensor.write(&given[parameter.name()])?;
        }
        Ok(())
    }
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
