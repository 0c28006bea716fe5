//! Flat storage: where parameters, and what belongs to them, lie in a few large tensors.

use crate::error::{Result, require_within};
use crate::gpu::{DType, Device, Tensor};
use crate::shape::Shape;

/// Every parameter starts at a multiple of this many elements, so that kernels may take four at a time, and halves fill
/// whole words. A binding starts up to 240 bytes before, where WebGPU lets it.
const ALIGNMENT: usize = 4;

/// Segments are multiples of this many elements: the optimizers take two vec4s at a time.
const SEGMENT_ALIGNMENT: usize = 8;

/// Where parameters lie: which segment, and from which element on.
#[derive(Default)]
pub(super) struct Places {
    /// Which parameters, in order.
    members: Vec<usize>,
    shapes: Vec<Shape>,
    /// Segment and first element, by parameter.
    pub places: Vec<(usize, usize)>,
    /// Elements per segment, padding included.
    segments: Vec<usize>,
}

impl Places {
    /// For all parameters, by name and shape, in segments of the wanted size where that is possible.
    pub fn of<'a>(
        parameters: impl Iterator<Item = (&'a str, Shape)>,
        dtype: DType,
        wanted: u64,
        largest: u64,
    ) -> Result<Places> {
        let limit = (wanted.min(largest) / dtype.bytes() as u64) as usize;
        let limit = limit - limit % SEGMENT_ALIGNMENT;
        let mut filled = Places::default();
        for (index, (name, shape)) in parameters.enumerate() {
            let elements = shape.elements();
            let alone = dtype.storage(elements.next_multiple_of(SEGMENT_ALIGNMENT));
            require_within(largest, format!("parameter `{name}`, in bytes,"), alone)?;
            let used = filled.segments.last().copied();
            let fits =
                used.is_some_and(|used| used + elements.next_multiple_of(ALIGNMENT) <= limit);
            filled.push(index, shape, !fits);
        }
        Ok(filled.padded())
    }

    /// For some of these parameters, close together. What shares a segment here shares one there.
    pub fn of_some(&self, members: &[usize]) -> Places {
        let mut filled = Places::default();
        let mut last = None;
        for &index in members {
            let segment = self.places[index].0;
            let is_new = last.replace(segment) != Some(segment);
            filled.push(index, self.shapes[index], is_new);
        }
        filled.padded()
    }

    fn push(&mut self, index: usize, shape: Shape, in_new_segment: bool) {
        if in_new_segment {
            self.segments.push(0);
        }
        let segment = self.segments.len() - 1;
        let used = &mut self.segments[segment];
        self.members.push(index);
        self.shapes.push(shape);
        self.places.push((segment, *used));
        *used += shape.elements().next_multiple_of(ALIGNMENT);
    }

    fn padded(mut self) -> Places {
        for segment in &mut self.segments {
            *segment = segment.next_multiple_of(SEGMENT_ALIGNMENT);
        }
        self
    }
}

/// One tensor per parameter, all lying in a few flat ones: the parameters' own storage, or what mirrors it, such as
/// gradients and moments. Elements between the parts are padding, zero for good.
#[derive(Clone, Debug)]
pub struct FlatTensors {
    segments: Vec<Tensor>,
    parts: Vec<Tensor>,
    /// Of each part: the parameter's index, the segment, and the first element there.
    places: Vec<(usize, usize, usize)>,
}

impl FlatTensors {
    pub(super) fn zeros(device: &Device, places: &Places, dtype: DType) -> Result<FlatTensors> {
        let segments = places.segments.iter();
        let segments = segments.map(|&elements| Tensor::zeros(device, [elements], dtype));
        let mut flat = FlatTensors {
            segments: segments.collect::<Result<_>>()?,
            parts: Vec::new(),
            places: Vec::new(),
        };
        let members = places.members.iter().zip(&places.shapes);
        for ((&index, &shape), &(segment, offset)) in members.zip(&places.places) {
            let part = flat.segments[segment].padded_part(offset, shape);
            flat.parts.push(part);
            flat.places.push((index, segment, offset));
        }
        Ok(flat)
    }

    /// The flat tensors, each of rank 1 and a multiple of 8 elements long.
    pub fn segments(&self) -> &[Tensor] {
        &self.segments
    }

    /// Their size on the device, padding included: at most 3 elements behind each part and 4 at the end of a segment.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(Tensor::bytes).sum()
    }

    /// The part of each parameter that has one, in the parameters' order and with their shapes.
    pub fn parts(&self) -> &[Tensor] {
        &self.parts
    }

    /// For each part, in order: the index of its parameter, the segment it lies in, and its first element there.
    pub fn places(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.places.iter().copied()
    }
}
