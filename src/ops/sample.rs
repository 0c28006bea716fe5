//! Drawing tokens from logits on the device: greedy, temperature, top-k and top-p, without sorting.
//!
//! The definition is [`SamplingConfig::distribution`](crate::sampling::SamplingConfig::distribution)'s. Weights are computed
//! in `f32` where the host has `f64`, so the two may differ where a sum comes so near to a threshold that rounding decides.
//! Logits nearer to zero than 1.2e-38 may count as zeros: some devices have no such numbers.

use super::{Operation, Takes, TensorType};
use crate::gpu::{AdapterClass, DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Var};

/// Logits `[B, V]`, draws `U32 [B, 8]`, suppressed tokens `U32 [B, ⌈V/32⌉]` → tokens `U32 [B]`, faults `U32 [B, 2]`.
#[derive(Debug, Hash)]
struct Sample;

/// What [`Var::sample`] is told of each row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Draw {
    /// Zero is greedy.
    pub temperature: f32,
    pub top_k: Option<usize>,
    /// Of 1, nothing is left out.
    pub top_p: Option<f32>,
    /// Whether there are suppressed tokens.
    pub suppresses: bool,
    /// What is drawn, as a fraction of 2⁶⁴.
    pub chance: u64,
}

impl Draw {
    pub const WORDS: usize = 8;

    /// As the kernel takes it.
    pub fn words(&self) -> [u32; Draw::WORDS] {
        let temperature = f64::from(self.temperature);
        let top_p = self.top_p.filter(|&p| p < 1.0).map(f64::from);
        let fraction = (top_p.unwrap_or(0.0) * 2f64.powi(64)) as u64;
        let flags = [self.temperature == 0.0, top_p.is_some(), self.suppresses];
        let flags = flags
            .iter()
            .rev()
            .fold(0, |word, &flag| 2 * word + u32::from(flag));
        [
            ((1.0 / temperature).min(f64::from(f32::MAX)) as f32).to_bits(),
            // Further down, weights are below 2⁻⁴⁶ of the greatest.
            ((32.0 * temperature).min(f64::from(f32::MAX)) as f32).to_bits(),
            self.top_k
                .map_or(u32::MAX, |k| u32::try_from(k).unwrap_or(u32::MAX)),
            fraction as u32,
            (fraction >> 32) as u32,
            self.chance as u32,
            (self.chance >> 32) as u32,
            flags,
        ]
    }
}

/// The digits of a token's rank before those of the token itself: of its distance to the greatest logit, and of its logit.
const DIGITS_BEFORE: usize = 6;

impl Operation for Sample {
    fn name(&self) -> &'static str {
        "sample"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let [logits, draws, suppressed] = [0, 1, 2].map(|index| inputs[index].shape);
        let fits = logits.rank() == 2
            && inputs[0].dtype.is_float()
            && draws == Shape::new(&[logits.dim(0), Draw::WORDS])
            && suppressed == Shape::new(&[logits.dim(0), logits.dim(1).div_ceil(32)]);
        assert!(
            fits,
            "sample: logits {logits}, draws {draws} and suppressed tokens {suppressed} do not fit together, expected \
             [B, V], [B, 8] and [B, ⌈V/32⌉]"
        );
        let words = |dims: &[usize]| TensorType {
            shape: Shape::new(dims),
            dtype: DType::U32,
        };
        vec![words(&[logits.dim(0)]), words(&[logits.dim(0), 2])]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn passes_gradients(&self) -> bool {
        false
    }

    fn backward<'t>(&self, _node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        vec![None, None, None]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let [logits, suppressed] = [0, 2].map(|index| cx.with_dense_rows(&cx.input(index)));
        let draws = cx.contiguous(&cx.input(1));
        let (tokens, faults) = (cx.output(0), cx.output(1));
        let [rows, n] = [0, 1].map(|axis| logits.shape().dim(axis));
        let digits = (1..4).find(|&digits| n <= 1 << (8 * digits)).unwrap_or(4);
        let params = [
            n,
            rows,
            logits.layout.offset,
            logits.layout.strides()[0],
            draws.layout.offset,
            suppressed.layout.offset,
            suppressed.layout.strides()[0],
            tokens.layout.offset,
            faults.layout.offset,
            32 - 8 * digits,
            DIGITS_BEFORE + digits,
        ];
        let iterations =
            |lanes: usize, at_once| iterations(n, lanes * at_once, lanes, DIGITS_BEFORE + digits);
        let (lanes, at_once) = match cx.class() {
            AdapterClass::Software => {
                let mut sizes = [8, 16, 32, 64, 128].into_iter();
                let fits = |&lanes: &usize| iterations(lanes, 1) <= cx.most_iterations();
                (sizes.find(fits).unwrap_or(256), 1)
            }
            AdapterClass::Gpu => (256, 4),
        };
        let kernel = Kernel::builtin("sample", "sample", "sample")
            .constant("LANES", lanes)
            .constant("AT_ONCE", at_once);
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&logits)
                .read(&draws)
                .read(&suppressed)
                .write(&tokens)
                .write(&faults)
                .params(&params.map(|word| word as u32))
                .iterations(iterations(lanes, at_once))
                .groups(rows)
                .cost(4 * logits.elements() as u64, logits.bytes()),
        );
    }
}

/// Of an invocation's loops, where all logits are equal and three tokens are searched for to the last digit.
fn iterations(n: usize, at_once: usize, lanes: usize, levels: usize) -> usize {
    let pass = n.div_ceil(at_once) + 1;
    // Clearing a histogram and adding it up, and choosing from it.
    let fill = pass + (256 / lanes + 1) + 18 * 16usize.div_ceil(lanes) + 1;
    let choose = 16 + 16 + 2;
    let compare = pass + 66 * 64usize.div_ceil(lanes) + 1;
    let find = (levels - 1) * (fill + 2) + levels * choose + compare + 1;
    pass + fill + 17 + 3 * (find + 2)
}

impl<'t> Var<'t> {
    /// Draws a token from each row of these logits `[B, V]`, given the words of a [`Draw`] for each, and bits of the tokens
    /// that are never drawn, from the lowest of a word on.
    ///
    /// Gives the tokens, and for each row two words: the first token whose logit is not finite with the bits of that, or
    /// [`NO_FAULT`]. Where all tokens are suppressed, the first with −∞. The token is 0 then.
    #[track_caller]
    pub(crate) fn sample(self, draws: Var<'t>, suppressed: Var<'t>) -> [Var<'t>; 2] {
        let outputs = self.tape().record_all(Sample, &[self, draws, suppressed]);
        [outputs[0], outputs[1]]
    }
}

/// Instead of a token whose logit is not finite.
pub(crate) const NO_FAULT: u32 = u32::MAX;
