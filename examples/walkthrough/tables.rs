//! The walkthrough itself.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use shadegrad::nn::ParameterBuilder;
use shadegrad::ops::attention::Attention;
use shadegrad::{Device, Shape, Tape, Var};

use super::layers::{SelfAttention, SelfAttentionV1, SplitHeads, StackedHeads, causal_mask};
use super::page::{Entry, Page};

/// "Your journey starts with one step", each word a vector.
const INPUTS: [f32; 18] = [
    0.43, 0.15, 0.89, 0.55, 0.87, 0.66, 0.57, 0.85, 0.64, 0.22, 0.58, 0.33, 0.77, 0.25, 0.10, 0.05,
    0.80, 0.55,
];
const TOKENS: usize = 6;
const D_IN: usize = 3;
const D_OUT: usize = 2;

/// What PyTorch's generator draws: see `make_weights.py`.
const WEIGHTS: &[u8] = include_bytes!("weights.safetensors");

/// All layers, with the walkthrough's weights.
struct Layers {
    v1: SelfAttentionV1,
    v2: SelfAttention,
    stacked: StackedHeads,
    split: SplitHeads,
    biased: SplitHeads,
    /// What is in the file beside parameters.
    others: BTreeMap<String, (Shape, Vec<f32>)>,
}

impl Layers {
    fn load(device: &Device) -> Result<Layers, Box<dyn std::error::Error>> {
        let mut b = ParameterBuilder::new(0);
        let mut layers = Layers {
            v1: b.scope("v1", |b| SelfAttentionV1::new(b, D_IN, D_OUT)),
            v2: b.scope("v2", |b| SelfAttention::new(b, D_IN, D_OUT, false)),
            stacked: b.scope("heads", |b| StackedHeads::new(b, D_IN, D_OUT, 2)),
            split: b.scope("split", |b| SplitHeads::new(b, D_IN, D_OUT, 2, false)),
            biased: b.scope("biased", |b| SplitHeads::new(b, D_IN, D_OUT, 2, true)),
            others: BTreeMap::new(),
        };
        let parameters = b.build(device)?;
        let mut given = Vec::new();
        for (name, tensor) in SafeTensors::deserialize(WEIGHTS)?.tensors() {
            let (words, _) = tensor.data().as_chunks();
            let values = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
            let shape = Shape::from(tensor.shape());
            if parameters.get(&name).is_some() {
                given.push((name, shape, values));
            } else {
                layers.others.insert(name, (shape, values));
            }
        }
        parameters.load(given)?;
        Ok(layers)
    }

    fn other<'t>(&self, tape: &'t Tape, name: &str) -> Var<'t> {
        let (shape, values) = &self.others[name];
        tape.input(*shape, values)
    }
}

/// Computes every table in one run of one tape.
///
/// # Errors
///
/// What the device reports.
pub fn compute(device: &Device) -> Result<Vec<Entry>, Box<dyn std::error::Error>> {
    let layers = Layers::load(device)?;
    let tape = Tape::inference(device);
    let inputs = tape.input([TOKENS, D_IN], &INPUTS);
    let mut page = Page::default();
    without_weights(&mut page, inputs);
    with_weights(&mut page, inputs, &layers);
    causal(&mut page, inputs, &layers);
    batched(&mut page, inputs, &layers);
    tape.run()?;
    Ok(page.fetch()?)
}

/// Compares the tables that show the same, computed in two ways.
///
/// # Errors
///
/// If two of them differ by more than rounding.
pub fn check(entries: &[Entry]) -> Result<(), Box<dyn std::error::Error>> {
    let values = |wanted: &str| {
        let tables = entries.iter().filter_map(|entry| match entry {
            Entry::Table(table) => Some(table),
            _ => None,
        });
        let mut tables = tables.filter(|table| table.name == wanted);
        &tables.next().expect("it is on the page").values
    };
    for (one, other) in [
        ("scores, product by product", "scores, one matrix product"),
        ("weights of masked scores", "weights of the fused kernel"),
    ] {
        let pairs = values(one).iter().zip(values(other));
        let differences: Vec<f32> = pairs.map(|(a, b)| (a - b).abs()).collect();
        if let Some(difference) = differences.iter().find(|&&d| d.is_nan() || d > 1e-4) {
            return Err(format!(
                "{one} and {other} differ by {difference}: this adapter computes wrongly, take another one or a newer driver"
            )
            .into());
        }
    }
    Ok(())
}

/// Row 2 of a matrix, counted from one.
fn second(matrix: Var<'_>) -> Var<'_> {
    matrix.slice(0, 1..2)
}

/// Without its first axis, which has extent one.
fn flat(row: Var<'_>) -> Var<'_> {
    let elements = row.shape().elements();
    row.reshape([elements])
}

fn without_weights(page: &mut Page, inputs: Var<'_>) {
    page.heading("Attention without weights");
    page.table("inputs", inputs);
    let query = second(inputs);
    let scores = flat((inputs * query).sum(&[1]));
    page.table("scores of token 2", scores);

    page.note("Not to be done: scores over their sum are weights only as long as every score is positive.");
    let over_sum = page.table("scores over their sum", scores / scores.sum_all());
    page.table("their sum", over_sum.sum_all());

    page.note("Not to be done: exp() of a score beyond 88 is infinite, so softmax as its formula stands overflows.");
    let exponentials = scores.exp();
    let naive = page.table("naive softmax", exponentials / exponentials.sum_all());
    page.table("sum of naive softmax", naive.sum_all());
    let large = scores * 100.0;
    let exponentials = large.exp();
    page.table(
        "naive softmax of scores 100 times as large",
        exponentials / exponentials.sum_all(),
    );

    page.note("Softmax that subtracts the largest score first is safe, and the same otherwise.");
    page.table("softmax of scores 100 times as large", large.softmax());
    let weights = page.table("softmax", scores.softmax());
    page.table("sum of softmax", weights.sum_all());
    let weights = weights.reshape([1, TOKENS]);
    page.table("context vector of token 2", flat(weights.matmul(inputs)));

    page.note("The same for all tokens at once.");
    let [rows, columns] = [[TOKENS, 1, D_IN], [1, TOKENS, D_IN]];
    let products = inputs.reshape(rows) * inputs.reshape(columns);
    page.table("scores, product by product", products.sum(&[2]));
    let scores = page.table(
        "scores, one matrix product",
        inputs.matmul(inputs.transpose()),
    );
    let weights = page.table("weights", scores.softmax());
    page.table("sums of their rows", weights.sum(&[1]));
    page.table("context vectors", weights.matmul(inputs));
}

fn with_weights(page: &mut Page, inputs: Var<'_>, layers: &Layers) {
    page.heading("Attention with trainable weights");
    let [queries, keys, values] = layers.v1.project(inputs);
    let query = second(queries);
    page.table("query of token 2", flat(query));
    page.table("keys", keys);
    page.table("values", values);
    let scores = query.matmul(keys.transpose());
    page.table(
        "score of token 2 with itself",
        scores.slice(1, 1..2).reshape([]),
    );
    page.table("scores of token 2 under the weights", flat(scores));
    let weights = (scores / (D_OUT as f32).sqrt()).softmax();
    page.table("weights of token 2, scores over √2", flat(weights));
    let context = flat(weights.matmul(values));
    page.table("context vector of token 2 under the weights", context);

    page.note("As layers. Their weights start differently, so their results differ.");
    let alone = inputs.reshape([1, TOKENS, D_IN]);
    page.table("self-attention, bare matrices", layers.v1.forward(alone));
    let (contexts, _) = layers.v2.forward(alone, &Attention::full(1));
    page.table("self-attention, linear layers", contexts);
}

fn causal(page: &mut Page, inputs: Var<'_>, layers: &Layers) {
    let tape = inputs.tape();
    page.heading("Hiding later tokens");
    let scale = (D_OUT as f32).sqrt();
    let [queries, keys, _] = layers.v2.project(inputs);
    let scores = queries.matmul(keys.transpose());
    let weights = page.table("weights of all tokens", (scores / scale).softmax());

    page.note("Not to be done: what softmax gave to later tokens is cut off, and the rows no longer sum to one. Dividing \
               by the sums repairs that, at the price of computing weights that are thrown away.");
    let mask = page.table(
        "mask of ones and zeros",
        causal_mask(tape, TOKENS, 1.0, 0.0),
    );
    let cut = page.table("weights times mask", weights * mask);
    page.table("sums of the cut rows", cut.sum(&[1]));
    page.table("renormalised", cut / cut.sum_keep(&[1]));

    page.note("Better: scores of later tokens become −∞, which softmax turns into zero. The fused kernel does neither: \
               it stops at the query's own position.");
    let hidden = causal_mask(tape, TOKENS, 0.0, f32::NEG_INFINITY);
    let masked = page.table("masked scores", scores + hidden);
    let weights = page.table("weights of masked scores", (masked / scale).softmax());
    let alone = inputs.reshape([1, TOKENS, D_IN]);
    let (_, fused) = layers.v2.forward(alone, &Attention::causal(1));
    page.table(
        "weights of the fused kernel",
        fused.reshape([TOKENS, TOKENS]),
    );

    page.heading("Dropping weights");
    page.note("Half of all weights become zero, the others twice as large. Which ones, PyTorch's generator has decided.");
    page.table("dropout of ones", layers.other(tape, "dropout.ones"));
    let kept = layers.other(tape, "dropout.weights");
    page.table("dropout of the weights", weights * kept);
}

fn batched(page: &mut Page, inputs: Var<'_>, layers: &Layers) {
    page.heading("Batches and heads");
    let batch = page.table("batch", Var::stack(&[inputs, inputs], 0));
    let (contexts, _) = layers.stacked.heads[0].forward(batch, &Attention::causal(1));
    page.table("causal attention", contexts);
    page.table("two heads, stacked", layers.stacked.forward(batch));
    page.table("two heads, split, mixed", layers.split.forward(batch));
    page.note("With biases on queries, keys and values (qkv_bias), which the walkthrough offers and does not print.");
    page.table(
        "two heads, split, mixed, with biases",
        layers.biased.forward(batch),
    );
}
