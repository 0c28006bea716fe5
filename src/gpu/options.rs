//! What a device is opened with: options, and the variables of the environment that stand for them.

use super::adapter::AdapterClass;
use crate::error::{Error, Result};

/// How to choose and open a device. The default takes the best adapter and asks for all of its limits.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Takes the adapter with this index in [`Device::list_adapters`](super::Device::list_adapters), or the first whose name
    /// or backend contains this text, whatever its case. `None` leaves the choice to `WGPU_ADAPTER_NAME`, or else to the
    /// ranking: discrete, integrated, virtual, software.
    pub adapter: Option<String>,
    /// Limits to request instead of everything that the adapter offers; for tests and for memory budgets.
    pub limits: Option<wgpu::Limits>,
    /// Chooses kernel variants as for an adapter of this class, whatever it is: tests run the variants for GPUs on a
    /// software adapter this way.
    pub class: Option<AdapterClass>,
    /// Use no optional features of the adapter, such as subgroup operations, so that every kernel is the portable one, and
    /// no more than WebGPU's default limits unless `limits` says otherwise. `SHADEGRAD_PORTABLE=1` in the environment has
    /// all devices opened so.
    pub portable: bool,
    /// For tests: fill the memory of intermediate values with NaN (as an integer, the largest there is) before every run of
    /// a tape, so that a kernel that reads what nobody has written gives itself away. `SHADEGRAD_POISON=1` in the
    /// environment has all devices opened so.
    pub poison: bool,
    /// Keep the shader compiler's runtime checks (bounds, loop bounding) on for the crate's own kernels. They are on in
    /// debug builds whatever this says.
    pub checked_kernels: bool,
    /// Whether kernels may use matrix units. By default they do on GPUs: where software adapters have some (Mesa's llvmpipe
    /// from version 26 on), products take 4 to 14 times as long on them as by `f32` arithmetic. `SHADEGRAD_MATRIX_UNITS=on` or
    /// `off` in the environment is for all devices.
    pub matrix_units: Feature,
    /// Whether kernels may name `f16`. Without, tensors of [`DType::F16`](super::DType::F16) are pairs in words, and there
    /// are no matrix units. `SHADEGRAD_F16=off` in the environment turns it off for all devices.
    pub f16: Feature,
}

/// What a device should do with something that not all adapters have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Feature {
    /// Use it where the adapter has it, if that is of use.
    #[default]
    Auto,
    /// Use it where the adapter has it.
    On,
    /// Do as if the adapter lacked it.
    Off,
}

impl Feature {
    /// What a variable of the environment says, unless this is `Off` already.
    fn or(self, variable: &str, value: &str) -> Result<Feature> {
        match value {
            "" => Ok(self),
            "off" => Ok(Feature::Off),
            "on" if self == Feature::Off => Ok(self),
            "on" => Ok(Feature::On),
            _ => Err(Error::invalid(variable, value, "`on` or `off`")),
        }
    }

    pub(super) fn or_variable(self, name: &str) -> Result<Feature> {
        self.or(name, &std::env::var(name).unwrap_or_default())
    }
}

/// Whether a variable of the environment turns something on.
pub(super) fn flag(name: &str) -> Result<bool> {
    match std::env::var(name).unwrap_or_default().as_str() {
        "" | "0" => Ok(false),
        "1" => Ok(true),
        value => Err(Error::invalid(name, value, "`1`, or `0` as without it")),
    }
}

#[cfg(test)]
#[path = "../../tests/unit/gpu/options.rs"]
mod tests;
