//! Texts: greedy and drawn, one and several.

use shadegrad::Error;
use shadegrad::sampling::{Sampler, SamplingConfig};

use super::{inferred, model, small, widen};

fn samplers(config: SamplingConfig, count: u64) -> Vec<Sampler> {
    (0..count)
        .map(|seed| Sampler::new(config, seed).unwrap())
        .collect()
}

#[test]
fn greedy_text_follows_the_largest_logits() {
    let (gpt, parameters) = model(&small());
    widen(&parameters);
    let prompt = [3, 1];
    let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
    // Longer than the window of 8.
    let text = gpt.generate(&prompt, 12, &mut sampler, None).unwrap();
    assert_eq!(text.len(), 12);
    let mut all = prompt.to_vec();
    for token in &text {
        let window = &all[all.len().saturating_sub(8)..];
        let logits = inferred(&gpt, window, 1);
        let last = &logits[logits.len() - 11..];
        let largest = (0..11)
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        assert_eq!(*token, largest as u32);
        all.push(*token);
    }
    // The same with a stop token: the text ends before it.
    let stop = text[4];
    let end = text.iter().position(|&token| token == stop).unwrap();
    let stopped = gpt.generate(&prompt, 12, &mut sampler, Some(stop)).unwrap();
    assert_eq!(stopped, text[..end]);
    let nothing = gpt.generate(&prompt, 0, &mut sampler, None).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn texts_do_not_depend_on_their_batch() {
    let (gpt, parameters) = model(&small());
    widen(&parameters);
    let config = SamplingConfig {
        temperature: 0.9,
        top_k: Some(6),
        top_p: Some(0.95),
    };
    let prompts: [&[u32]; 5] = [&[0], &[1, 2, 3], &[4; 11], &[0], &[5, 6]];
    let batched = gpt
        .generate_batch(&prompts, 10, &mut samplers(config, 5), Some(0))
        .unwrap();
    for (row, prompt) in prompts.iter().enumerate() {
        let sampler = &mut samplers(config, 5)[row];
        let alone = gpt.generate(prompt, 10, sampler, Some(0)).unwrap();
        assert_eq!(batched[row], alone, "row {row}");
    }
    assert_ne!(batched[0], batched[3], "seeds matter");
    let none: [&[u32]; 0] = [];
    assert!(
        gpt.generate_batch(&none, 3, &mut [], None)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn prompts_that_make_no_sense_are_refused() {
    let (gpt, _parameters) = model(&small());
    let mut sampler = Sampler::new(SamplingConfig::GREEDY, 0).unwrap();
    let error = gpt.generate(&[], 3, &mut sampler, None).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { name, .. } if name == "prompt"));
    let error = gpt.generate(&[2, 11], 3, &mut sampler, None).unwrap_err();
    assert!(matches!(
        error,
        Error::TokenOutOfRange {
            token: 11,
            vocab_size: 11
        }
    ));
}
