//! Named parameters in flat storage.
//!
//! All parameters of a model lie in a few large buffers, so that what treats them alike (the optimizer, clipping)
//! needs one dispatch per buffer, however many tensors the model has.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use super::flat::{FlatTensors, Places};
use super::parameter::Parameter;
use crate::error::{Error, Result};
use crate::gpu::{DType, Device, Tensor};
use crate::shape::Shape;

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
    pub(super) fn new(
        device: &Device,
        dtype: DType,
        parameters: Vec<Parameter>,
        places: Places,
        storage: FlatTensors,
    ) -> Parameters {
        let positions = parameters.iter().enumerate();
        Parameters {
            inner: Arc::new(Built {
                device: device.clone(),
                dtype,
                by_name: positions.map(|(i, p)| (p.name().to_owned(), i)).collect(),
                parameters,
                places,
                storage,
            }),
        }
    }

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

/// A hash of the values' bits, in order: no single changed value goes unnoticed, as each step can be undone.
pub(crate) fn checksum(values: &[f32]) -> u64 {
    values.iter().fold(0xcbf2_9ce4_8422_2325, |sum, value| {
        (sum ^ u64::from(value.to_bits()))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

/// Checks that a parameter's values can be rounded to what holds them.
pub(super) fn require_range(name: &str, tensor: &Tensor, values: &[f32]) -> Result<()> {
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
