//! Element types, on the device and on the host.

use half::f16;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point (IEEE 754 binary16: 11 bits of precision, up to 65,504), for storage and as what products
    /// multiply. Kernels compute with it as `f32`.
    F16,
    /// 32-bit unsigned: token ids, indices, random seeds.
    U32,
}

impl DType {
    /// The type's name in the text of kernels. Halves are `f32` there: the planner has them widened as they are read and
    /// rounded as they are written.
    pub fn wgsl(self) -> &'static str {
        match self {
            DType::F32 | DType::F16 => "f32",
            DType::U32 => "u32",
        }
    }

    /// The size of an element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 => 2,
        }
    }

    /// Whether elements are floating point, and can have gradients.
    pub fn is_float(self) -> bool {
        self != DType::U32
    }

    /// Whether values may be rounded to this type; else which of them is too large. What is no number stays none.
    pub(crate) fn require_range(self, values: &[f32]) -> std::result::Result<(), String> {
        let is_beyond = |value: &f32| value.is_finite() && f16::from_f32(*value).is_infinite();
        match (self == DType::F16).then(|| values.iter().find(|value| is_beyond(value))) {
            Some(Some(value)) => Err(format!(
                "{value} is beyond F16, whose largest number is 65,504: keep it in F32"
            )),
            _ => Ok(()),
        }
    }

    /// The size of so many elements in a buffer, which are whole words.
    pub(crate) fn storage(self, elements: usize) -> u64 {
        (self.bytes() as u64 * elements as u64).next_multiple_of(4)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for u32 {}
}

/// A host type that tensors can be made from and read into: `f32`, [`f16`](crate::f16) or `u32`.
pub trait Element: bytemuck::Pod + sealed::Sealed + Send {
    /// The element type on the device.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
}

impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
