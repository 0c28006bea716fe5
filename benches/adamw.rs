//! The optimizer's kernels: the norm of the whole gradient, and the update.

use shadegrad::Tape;
use shadegrad::nn::{Init, ParameterBuilder};
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};

use crate::harness::{Session, Size};

pub fn benches(session: &mut Session) {
    // As many parameters as the models of the steps.
    let sizes = [
        (Size::Tiny, "50k", 50_688),
        (Size::Small, "10M", 10_745_088),
        (Size::Large, "124M", 124_439_808),
    ];
    for (size, name, count) in sizes {
        for kernel in ["clip", "update"] {
            session.some_kernels(size, &format!("adamw/{name}/{kernel}"), |device| {
                let mut builder = ParameterBuilder::new(1);
                // In parts, because no binding may pass the adapter's limit.
                let most = 1 << 23;
                for start in (0..count).step_by(most) {
                    let name = format!("part{start}");
                    builder.parameter(&name, [most.min(count - start)], Init::Ones);
                }
                let config = AdamWConfig {
                    clip_norm: Some(1.0),
                    ..AdamWConfig::default()
                };
                let parameters = builder.build(device)?;
                let mut optimizer = AdamW::new(&parameters, config)?;
                let record = move |tape: &Tape| {
                    // The simplest gradient, which is not counted.
                    optimizer.step(tape, parameters[0].on(tape).sum_all(), 1e-3);
                };
                let counts = move |_, found: &shadegrad::tape::KernelTime| match kernel {
                    // Sums of squares of parts, then the norm from those.
                    "clip" => ["sum_squares", "norm"]
                        .iter()
                        .any(|name| found.name.contains(name)),
                    _ => found.name == "adamw",
                };
                Ok((record, counts))
            });
        }
    }
}
