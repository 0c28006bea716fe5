//! Texts: greedy and drawn, one and several.

use shadegrad::Error;
use shadegrad::nn::{CachedTexts, Gpt, GptConfig, NextToken, PositionKind};
use shadegrad::sampling::{Sampler, SamplingConfig};

use super::{inferred, model, small, widen};
use crate::common::Random;

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

/// The definition: the window, the last logits, a draw on the host; no cache.
fn defined(
    gpt: &Gpt,
    prompt: &[u32],
    most: usize,
    sampler: &mut Sampler,
    stop: Option<u32>,
) -> Vec<u32> {
    let mut all = prompt.to_vec();
    for _ in 0..most {
        let window = &all[all.len().saturating_sub(gpt.config().context)..];
        let logits = inferred(gpt, window, 1);
        let last = &logits[logits.len() - gpt.config().vocab_size..];
        let token = sampler.next_token(last).unwrap();
        if stop == Some(token) {
            break;
        }
        all.push(token);
    }
    all.split_off(prompt.len())
}

/// With a window that takes several pieces of a prompt, and room for texts to grow.
fn long() -> GptConfig {
    GptConfig {
        context: 700,
        positions: PositionKind::Rotary,
        ..small()
    }
}

#[test]
fn prompts_of_any_length_side_by_side() {
    let (gpt, parameters) = model(&long());
    widen(&parameters);
    let config = SamplingConfig {
        top_p: Some(0.9),
        ..SamplingConfig::default()
    };
    let tokens = Random::new(3).indices(800, 11);
    // In one piece and in several, that end at the same time; one grows past the window, one begins beyond it.
    let prompts = [1, 20, 256, 257, 600, 698, 720].map(|length| &tokens[..length]);
    let texts = gpt.generate_batch(&prompts, 5, &mut samplers(config, 7), None);
    let texts = texts.unwrap();
    for (row, prompt) in prompts.iter().enumerate() {
        let mut sampler = Sampler::new(config, row as u64).unwrap();
        let expected = defined(&gpt, prompt, 5, &mut sampler, None);
        assert_eq!(texts[row], expected, "{} tokens", prompt.len());
    }
}

#[test]
fn texts_outgrow_their_cache() {
    let (gpt, parameters) = model(&long());
    widen(&parameters);
    let config = SamplingConfig::default();
    // 16, 256 and 512 places.
    let mut sampler = Sampler::new(config, 1).unwrap();
    let short = gpt.generate(&[3], 15, &mut sampler, None).unwrap();
    let mut samplers = samplers(config, 3);
    let prompts: [&[u32]; 3] = [&[1; 3], &[2; 250], &[5]];
    let texts = gpt.generate_batch(&prompts, 12, &mut samplers, None);
    let texts = texts.unwrap();
    for (row, prompt) in prompts.iter().enumerate() {
        let mut sampler = Sampler::new(config, row as u64).unwrap();
        let expected = defined(&gpt, prompt, 12, &mut sampler, None);
        assert_eq!(texts[row], expected, "row {row}");
    }
    let mut sampler = Sampler::new(config, 1).unwrap();
    let again = gpt.generate(&[3], 15, &mut sampler, None).unwrap();
    assert_eq!(again, short);
}

#[test]
fn tokens_come_one_by_one() {
    let (gpt, parameters) = model(&small());
    widen(&parameters);
    let config = SamplingConfig::default();
    let prompts = [&[3u32, 1][..], &[5]];
    let texts = gpt.generate_batch(&prompts, 12, &mut samplers(config, 2), None);
    let texts = texts.unwrap();
    let mut samplers = samplers(config, 2);
    // Across the end of the window of 8, wherever it is dropped and taken up again.
    for first in [1, 4, 5, 7, 11] {
        let mut samplers = samplers.clone();
        let mut all = prompts.map(<[u32]>::to_vec);
        for most in [first, 12 - first] {
            let prompts = all.clone();
            let generation = gpt.generation(&prompts, 50, &mut samplers, None).unwrap();
            for (n, next) in generation.take(2 * most).enumerate() {
                let NextToken { text, token } = next.unwrap();
                assert_eq!(text, n % 2);
                all[text].push(token);
            }
        }
        assert_eq!(all[0][2..], texts[0]);
        assert_eq!(all[1][1..], texts[1]);
    }
    // A stop token is drawn and not given; what the device has drawn behind it has not been.
    let stop = texts[0][3];
    let end = texts[0].iter().position(|&token| token == stop).unwrap();
    let mut on_host = Sampler::new(config, 0).unwrap();
    for _ in 0..2 {
        let found = gpt.generate(prompts[0], 12, &mut samplers[0], Some(stop));
        let expected = defined(&gpt, prompts[0], 12, &mut on_host, Some(stop));
        assert_eq!(found.unwrap(), expected);
    }
    assert!(end < 4);
}

#[test]
fn conversations_compute_what_is_new() {
    let (gpt, parameters) = model(&long());
    widen(&parameters);
    let device = gpt.device();
    let config = SamplingConfig::default();
    let mut on_host = samplers(config, 2);
    let mut samplers = samplers(config, 2);
    let mut texts = gpt.cached_texts(2).unwrap();
    let mut all = [vec![1; 290], vec![4, 5]];
    let mut reply = |all: &mut [Vec<u32>; 2], texts: &mut CachedTexts, new: &[u32]| {
        let expected: Vec<Vec<u32>> = (all.iter().zip(&mut on_host))
            .map(|(all, sampler)| defined(&gpt, &[all, new].concat(), 4, sampler, None))
            .collect();
        all.iter_mut().for_each(|text| text.extend(new));
        let before = device.stats();
        let mut next = vec![Vec::new(); 2];
        let prompts = all.clone();
        for token in gpt
            .generation_with(texts, &prompts, 4, &mut samplers, None)
            .unwrap()
        {
            let NextToken { text, token } = token.unwrap();
            next[text].push(token);
        }
        assert_eq!(next, expected);
        for (all, next) in all.iter_mut().zip(next) {
            all.extend(next);
        }
        device.stats().submits - before.submits
    };
    // Two pieces, and three more tokens.
    assert_eq!(reply(&mut all, &mut texts, &[7]), 5);
    // The last drawn token has not been computed, nor has the new one: one piece.
    assert_eq!(texts.tokens(0), &all[0][..294]);
    assert_eq!(texts.tokens(1), &all[1][..6]);
    assert_eq!(reply(&mut all, &mut texts, &[2, 3]), 4);
    // Nothing new: a step.
    assert_eq!(reply(&mut all, &mut texts, &[]), 4);
    // Another beginning is noticed, also of one of the texts.
    all[0][2] = 9;
    assert_eq!(reply(&mut all, &mut texts, &[8]), 5);
    assert_eq!(texts.tokens(0), &all[0][..all[0].len() - 1]);
    // Nearly at the window's end: no room for padding behind the longer text.
    all[0].resize(690, 3);
    all[1].resize(100, 6);
    reply(&mut all, &mut texts, &[]);
    all[1].resize(140, 7);
    reply(&mut all, &mut texts, &[1]);
    // Beyond it nothing is of use.
    reply(&mut all, &mut texts, &[2]);
    reply(&mut all, &mut texts, &[2]);
    assert_eq!(texts.tokens(0), [0; 0]);
    assert!(!texts.tokens(1).is_empty());
    texts.clear();
    assert_eq!(texts.tokens(1), [0; 0]);
    assert_eq!((texts.batch(), texts.bytes()), (2, 2 * 2 * 700 * 32 * 4));
    // One that is not finished leaves nothing behind that it should not.
    std::mem::forget(gpt.generation_with(
        &mut texts,
        &[[1], [2]],
        4,
        &mut self::samplers(config, 2),
        None,
    ));
    assert_eq!(texts.tokens(0), [0; 0]);
}

#[test]
fn damaged_models_say_so_and_nothing_of_them_stays() {
    let (gpt, parameters) = model(&small());
    widen(&parameters);
    let sound = parameters.to_host().unwrap();
    let mut damaged = sound.clone();
    damaged.last_mut().unwrap().2[0] = f32::NAN;
    parameters.load(damaged).unwrap();
    let mut texts = gpt.cached_texts(1).unwrap();
    let mut samplers = samplers(SamplingConfig::default(), 1);
    let mut generation = gpt
        .generation_with(&mut texts, &[[1, 2]], 5, &mut samplers, None)
        .unwrap();
    let error = generation.next().unwrap().unwrap_err();
    assert!(
        matches!(error, Error::NonFiniteLogit { value, .. } if value.is_nan()),
        "{error}"
    );
    assert!(generation.next().is_none());
    drop(generation);
    assert_eq!(texts.tokens(0), [0; 0]);
    parameters.load(sound).unwrap();
    let text = gpt.generate(&[1, 2], 5, &mut samplers[0], None).unwrap();
    let mut on_host = Sampler::new(SamplingConfig::default(), 0).unwrap();
    assert_eq!(text, defined(&gpt, &[1, 2], 5, &mut on_host, None));
}
