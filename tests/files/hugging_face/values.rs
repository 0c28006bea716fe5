//! The loaded model computes what `transformers` computes.

use shadegrad::hugging_face::ModelFiles;
use shadegrad::nn::{Gpt, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::{DType, Shape, Tape};

use super::expected::Expected;
use super::golden;
use crate::common::{assert_close_f32, device, portable_device};

/// Relative to the largest value of a tensor.
const TOLERANCE: f64 = 1e-4;

fn compare(expected: &Expected, name: &str, actual: &[f32]) {
    let expected = expected.floats(name);
    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let absolute = TOLERANCE * f64::from(largest);
    assert_close_f32(name, actual, &expected, 0.0, absolute);
}

/// The model with its table of tokens in three parts.
fn split(dtype: DType) -> (Gpt, Parameters) {
    let files = ModelFiles::open(golden()).unwrap();
    let limit = 3_750 * dtype.bytes() as u64;
    let builder = ParameterBuilder::new(0).with_parameter_limit(limit);
    let mut builder = builder.with_dtype(dtype);
    let gpt = Gpt::new(files.config(), &mut builder).unwrap();
    let parameters = builder.build_zeroed(device()).unwrap();
    let part = parameters.get("token_embedding.weight.2").unwrap();
    assert_eq!(part.shape(), Shape::from([96, 32]));
    files.restore(&parameters).unwrap();
    (gpt, parameters)
}

/// Logits to 10⁻⁴, the loss, and gradients.
fn check(gpt: &Gpt) {
    let expected = Expected::load();
    let tokens = expected.ids("tokens");
    let length = tokens.len();

    let tape = Tape::inference(gpt.device());
    let logits = tape.fetch::<f32>(gpt.logits(tape.input([1, length], &tokens)));
    tape.run().unwrap();
    let logits = logits.get().unwrap();
    assert_close_f32("logits", &logits, &expected.floats("logits"), 0.0, 1e-4);

    let tape = Tape::inference(gpt.device());
    let [inputs, targets] =
        [&tokens[..length - 1], &tokens[1..]].map(|t| tape.input([1, length - 1], t));
    let loss = gpt.loss(inputs, targets, CrossEntropy::default());
    let loss = tape.fetch::<f32>(loss);
    tape.run().unwrap();
    compare(&expected, "loss", &[loss.item().unwrap()]);
}

#[test]
fn logits_and_loss() {
    for device in [device(), portable_device()] {
        let (gpt, _) = ModelFiles::open(golden()).unwrap().load(device).unwrap();
        check(&gpt);
    }
}

#[test]
fn a_table_in_parts_gives_the_same() {
    let (gpt, _) = split(DType::F32);
    check(&gpt);
}

/// The gradients of both, the parts' one after the other.
#[test]
fn gradients() {
    let files = ModelFiles::open(golden()).unwrap();
    let (gpt, parameters) = files.load_with_dropout(0.0, device()).unwrap();
    let whole = (gpt, parameters);
    let names = [
        ("wte.weight", "token_embedding.weight"),
        ("wpe.weight", "position_embedding.weight"),
        ("h.0.attn.c_attn.weight", "blocks.0.attention.qkv.weight"),
        ("h.0.ln_1.weight", "blocks.0.norm1.weight"),
        ("h.1.mlp.c_proj.bias", "blocks.1.ffn.down.bias"),
        ("ln_f.bias", "norm.bias"),
    ];
    let expected = Expected::load();
    let tokens = expected.ids("tokens");
    let length = tokens.len();
    let mut builder = ParameterBuilder::new(0).with_parameter_limit(15_000);
    let parts = Gpt::new(whole.0.config(), &mut builder).unwrap();
    let parts = (parts, builder.build_zeroed(device()).unwrap());
    files.restore(&parts.1).unwrap();
    for (gpt, parameters) in [whole, parts] {
        let tape = Tape::training(device());
        let [inputs, targets] =
            [&tokens[..length - 1], &tokens[1..]].map(|t| tape.input([1, length - 1], t));
        let loss = gpt.loss(inputs, targets, CrossEntropy::default());
        let gradients = tape.backward(loss);
        let fetched = names.map(|(theirs, ours)| {
            let named = parameters.iter().filter(|p| p.name().starts_with(ours));
            let fetched = named.map(|p| tape.fetch::<f32>(gradients.of(p.on(&tape)).unwrap()));
            (theirs, fetched.collect::<Vec<_>>())
        });
        tape.run().unwrap();
        for (theirs, parts) in fetched {
            let gradient: Vec<f32> = parts.iter().flat_map(|part| part.get().unwrap()).collect();
            compare(&expected, &format!("grad.{theirs}"), &gradient);
        }
    }
}

#[test]
fn greedy_tokens() {
    let expected = Expected::load();
    let (whole, _) = ModelFiles::open(golden()).unwrap().load(device()).unwrap();
    let greedy = expected.ids("greedy");
    for gpt in [whole, split(DType::F32).0] {
        let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
        let tokens = gpt.generate(&expected.ids("tokens"), greedy.len(), &mut sampler, None);
        assert_eq!(tokens.unwrap(), greedy);
    }
}

/// In halves, logits are as near as 11 bits allow: 24 roundings in two blocks and 5 around them, independent of one another.
/// Greedy tokens are the same as long as the largest logit stands out by more than that.
#[test]
fn halves() {
    let expected = Expected::load();
    let (tokens, greedy) = (expected.ids("tokens"), expected.ids("greedy"));
    let text = [tokens.clone(), greedy.clone()].concat();
    let files = ModelFiles::open(golden()).unwrap();
    for device in [device(), portable_device()] {
        let (full, _) = files.load(device).unwrap();
        let (half, _) = files.load_as(DType::F16, device).unwrap();
        let logits = |gpt: &Gpt| {
            let tape = Tape::inference(gpt.device());
            tape.set_precision(gpt.precision());
            let logits = gpt.logits(tape.input([1, text.len()], &text));
            let logits = tape.fetch::<f32>(logits.cast(DType::F32));
            tape.run().unwrap();
            logits.get().unwrap()
        };
        let [full, in_halves, in_parts] = [&full, &half, &split(DType::F16).0].map(logits);
        let largest = full.iter().fold(0f32, |most, x| most.max(x.abs()));
        let bar = 29f32.sqrt() * largest / 2048.0;
        assert_close_f32("logits", &in_halves, &full, 0.0, f64::from(bar));
        assert_close_f32("of parts", &in_parts, &full, 0.0, f64::from(bar));
        let rows = full.chunks(288).skip(tokens.len() - 1);
        let clear = rows.take(greedy.len()).take_while(|row| {
            let mut row = row.to_vec();
            row.sort_by(|a, b| b.total_cmp(a));
            row[0] - row[1] > 2.0 * bar
        });
        let clear = clear.count();
        let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
        let text = half.generate(&tokens, greedy.len(), &mut sampler, None);
        println!("{clear} of {} tokens stand out", greedy.len());
        assert!(clear > 0);
        assert_eq!(text.unwrap()[..clear], greedy[..clear]);
    }
}

#[test]
fn attention_patterns() {
    let expected = Expected::load();
    let (gpt, _) = ModelFiles::open(golden()).unwrap().load(device()).unwrap();
    let tokens = expected.ids("tokens");
    let tape = Tape::inference(device());
    let (_, trace) = tape.trace(|| gpt.hidden(tape.input([1, tokens.len()], &tokens)));
    let weights = [0, 1].map(|layer| {
        let weights = trace.get(&format!("blocks.{layer}.attention.weights"));
        tape.fetch::<f32>(weights.unwrap())
    });
    tape.run().unwrap();
    let actual: Vec<f32> = weights
        .iter()
        .flat_map(|weights| weights.get().unwrap())
        .collect();
    assert_eq!(
        expected.shape("attention"),
        [2, 4, tokens.len(), tokens.len()].into()
    );
    compare(&expected, "attention", &actual);
}
