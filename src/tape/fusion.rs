//! Which fusions the planner may use.

use std::str::FromStr;

use crate::error::{Error, Result};

/// Which fusions the planner may use. All are on by default; `SHADEGRAD_FUSE=off` in the environment turns all off, and
/// a list such as `SHADEGRAD_FUSE=pointwise,epilogue` all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fusion {
    /// Chains of pointwise operations run as one generated kernel.
    pub pointwise: bool,
    /// Pointwise operations that follow a kernel with an epilogue (matrix products, norms, softmax, …) run in it.
    pub epilogue: bool,
    /// SwiGLU runs at the end of the matrix product whose rows it reads, and its gradient at the end of the one that
    /// computes the gradient of its result.
    pub gate: bool,
    /// A value that is only assigned to a persistent tensor is computed in place there.
    pub copy_elision: bool,
    /// Small dispatches of one kind that don't depend on one another, such as the gradients of a product's two factors, run
    /// as one.
    pub horizontal: bool,
    /// On software adapters, kernels read operands from uniform buffers: those of at most 64 KiB, and larger ones as far as
    /// that is faster on the machine at hand.
    pub uniform: bool,
}

impl Fusion {
    /// Every fusion off.
    pub const OFF: Fusion = Fusion::all(false);
    /// Every fusion on.
    pub const ON: Fusion = Fusion::all(true);

    const fn all(is_on: bool) -> Fusion {
        Fusion {
            pointwise: is_on,
            epilogue: is_on,
            gate: is_on,
            copy_elision: is_on,
            horizontal: is_on,
            uniform: is_on,
        }
    }
}

/// The fusions by name: all of them for `on`, none for `off`, else those of a list with commas between.
impl FromStr for Fusion {
    type Err = Error;

    fn from_str(names: &str) -> Result<Fusion> {
        match names.trim() {
            "on" | "" => return Ok(Fusion::ON),
            "off" => return Ok(Fusion::OFF),
            _ => {}
        }
        let mut fusion = Fusion::OFF;
        for name in names.split(',').map(str::trim) {
            match name {
                "pointwise" => fusion.pointwise = true,
                "epilogue" => fusion.epilogue = true,
                "gate" => fusion.gate = true,
                "copy_elision" => fusion.copy_elision = true,
                "horizontal" => fusion.horizontal = true,
                "uniform" => fusion.uniform = true,
                unknown => {
                    let known = "some of pointwise, epilogue, gate, copy_elision, horizontal and uniform, or on or off";
                    return Err(Error::invalid("fusion", unknown, known));
                }
            }
        }
        Ok(fusion)
    }
}

impl Fusion {
    /// What `SHADEGRAD_FUSE` says in the environment.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if it names a fusion that there isn't.
    pub(super) fn from_environment() -> Result<Fusion> {
        let names = std::env::var("SHADEGRAD_FUSE").unwrap_or_default();
        names.parse().map_err(|error| match error {
            Error::InvalidArgument {
                value, expected, ..
            } => Error::invalid("SHADEGRAD_FUSE", value, expected),
            other => other,
        })
    }
}

impl Default for Fusion {
    /// What `SHADEGRAD_FUSE` says in the environment: `on` (as without it), `off`, or the fusions to use, such as
    /// `pointwise,epilogue`. If it names one that there isn't, tapes refuse to run.
    fn default() -> Fusion {
        static CHOSEN: std::sync::OnceLock<Fusion> = std::sync::OnceLock::new();
        *CHOSEN.get_or_init(|| Fusion::from_environment().unwrap_or(Fusion::ON))
    }
}
