//! Concrete values on the device.

use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;

#[cfg(not(target_family = "wasm"))]
use super::blocking::block_on;
use super::buffer::Buffer;
use super::device::Device;
use super::dtype::{DType, Element};
use super::readback::Readback;
use crate::error::Result;
use crate::shape::{Layout, Shape};

/// Values on the device: a buffer, or a dense part of one, with a shape and an element type. Cheap to clone; clones are
/// the same values.
///
/// A tensor that is used on a tape is bound into the tape's plan, so tensors are for what persists from step to step
/// (parameters, optimizer state, caches). What changes every step goes in through
/// [`Tape::input`](crate::Tape::input), which uploads and never replans.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(crate) device: Device,
    pub(crate) buffer: Buffer,
    pub(crate) layout: Layout,
    pub(crate) dtype: DType,
}

impl Tensor {
    /// Uploads `data` as a tensor of the given shape.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::OutOfMemory`](crate::Error::OutOfMemory) where it does not
    /// fit the device.
    ///
    /// # Panics
    ///
    /// If `data` has not as many elements as the shape.
    #[track_caller]
    pub fn new<E: Element>(device: &Device, shape: impl Into<Shape>, data: &[E]) -> Result<Tensor> {
        let tensor = Tensor::zeros(device, shape, E::DTYPE)?;
        tensor.write(data)?;
        Ok(tensor)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    ///
    /// As [`Tensor::new`].
    pub fn zeros(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        // wgpu clears new buffers before their first use.
        let buffer = device.create_storage("tensor", dtype.storage(shape.elements()))?;
        Ok(Tensor {
            device: device.clone(),
            buffer,
            layout: Layout::contiguous(shape, 0),
            dtype,
        })
    }

    /// The dense part of this tensor that starts at element `offset`, under the given shape. It shares the buffer.
    ///
    /// # Panics
    ///
    /// If the part reaches beyond this tensor. If it would share a word of memory with its neighbours: parts of `F16` begin
    /// at even elements, and end before such or where the tensor ends.
    #[track_caller]
    pub fn part(&self, offset: usize, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert!(
            offset
                .checked_add(shape.elements())
                .is_some_and(|end| end <= self.shape().elements()),
            "part {shape} at element {offset} reaches beyond a tensor of {} elements",
            self.shape().elements()
        );
        let end = offset + shape.elements();
        assert!(
            self.dtype != DType::F16
                || (offset.is_multiple_of(2)
                    && (end.is_multiple_of(2) || end == self.shape().elements())),
            "part {shape} at element {offset} of a tensor of F16 cuts a word in two: begin and end at even elements"
        );
        self.padded_part(offset, shape)
    }

    /// All of its buffer, as one row.
    pub(crate) fn whole(&self) -> Tensor {
        let elements = self.buffer.bytes() as usize / self.dtype.bytes();
        Tensor {
            layout: Layout::contiguous(Shape::new(&[elements]), 0),
            ..self.clone()
        }
    }

    /// The same part of its buffer's copy in halves, if there is one, or may be: that is made where it is missing.
    ///
    /// # Errors
    ///
    /// As [`Tensor::new`].
    pub(crate) fn in_halves(&self) -> Result<Option<Tensor>> {
        let known = self.buffer.halves().cloned();
        let buffer = match known {
            None if self.dtype != DType::F32 || !self.buffer.wants_halves() => return Ok(None),
            None => {
                let elements = self.whole().shape().elements();
                let copy = Tensor::zeros(&self.device, [elements], DType::F16)?;
                self.buffer.keep_halves(copy.buffer).clone()
            }
            Some(buffer) => buffer,
        };
        Ok(Some(Tensor {
            buffer,
            dtype: DType::F16,
            ..self.clone()
        }))
    }

    /// [`Tensor::part`] for a part that has the rest of its last word to itself.
    pub(crate) fn padded_part(&self, offset: usize, shape: Shape) -> Tensor {
        Tensor {
            layout: Layout::contiguous(shape, self.layout.offset + offset),
            ..self.clone()
        }
    }

    /// Overwrites the values. Takes effect before anything submitted later.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    ///
    /// # Panics
    ///
    /// If `data` has another length or type than the tensor.
    #[track_caller]
    pub fn write<E: Element>(&self, data: &[E]) -> Result<()> {
        assert!(
            data.len() == self.shape().elements(),
            "write: a tensor of shape {} is not filled by {} values",
            self.shape(),
            data.len()
        );
        self.require_dtype::<E>();
        self.device.check()?;
        if self.device.is_meta() {
            return Ok(());
        }
        let bytes: &[u8] = bytemuck::cast_slice(data);
        // wgpu writes whole words; behind the last element of a tensor of halves is nothing.
        let padded = (!bytes.len().is_multiple_of(4)).then(|| [bytes, &[0; 2]].concat());
        self.device.shared.queue.write_buffer(
            self.buffer.raw(),
            self.first_byte(),
            padded.as_deref().unwrap_or(bytes),
        );
        self.buffer.has_been_written();
        Ok(())
    }

    /// Overwrites floating-point values, rounded to the type of the tensor's elements.
    ///
    /// # Errors
    ///
    /// As [`Tensor::write`].
    ///
    /// # Panics
    ///
    /// As [`Tensor::write`], and if it holds integers.
    #[track_caller]
    pub(crate) fn write_floats(&self, values: &[f32]) -> Result<()> {
        match self.dtype {
            DType::F16 => self.write(&Vec::<f16>::from_f32_slice(values)),
            _ => self.write(values),
        }
    }

    /// Copies floating-point values to the host, widened to `f32`.
    ///
    /// # Errors
    ///
    /// As [`Tensor::to_vec_async`].
    ///
    /// # Panics
    ///
    /// If the tensor holds integers.
    pub(crate) async fn to_floats_async(&self) -> Result<Vec<f32>> {
        match self.dtype {
            DType::F16 => Ok(self.to_vec_async::<f16>().await?.to_f32_vec()),
            _ => self.to_vec_async().await,
        }
    }

    /// The same, waiting for them.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn to_floats(&self) -> Result<Vec<f32>> {
        block_on(self.to_floats_async())
    }

    /// Bytes of its elements.
    pub(crate) fn bytes(&self) -> u64 {
        self.dtype.storage(self.shape().elements())
    }

    fn first_byte(&self) -> u64 {
        (self.dtype.bytes() * self.layout.offset) as u64
    }

    #[track_caller]
    fn require_dtype<E: Element>(&self) {
        assert!(
            self.dtype == E::DTYPE,
            "the tensor holds another type: {:?} {}, not {:?}",
            self.dtype,
            self.shape(),
            E::DTYPE
        );
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.layout.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that holds it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Copies the values to the host, waiting for everything submitted before.
    ///
    /// # Errors
    ///
    /// As [`Tensor::to_vec_async`].
    ///
    /// # Panics
    ///
    /// If the tensor holds another element type.
    #[cfg(not(target_family = "wasm"))]
    #[track_caller]
    pub fn to_vec<E: Element>(&self) -> Result<Vec<E>> {
        block_on(self.to_vec_async())
    }

    /// Copies the values to the host, as everything submitted before leaves them.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), [`Error::Readback`](crate::Error::Readback).
    ///
    /// # Panics
    ///
    /// If the tensor holds another element type.
    #[track_caller]
    pub fn to_vec_async<E: Element>(&self) -> impl Future<Output = Result<Vec<E>>> + use<E> {
        self.require_dtype::<E>();
        let bytes = self.bytes();
        let used = self.dtype.bytes() * self.shape().elements();
        let readback = self.read_back(bytes);
        async move {
            let readback = readback?;
            readback.arrival().await?;
            Ok(bytemuck::pod_collect_to_vec(&readback.bytes()?[..used]))
        }
    }

    /// Submits the copying of so many bytes.
    fn read_back(&self, bytes: u64) -> Result<Readback> {
        self.device.require_values()?;
        let mut readback = Readback::new(&self.device, bytes)?;
        let wgpu = &self.device.shared.wgpu;
        let mut encoder = wgpu.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(
            self.buffer.raw(),
            self.first_byte(),
            readback.buffer(),
            0,
            bytes,
        );
        readback.map(self.device.submit(encoder.finish())?);
        Ok(readback)
    }

    /// Submits the copying of tensors on one device, one behind the other, into a buffer of the ring's.
    #[cfg(all(feature = "mpi", not(target_family = "wasm")))]
    pub(crate) fn read_back_all(
        device: &Device,
        ring: &super::readback::Ring,
        tensors: &[Tensor],
    ) -> Result<Readback> {
        let wgpu = &device.shared.wgpu;
        let mut encoder = wgpu.create_command_encoder(&Default::default());
        let mut readback = Tensor::encode_copies(device, ring, tensors, &mut encoder)?;
        readback.map(device.submit(encoder.finish())?);
        Ok(readback)
    }

    /// Encodes the same, to be mapped once it has been submitted.
    #[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
    pub(crate) fn encode_copies(
        device: &Device,
        ring: &super::readback::Ring,
        tensors: &[Tensor],
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<Readback> {
        let readback = match ring.take(device)? {
            Some(readback) => readback,
            None => Readback::new(device, 0)?,
        };
        let mut at = 0;
        for tensor in tensors {
            let bytes = tensor.place();
            let (from, to) = (tensor.buffer.raw(), readback.buffer());
            encoder.copy_buffer_to_buffer(from, bytes.start, to, at, bytes.end - bytes.start);
            at += bytes.end - bytes.start;
        }
        Ok(readback)
    }

    /// Where it lies in its buffer, in bytes.
    #[cfg(all(any(feature = "mpi", test), not(target_family = "wasm")))]
    pub(crate) fn place(&self) -> std::ops::Range<u64> {
        let first = self.first_byte();
        first..first + self.bytes()
    }
}
