//! The position-wise part of a transformer block.

use super::config::FeedForwardKind;
use super::linear::INIT_STD;
use super::{Init, Linear, ParameterBuilder};
use crate::tape::Var;

/// Two projections with an activation between them: `activation(x·U)·D`, or for SwiGLU `(silu(x·G)·(x·U))·D` with `G`
/// and `U` packed side by side.
///
/// The parameters are those of the [`Linear`]s `up` (`gate_up` for SwiGLU) and `down`.
#[derive(Clone, Debug)]
pub struct FeedForward {
    kind: FeedForwardKind,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    /// A hidden layer of `hidden` between vectors of extent `width`.
    ///
    /// # Panics
    ///
    /// If the kind is [`FeedForwardKind::None`].
    #[track_caller]
    pub fn new(
        builder: &mut ParameterBuilder,
        kind: FeedForwardKind,
        width: usize,
        hidden: usize,
        bias: bool,
    ) -> FeedForward {
        FeedForward::with_down_std(builder, kind, width, hidden, bias, INIT_STD)
    }

    /// Like [`FeedForward::new`], the weights of `down` starting with another standard deviation.
    ///
    /// # Panics
    ///
    /// As [`FeedForward::new`].
    #[track_caller]
    pub fn with_down_std(
        builder: &mut ParameterBuilder,
        kind: FeedForwardKind,
        width: usize,
        hidden: usize,
        bias: bool,
        std: f32,
    ) -> FeedForward {
        let columns = match kind {
            FeedForwardKind::None => panic!("feed-forward: the kind `none` has no layers"),
            FeedForwardKind::Swiglu => 2 * hidden,
            _ => hidden,
        };
        FeedForward {
            kind,
            up: builder.scope(up_name(kind), |b| Linear::new(b, width, columns, bias)),
            down: builder.scope("down", |b| {
                Linear::with_init(b, hidden, width, bias, Init::Normal { std })
            }),
        }
    }

    /// `[…, width] → […, width]`
    ///
    /// # Panics
    ///
    /// If `x` has another last extent.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let up = self.up.forward(x).tap(up_name(self.kind));
        let hidden = match self.kind {
            FeedForwardKind::Relu => up.relu(),
            FeedForwardKind::Gelu => up.gelu(),
            FeedForwardKind::GeluTanh => up.gelu_tanh(),
            FeedForwardKind::Swiglu => up.swiglu(),
            FeedForwardKind::None => unreachable!("it was refused"),
        };
        self.down.forward(hidden.tap("hidden"))
    }
}

/// What the first projection is called.
fn up_name(kind: FeedForwardKind) -> &'static str {
    match kind {
        FeedForwardKind::Swiglu => "gate_up",
        _ => "up",
    }
}
