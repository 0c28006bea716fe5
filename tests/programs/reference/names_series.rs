//! What the NumPy part of the names-GPT series prints, from the weights that NumPy draws (`make_names_series.py`).
//!
//! Not compared: losses and names of the other two parts, which follow from PyTorch's generator and a list of names that
//! is not in this project, and the pattern of its dropout, which is the generator's alone.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use shadegrad::data::CharTokenizer;
use shadegrad::ops::CrossEntropy;
use shadegrad::ops::attention::Attention;
use shadegrad::{Shape, Tape, Var};

use crate::common::{assert_close, device};

#[allow(dead_code)] // The example uses all of it.
#[path = "../../../examples/visualize/statistics.rs"]
mod statistics;

const TEXT: &str = "Welcome to the world of AI";
const WIDTH: usize = 16;

/// The weights by name.
struct Weights(BTreeMap<String, (Shape, Vec<f32>)>);

impl Weights {
    fn load() -> Weights {
        let file = include_bytes!("names_series.safetensors");
        let tensors = SafeTensors::deserialize(file).unwrap().tensors();
        let tensors = tensors.into_iter().map(|(name, tensor)| {
            let (words, _) = tensor.data().as_chunks();
            let values = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
            (name, (Shape::from(tensor.shape()), values))
        });
        Weights(tensors.collect())
    }

    fn on<'t>(&self, tape: &'t Tape, name: &str) -> Var<'t> {
        let (shape, values) = &self.0[name];
        tape.input(*shape, values)
    }
}

/// The document's numbers for characters start at one.
fn tokens(tokenizer: &CharTokenizer, text: &str) -> Vec<u32> {
    let tokens = tokenizer.encode(text).unwrap();
    tokens.iter().map(|token| token + 1).collect()
}

#[test]
fn texts_become_the_printed_numbers() {
    let tokenizer = CharTokenizer::from_text(TEXT).unwrap();
    let vocabulary: String = tokenizer.vocabulary().iter().collect();
    assert_eq!(vocabulary, " AIWcdefhlmortw");
    assert_eq!(tokens(&tokenizer, "Welcome"), [4, 7, 10, 5, 12, 11, 7]);
    assert_eq!(
        tokens(&tokenizer, TEXT),
        [
            4, 7, 10, 5, 12, 11, 7, 1, 14, 12, 1, 14, 9, 7, 1, 15, 12, 13, 10, 6, 1, 12, 8, 1, 2, 3
        ]
    );
    // That of the names has the line break first.
    let names = CharTokenizer::from_text("\nabcdefghijklmnopqrstuvwxyz").unwrap();
    assert_eq!(names.vocab_size(), 27);
    assert_eq!(
        names.encode("securitynik").unwrap(),
        [19, 5, 3, 21, 18, 9, 20, 25, 14, 9, 11]
    );
}

#[test]
fn functions_give_the_printed_values() {
    let tape = Tape::inference(device());
    let logits = [-2.0f32, 3.0, 1.0, 5.0, -4.0];
    let softmax = tape.input([5], &logits).softmax();
    let large = tape.input([5], &[-20.0f32, 30.0, 100.0, 50.0, -4.0]);
    let exponentials = tape.input([4], &[-20.0f32, 30.0, 50.0, -4.0]).exp();
    // One row for each of five targets.
    let rows = tape.input([5, 5], &logits.repeat(5));
    let targets = tape.input([5], &[0u32, 1, 1, 0, 1]);
    let loss = rows.cross_entropy(targets, CrossEntropy::default());
    let fetched = [softmax, large.softmax(), exponentials, loss].map(|var| tape.fetch::<f32>(var));
    tape.run().unwrap();
    let [softmax, large, exponentials, loss] = fetched.map(|value| value.get().unwrap());
    let printed = [0.00078972, 0.11720525, 0.01586201, 0.86603615, 0.00010688];
    assert_close("softmax", &softmax, &printed, 1e-5, 1e-8);
    assert_close(
        "softmax of large logits",
        &large,
        &[0.0, 0.0, 1.0, 0.0, 0.0],
        0.0,
        1e-8,
    );
    let printed = [2.06115362e-09, 1.06864746e13, 5.18470553e21, 1.83156389e-02];
    assert_close("exponentials", &exponentials, &printed, 1e-5, 0.0);
    assert_close("cross-entropy", &loss, &[4.143828630781675], 1e-6, 0.0);
}

/// `(x − mean)/√(variance + ε)`, its weights at one.
fn layer_norm(x: Var<'_>) -> Var<'_> {
    let tape = x.tape();
    x.layer_norm(tape.full([WIDTH], 1.0), Some(tape.full([WIDTH], 0.0)), 1e-5)
}

#[test]
fn layer_norm_has_the_stated_mean_and_deviation() {
    let tape = Tape::inference(device());
    let before = Weights::load().on(&tape, "norm.input");
    let after = layer_norm(before);
    let all = [240];
    let fetched = [before, after].map(|x| {
        let deviation = x.reshape(all).var(&[0]).sqrt();
        [x.mean_all(), deviation].map(|var| tape.fetch::<f32>(var))
    });
    tape.run().unwrap();
    let [before, after] = fetched.map(|pair| pair.map(|value| value.item().unwrap()));
    assert_close("before", &before, &[5.1, 2.9], 0.0, 0.05);
    assert_close("after", &after, &[0.0, 1.0], 0.0, 1e-5);
}

/// A layer as the document computes it: what it normalises for attention, it does not give to attention.
fn layer<'t>(x: Var<'t>, weights: &Weights, name: &str) -> Var<'t> {
    let weight = |part: &str| weights.on(x.tape(), &format!("{name}.{part}"));
    let qkv = x.matmul(weight("qkv"));
    let attended = qkv.packed_attention(&Attention::causal(4));
    let x = x + attended.matmul(weight("out"));
    let hidden = layer_norm(x).matmul(weight("up")).gelu_tanh();
    x + hidden.matmul(weight("down"))
}

/// The mean length of the rows.
fn mean_norm(x: Var<'_>) -> Var<'_> {
    (x * x).sum(&[2]).sqrt().mean_all()
}

#[test]
fn the_forward_pass_gives_the_printed_norms_and_text() {
    let weights = Weights::load();
    let tokenizer = CharTokenizer::from_text(TEXT).unwrap();
    let mut read = tokens(&tokenizer, TEXT);
    read.pop();
    let length = read.len();

    let tape = Tape::inference(device());
    let table = weights.on(&tape, "token");
    let embedded = table.embedding(tape.input([1, length], &read));
    let positions = weights.on(&tape, "position").slice(0, 0..length);
    let x = embedded + positions;
    let first = layer(x, &weights, "stack.0");
    let second = layer(first, &weights, "stack.1");
    let norms = [x, first, second].map(|x| tape.fetch::<f32>(mean_norm(x)));
    let query = weights.on(&tape, "query").reshape([WIDTH * WIDTH]);
    let query = [query.mean_all(), query.var(&[0]).sqrt()].map(|var| tape.fetch::<f32>(var));
    let written = ["stack", "model"].map(|name| {
        let mut x = x;
        for i in 0..2 {
            x = layer(x, &weights, &format!("{name}.{i}"));
        }
        tape.fetch::<u32>(x.matmul(table.transpose()).argmax(2))
    });
    let embedded = tape.fetch::<f32>(embedded);
    tape.run().unwrap();

    let norms = norms.map(|norm| norm.item().unwrap());
    let printed = [1.4254605, 1.426371919459707, 1.4268161008242064];
    assert_close("residual norms", &norms, &printed, 5e-7, 0.0);
    let query = query.map(|value| value.item().unwrap());
    assert_close("query weights", &query, &[-0.0002, 0.0189], 0.0, 0.5e-4);
    for written in written {
        let written: Vec<u32> = written.get().unwrap().iter().map(|id| id - 1).collect();
        let text = tokenizer.decode(&written).unwrap();
        assert_eq!(text, "Welco e fo ohe world of A");
    }

    // The projection of `examples/visualize`; the sign of a component is anybody's choice.
    let embedded = embedded.get().unwrap();
    let rows: Vec<Vec<f64>> = embedded
        .chunks(WIDTH)
        .map(|row| row.iter().map(|&x| f64::from(x)).collect())
        .collect();
    let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
    let points = &statistics::pca(&rows).points[..5];
    let printed = [
        (0.255776, 0.23570058),
        (-0.9714201, 0.5525704),
        (-0.19787998, 0.3391831),
        (-0.63930357, 0.12790056),
        (-0.07901763, -0.9264408),
    ];
    let signs = [
        (points[0].0 / printed[0].0).signum(),
        (points[0].1 / printed[0].1).signum(),
    ];
    let found: Vec<f32> = points
        .iter()
        .flat_map(|(x, y)| [(signs[0] * x) as f32, (signs[1] * y) as f32])
        .collect();
    let printed: Vec<f64> = printed.iter().flat_map(|&(x, y)| [x, y]).collect();
    assert_close("principal components", &found, &printed, 0.0, 2e-6);
}
