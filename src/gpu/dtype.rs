//! Element types, on the device and on the host.

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floating point: everything that is differentiated.
    F32,
    /// 32-bit unsigned: token ids, indices, random seeds.
    U32,
}

impl DType {
    /// The type's name in WGSL.
    pub fn wgsl(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::U32 => "u32",
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
}

/// A host type that tensors can be made from and read into: `f32` or `u32`.
pub trait Element: bytemuck::Pod + sealed::Sealed + Send {
    /// The element type on the device.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
