//! The position-wise part of a transformer block.

use super::kinds::FeedForwardKind;
use super::{Linear, ParameterBuilder};
use crate::tape::Var;

/// Two projections with an activation between them: `activation(x·U)·D`, or for gated kinds `(activation(x·G)·(x·U))·D` with
/// `G` and `U` packed side by side.
///
/// The parameters are those of the [`Linear`]s `up` (`gate_up` for gated ones) and `down`.
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
        FeedForward::with_residual_divisor(builder, kind, width, hidden, bias, 1.0)
    }

    /// Like [`FeedForward::new`], the initial values of `down` smaller by this factor.
    ///
    /// # Panics
    ///
    /// As [`FeedForward::new`].
    #[track_caller]
    pub fn with_residual_divisor(
        builder: &mut ParameterBuilder,
        kind: FeedForwardKind,
        width: usize,
        hidden: usize,
        bias: bool,
        divisor: f32,
    ) -> FeedForward {
        let columns = match kind {
            FeedForwardKind::None => panic!("feed-forward: the kind `none` has no layers"),
            kind if kind.is_gated() => 2 * hidden,
            _ => hidden,
        };
        let up = Linear::new(&mut builder.enter(up_name(kind)), width, columns, bias);
        let down = Linear::divided(&mut builder.enter("down"), hidden, width, bias, divisor);
        FeedForward { kind, up, down }
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.up, &mut self.down].into_iter()
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
            FeedForwardKind::GegluTanh => up.geglu_tanh(),
            FeedForwardKind::None => unreachable!("it was refused"),
        };
        self.down.forward(hidden.tap("hidden"))
    }
}

/// What the first projection is called.
fn up_name(kind: FeedForwardKind) -> &'static str {
    match kind.is_gated() {
        true => "gate_up",
        false => "up",
    }
}
