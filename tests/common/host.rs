//! Tensors on the host, one plain loop per operation: what views and broadcasting are compared with.

use shadegrad::Shape;

use super::{broadcast_index, positions};

/// Values in row-major order under a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Host<E> {
    pub shape: Shape,
    pub values: Vec<E>,
}

impl<E: Copy> Host<E> {
    pub fn new(shape: impl Into<Shape>, values: Vec<E>) -> Host<E> {
        let shape = shape.into();
        assert_eq!(shape.elements(), values.len());
        Host { shape, values }
    }

    /// The element at a position.
    pub fn at(&self, position: &[usize]) -> E {
        self.values[broadcast_index(self.shape, position)]
    }

    /// A tensor of another shape whose element at each position is this one's at `from(position)`.
    fn gather(&self, shape: Shape, from: impl Fn(&[usize]) -> Vec<usize>) -> Host<E> {
        let values = positions(shape).map(|position| self.at(&from(&position)));
        Host::new(shape, values.collect())
    }

    pub fn reshape(&self, shape: Shape) -> Host<E> {
        Host::new(shape, self.values.clone())
    }

    pub fn permute(&self, axes: &[usize]) -> Host<E> {
        let extents: Vec<usize> = axes.iter().map(|&axis| self.shape.dim(axis)).collect();
        self.gather(Shape::from(&extents), |position| {
            let mut from = vec![0; axes.len()];
            for (to, &axis) in axes.iter().enumerate() {
                from[axis] = position[to];
            }
            from
        })
    }

    pub fn slice(&self, axis: usize, range: std::ops::Range<usize>) -> Host<E> {
        self.gather(self.shape.with_dim(axis, range.len()), |position| {
            let mut from = position.to_vec();
            from[axis] += range.start;
            from
        })
    }

    pub fn broadcast_to(&self, shape: Shape) -> Host<E> {
        self.gather(shape, <[usize]>::to_vec)
    }

    pub fn pad(&self, axis: usize, before: usize, after: usize) -> Host<E>
    where
        E: Default,
    {
        let extent = self.shape.dim(axis);
        let shape = self.shape.with_dim(axis, before + extent + after);
        let values = positions(shape).map(|mut position| {
            if (before..before + extent).contains(&position[axis]) {
                position[axis] -= before;
                self.at(&position)
            } else {
                E::default()
            }
        });
        Host::new(shape, values.collect())
    }
}
