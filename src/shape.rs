//! Shapes and strided layouts of rank up to six.

use std::fmt;

/// The largest rank a tensor can have.
pub const MAX_RANK: usize = 6;

/// The most elements of a tensor: kernels index with 32 bits, and look some steps past the end.
const MAX_ELEMENTS: usize = u32::MAX as usize - 0xffff;

/// The extents of a tensor, outermost dimension first. Rank 0 is a scalar with one element.
///
/// No extent is zero: WebGPU has no zero-length bindings, so shapes with nothing in them are refused where they are
/// made rather than handled in every kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A scalar: rank 0, one element.
    pub const SCALAR: Shape = Shape {
        dims: [1; MAX_RANK],
        rank: 0,
    };

    /// Makes a shape from its extents.
    ///
    /// # Panics
    ///
    /// If there are more than [`MAX_RANK`] extents, one of them is zero, or the number of elements passes 2³² − 2¹⁶
    /// (kernels index with 32 bits, and look some steps past the end).
    #[track_caller]
    pub fn new(extents: &[usize]) -> Shape {
        assert!(
            extents.len() <= MAX_RANK,
            "shape {extents:?} has rank {}, the largest supported rank is {MAX_RANK}",
            extents.len()
        );
        assert!(
            extents.iter().all(|&extent| extent > 0),
            "shape {extents:?} has an extent of zero"
        );
        let elements = extents
            .iter()
            .try_fold(1usize, |product, &extent| product.checked_mul(extent));
        assert!(
            elements.is_some_and(|elements| elements <= MAX_ELEMENTS),
            "shape {extents:?} has more than {MAX_ELEMENTS} elements"
        );
        let mut dims = [1; MAX_RANK];
        dims[..extents.len()].copy_from_slice(extents);
        Shape {
            dims,
            rank: extents.len() as u8,
        }
    }

    /// The extents, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// The number of elements: the product of the extents, 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// The extent of the last dimension, 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The extent of dimension `axis`.
    #[track_caller]
    pub fn dim(&self, axis: usize) -> usize {
        self.dims()[axis]
    }

    /// The same shape with one extent replaced.
    #[track_caller]
    pub fn with_dim(&self, axis: usize, extent: usize) -> Shape {
        let mut dims = self.dims().to_vec();
        dims[axis] = extent;
        Shape::new(&dims)
    }

    /// The shape that both operands broadcast to by NumPy's rule (aligned at the last dimension, an extent of one
    /// stretches), or `None` if they do not fit together.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let mut dims = [1; MAX_RANK];
        for from_last in 1..=rank {
            let extent = |shape: &Shape| match shape.rank().checked_sub(from_last) {
                Some(axis) => shape.dims[axis],
                None => 1,
            };
            dims[rank - from_last] = match (extent(self), extent(other)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(Shape::new(&dims[..rank]))
    }
}

/// Of arrays, slices and vectors of extents.
impl<T: AsRef<[usize]>> From<T> for Shape {
    #[track_caller]
    fn from(extents: T) -> Shape {
        Shape::new(extents.as_ref())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.dims(), f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.dims(), f)
    }
}

/// Where the elements of a tensor lie in a buffer: element `[i, j, …]` is at
/// `offset + i·strides[0] + j·strides[1] + …`, counted in elements. A stride of zero repeats an element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    /// The extents.
    pub shape: Shape,
    /// The first element's index in the buffer.
    pub offset: usize,
    strides: [usize; MAX_RANK],
}

impl Layout {
    /// The dense row-major layout of a shape, starting at element `offset`.
    pub fn contiguous(shape: Shape, offset: usize) -> Layout {
        let mut strides = [0; MAX_RANK];
        let mut stride = 1;
        for axis in (0..shape.rank()).rev() {
            strides[axis] = stride;
            stride *= shape.dim(axis);
        }
        Layout {
            shape,
            offset,
            strides,
        }
    }

    /// A layout with the given strides.
    ///
    /// # Panics
    ///
    /// If there are not as many strides as dimensions.
    #[track_caller]
    pub fn strided(shape: Shape, offset: usize, strides: &[usize]) -> Layout {
        assert_eq!(shape.rank(), strides.len(), "one stride per dimension");
        let mut padded = [0; MAX_RANK];
        padded[..strides.len()].copy_from_slice(strides);
        Layout {
            shape,
            offset,
            strides: padded,
        }
    }

    /// The strides in elements, outermost first.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.rank()]
    }

    /// Whether the elements lie densely in row-major order (wherever they start).
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for axis in (0..self.shape.rank()).rev() {
            let extent = self.shape.dim(axis);
            if extent != 1 && self.strides[axis] != expected {
                return false;
            }
            expected *= extent;
        }
        true
    }

    /// This layout read as the larger shape it broadcasts to, or `None` where it does not.
    pub fn broadcast_to(&self, shape: Shape) -> Option<Layout> {
        let missing = shape.rank().checked_sub(self.shape.rank())?;
        let mut strides = [0; MAX_RANK];
        for axis in 0..self.shape.rank() {
            let (from, to) = (self.shape.dim(axis), shape.dim(axis + missing));
            strides[axis + missing] = match from {
                _ if from == to => self.strides[axis],
                1 => 0,
                _ => return None,
            };
        }
        Some(Layout {
            shape,
            offset: self.offset,
            strides,
        })
    }

    /// The same walk, starting `by` elements later.
    pub fn shifted(mut self, by: usize) -> Layout {
        self.offset += by;
        self
    }

    /// The same elements with the dimensions in another order: dimension `i` of the result is dimension `axes[i]`.
    #[track_caller]
    pub fn permute(&self, axes: &[usize]) -> Layout {
        let dims: Vec<_> = axes.iter().map(|&axis| self.shape.dim(axis)).collect();
        let strides: Vec<_> = axes.iter().map(|&axis| self.strides()[axis]).collect();
        Layout::strided(Shape::new(&dims), self.offset, &strides)
    }

    /// The part of dimension `axis` from `start`, `length` long.
    #[track_caller]
    pub fn slice(&self, axis: usize, start: usize, length: usize) -> Layout {
        Layout {
            shape: self.shape.with_dim(axis, length),
            offset: self.offset + start * self.strides()[axis],
            strides: self.strides,
        }
    }

    /// The same elements, in the same order, under another shape; `None` where no strides can express it.
    pub fn reshape(&self, shape: Shape) -> Option<Layout> {
        if shape.elements() != self.shape.elements() {
            return None;
        }
        // Runs of dimensions whose strides nest, merged, innermost last.
        let (lengths, steps) = collapse(std::slice::from_ref(self));
        let mut strides = [0; MAX_RANK];
        let mut run = lengths.len();
        let mut left = 1; // elements of the current run not yet covered
        let mut stride = 0;
        for axis in (0..shape.rank()).rev() {
            let extent = shape.dim(axis);
            if extent == 1 {
                continue;
            }
            if left == 1 {
                run -= 1;
                (left, stride) = (lengths[run], steps[0][run]);
            }
            if left % extent != 0 {
                return None;
            }
            strides[axis] = stride;
            stride *= extent;
            left /= extent;
        }
        (left == 1).then_some(Layout {
            shape,
            offset: self.offset,
            strides,
        })
    }

    /// The index of every element, in row-major order.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        let is_contiguous = self.is_contiguous();
        let place = move |mut rest: usize| {
            if is_contiguous {
                return self.offset + rest;
            }
            let axes = self.shape.dims().iter().zip(self.strides()).rev();
            axes.fold(self.offset, |index, (extent, stride)| {
                let step = rest % extent * stride;
                rest /= extent;
                index + step
            })
        };
        (0..self.shape.elements()).map(place)
    }

    /// One past the largest element index that this layout touches.
    pub fn end(&self) -> usize {
        let axes = self.shape.dims().iter().zip(self.strides());
        let reach = axes.map(|(extent, stride)| (extent - 1) * stride);
        self.offset + reach.sum::<usize>() + 1
    }
}

/// Collapses dimensions that all layouts walk with a single stride, so that kernels loop over as few as possible.
/// The layouts must share one shape; returned are the collapsed extents (rank at least 1) and each layout's strides.
pub(crate) fn collapse(layouts: &[Layout]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let shape = layouts[0].shape;
    let mut extents: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<usize>> = vec![Vec::new(); layouts.len()];
    for axis in 0..shape.rank() {
        let extent = shape.dim(axis);
        if extent == 1 {
            continue;
        }
        let nests = !extents.is_empty()
            && layouts
                .iter()
                .zip(&strides)
                .all(|(layout, merged)| *merged.last().unwrap() == extent * layout.strides()[axis]);
        if nests {
            *extents.last_mut().unwrap() *= extent;
        } else {
            extents.push(extent);
        }
        for (layout, merged) in layouts.iter().zip(&mut strides) {
            if nests {
                merged.pop();
            }
            merged.push(layout.strides()[axis]);
        }
    }
    if extents.is_empty() {
        extents.push(1);
        strides.iter_mut().for_each(|merged| merged.push(0));
    }
    (extents, strides)
}
