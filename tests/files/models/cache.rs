//! Texts through the cache of keys and values, longer than the windows of local layers.

use shadegrad::nn::{Gpt, KvCache};
use shadegrad::{DType, Tape};

use super::table::MODELS;
use super::{TOLERANCE, expected, load, logits};
use crate::common::{assert_close_f32, device, devices};

/// Without the cache, tokens are compared all at once: as they follow from what is before them, they are the same ones by
/// one as long as they are the expected ones.
#[test]
fn greedy_tokens() {
    for (model, device) in MODELS.iter().zip(devices().into_iter().cycle()) {
        let expected = expected(model.name);
        let [prompt, following] = ["prompt", "greedy"].map(|name| expected.ids(name));
        assert_eq!(following.len(), 64);
        let (gpt, _) = load(model.name, DType::F32, device);

        let text = [&prompt[..], &following].concat();
        let logits = logits(&gpt, 1, &text);
        let rows = logits.chunks(gpt.config().vocab_size);
        let mut sampler = model.greedy();
        let drawn = rows.skip(prompt.len() - 1).take(64);
        let drawn: Vec<u32> = drawn.map(|row| sampler.next_token(row).unwrap()).collect();
        assert_eq!(drawn, following, "{} without the cache", model.name);

        let drawn = gpt.generate(&prompt, 64, &mut sampler, None).unwrap();
        assert_eq!(drawn, following, "{} with the cache", model.name);
        // Prompts of different lengths, one within the windows.
        let prompts = [&text[..5], &text[..prompt.len() + 24], &prompt];
        let mut samplers = [0; 3].map(|_| model.greedy());
        let drawn = gpt.generate_batch(&prompts, 24, &mut samplers, None);
        let drawn = drawn.unwrap();
        assert_eq!(drawn[1], following[24..48], "{} side by side", model.name);
        assert_eq!(drawn[2], following[..24], "{} side by side", model.name);
        let alone = gpt.generate(prompts[0], 24, &mut sampler, None).unwrap();
        assert_eq!(drawn[0], alone, "{} side by side", model.name);
    }
}

/// The logits of the next tokens of two texts.
fn next(gpt: &Gpt, cache: &mut KvCache, tokens: [&[u32]; 2]) -> Vec<f32> {
    let tape = Tape::inference(gpt.device());
    let tokens = tape.input([2, tokens[0].len()], &tokens.concat());
    let logits = tape.fetch::<f32>(gpt.cached_logits(tokens, cache));
    tape.run().unwrap();
    logits.get().unwrap()
}

/// Pieces as long as windows and longer, single tokens between them, and texts that are not equally far: the second is three
/// tokens behind after the first piece and comes up in the end.
#[test]
fn pieces_of_texts() {
    for model in &MODELS {
        let expected = expected(model.name);
        let (shape, logits) = expected.get("logits");
        let (length, vocabulary) = (shape[1], shape[2]);
        let tokens = expected.ids("tokens");
        let texts = [&tokens[..length], &tokens[length..]];
        let (gpt, _) = load(model.name, DType::F32, device());
        let mut cache = gpt.kv_cache(2, 32).unwrap();
        let mut at = [0, 0];
        for (piece, behind) in [(4, 3), (1, 0), (9, 0), (1, 0), (3, 0)] {
            let pieces = [0, 1].map(|text| &texts[text][at[text]..at[text] + piece]);
            let actual = next(&gpt, &mut cache, pieces);
            for text in 0..2 {
                let row = text * length + at[text];
                let what = format!("{}: text {text} from {}", model.name, at[text]);
                let actual = &actual[text * piece * vocabulary..][..piece * vocabulary];
                let expected = &logits[row * vocabulary..][..piece * vocabulary];
                assert_close_f32(&what, actual, expected, 0.0, TOLERANCE);
                at[text] += piece;
            }
            at[1] -= behind;
            cache.truncate(1, at[1]);
        }
        assert_eq!(cache.lengths(), [18, 15]);
    }
}
