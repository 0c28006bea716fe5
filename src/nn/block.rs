//! One layer of a decoder, and what layers of encoders have in common with it.

use super::attention::CausalSelfAttention;
use super::config::GptConfig;
use super::kinds::{FeedForwardKind, NormPlacement};
use super::kv_cache::Places;
use super::{FeedForward, Linear, Norm, ParameterBuilder, Positions};
use crate::gpu::Tensor;
use crate::tape::Var;

/// A decoder block: `x + attention(norm1(x))`, then `x + ffn(norm2(x))`. Xiong et al. 2020, "On Layer Normalization in the
/// Transformer Architecture".
///
/// With [`NormPlacement::After`] it is `x + norm1(attention(x))` and so on, with [`NormPlacement::Both`]
/// `x + norm1_after(attention(norm1(x)))`; with [`FeedForwardKind::None`] the second part
/// is not there.
#[derive(Clone, Debug)]
pub struct DecoderBlock {
    attention: CausalSelfAttention,
    branches: Branches,
}

impl DecoderBlock {
    /// The block of this layer, counted from 0, of the model that `config` describes.
    ///
    /// # Panics
    ///
    /// If the configuration is [not valid](GptConfig::validate) or has no such layer.
    #[track_caller]
    pub fn new(builder: &mut ParameterBuilder, config: &GptConfig, layer: usize) -> DecoderBlock {
        let attention =
            |scope: &mut ParameterBuilder| CausalSelfAttention::of(scope, config, layer);
        let (attention, branches) = Branches::around(attention, builder, config);
        DecoderBlock {
            attention,
            branches,
        }
    }

    /// `[B, T, d_model] → [B, T, d_model]`
    ///
    /// # Panics
    ///
    /// If `x` is not of that shape.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, positions: &Positions) -> Var<'t> {
        let attention = |input| self.attention.forward(input, positions);
        self.branches.forward(x, attention)
    }

    /// Its linear layers, in the order of computation.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let attention = self.attention.linears_mut();
        attention.chain(self.branches.linears_mut())
    }

    /// The extent of keys and values of a token together.
    pub(super) fn cached_width(&self) -> usize {
        self.attention.cached_width()
    }

    /// Like [`DecoderBlock::forward`] for tokens that stand at `places` and see what `cache`, a layer of a
    /// [`KvCache`](super::KvCache), holds; their keys and values are added to it. `next` is the block behind.
    #[track_caller]
    pub(super) fn forward_cached<'t>(
        &self,
        stream: Stream<'t>,
        positions: &Positions,
        places: &Places<'t>,
        cache: &Tensor,
        next: Option<&DecoderBlock>,
    ) -> Stream<'t> {
        let attention = |input| {
            self.attention
                .forward_cached(input, positions, places, cache)
        };
        let next = next.and_then(|next| next.branches.norm1.before.as_ref());
        self.branches.pass(stream, attention, next)
    }
}

/// What goes from branch to branch.
#[derive(Clone, Copy)]
pub(super) struct Stream<'t> {
    pub x: Var<'t>,
    /// `x` normalised for the next branch, if that has been computed along with it.
    pub normed: Option<Var<'t>>,
}

impl<'t> From<Var<'t>> for Stream<'t> {
    fn from(x: Var<'t>) -> Stream<'t> {
        Stream { x, normed: None }
    }
}

/// A norm as a model has them.
#[track_caller]
pub(super) fn norm(builder: &mut ParameterBuilder, name: &str, config: &GptConfig) -> Norm {
    let scope = &mut builder.enter(name);
    let (kind, eps) = (config.norm, config.norm_eps);
    Norm::new(scope, kind, config.d_model, config.bias, eps)
}

/// The norms of a residual branch.
#[derive(Clone, Debug)]
struct BranchNorms {
    before: Option<Norm>,
    after: Option<Norm>,
    name: &'static str,
}

impl BranchNorms {
    #[track_caller]
    fn new(builder: &mut ParameterBuilder, name: &'static str, config: &GptConfig) -> BranchNorms {
        let first = norm(builder, name, config);
        let (before, after) = match config.norm_placement {
            NormPlacement::Before => (Some(first), None),
            NormPlacement::After => (None, Some(first)),
            NormPlacement::Both => {
                let second = norm(builder, &format!("{name}_after"), config);
                (Some(first), Some(second))
            }
        };
        BranchNorms {
            before,
            after,
            name,
        }
    }

    #[track_caller]
    fn before<'t>(&self, stream: Stream<'t>) -> Var<'t> {
        match (stream.normed, &self.before) {
            (Some(normed), _) => normed,
            (None, Some(norm)) => norm.forward(stream.x).tap(self.name),
            (None, None) => stream.x,
        }
    }

    /// The sum of `x` and what its branch has made, which goes on to the norm `next`.
    #[track_caller]
    fn after<'t>(&self, x: Var<'t>, branch: Var<'t>, next: Option<&Norm>) -> Stream<'t> {
        let tape = x.tape();
        let Some(norm) = &self.after else {
            return (x + branch).into();
        };
        // Nothing but inference, where dispatches count, needs no name and no gradient of what is between the norms.
        if let (Norm::RmsNorm(norm), Some(Norm::RmsNorm(next)), false, false) =
            (norm, next, tape.is_training(), tape.is_tracing())
        {
            let [x, normed] = branch.residual_norms(x, norm.on(tape), next.on(tape));
            let normed = Some(normed);
            return Stream { x, normed };
        }
        let after = norm.forward(branch);
        let after = match self.before {
            None => after.tap(self.name),
            Some(_) => after.tap(format_args!("{}_after", self.name)),
        };
        (x + after).into()
    }
}

/// A block but for its attention: the two residual sums, norms before or after their branches, the feed-forward layer.
#[derive(Clone, Debug)]
pub(super) struct Branches {
    norm1: BranchNorms,
    /// With its norms.
    ffn: Option<(BranchNorms, FeedForward)>,
    dropout: f32,
}

impl Branches {
    /// With the attention that belongs to it.
    #[track_caller]
    pub fn around<A>(
        attention: impl FnOnce(&mut ParameterBuilder) -> A,
        builder: &mut ParameterBuilder,
        config: &GptConfig,
    ) -> (A, Branches) {
        let norm1 = BranchNorms::new(builder, "norm1", config);
        let attention = attention(&mut builder.enter("attention"));
        let ffn = (config.ffn != FeedForwardKind::None).then(|| {
            let norms = BranchNorms::new(builder, "norm2", config);
            let scope = &mut builder.enter("ffn");
            let (width, hidden, bias) = (config.d_model, config.d_ff, config.bias);
            let (kind, divisor) = (config.ffn, config.residual_divisor());
            let ffn = FeedForward::with_residual_divisor(scope, kind, width, hidden, bias, divisor);
            (norms, ffn)
        });
        let branches = Branches {
            norm1,
            ffn,
            dropout: config.dropout,
        };
        (attention, branches)
    }

    /// Linear layers, but for those of attention.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let ffn = self.ffn.iter_mut();
        ffn.flat_map(|(_, ffn)| ffn.linears_mut())
    }

    /// `[B, T, d_model] → [B, T, d_model]`, as `attention` is.
    #[track_caller]
    pub fn forward<'t>(&self, x: Var<'t>, attention: impl FnOnce(Var<'t>) -> Var<'t>) -> Var<'t> {
        self.pass(x.into(), attention, None).x
    }

    /// [`Branches::forward`] towards a block that begins with the norm `next`.
    #[track_caller]
    fn pass<'t>(
        &self,
        stream: Stream<'t>,
        attention: impl FnOnce(Var<'t>) -> Var<'t>,
        next: Option<&Norm>,
    ) -> Stream<'t> {
        let tape = stream.x.tape();
        // Each sum, being the only reader of a product, runs in that product's epilogue.
        let input = self.norm1.before(stream);
        let attended = tape.scope("attention", || attention(input).dropout(self.dropout));
        let between = match &self.ffn {
            Some((norms, _)) => norms.before.as_ref(),
            None => next,
        };
        let attended = self.norm1.after(stream.x, attended, between);
        attended.x.tap("attended");
        let Some((norms, ffn)) = &self.ffn else {
            return attended;
        };
        let input = norms.before(attended);
        let fed = tape.scope("ffn", || ffn.forward(input).dropout(self.dropout));
        norms.after(attended.x, fed, next)
    }
}
