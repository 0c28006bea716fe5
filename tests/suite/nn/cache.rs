//! Keys and values kept from token to token.

use shadegrad::nn::{Gpt, GptConfig, KvCache, PositionKind};
use shadegrad::{Error, Tape, Tensor};

use super::{inferred, model, small, widen};
use crate::common::{Random, assert_close_f32, device};

/// The logits of the new tokens of each text.
fn continued(gpt: &Gpt, tokens: &[u32], cache: &mut KvCache) -> Vec<f32> {
    let batch = cache.batch();
    let tape = Tape::inference(device());
    let tokens = tape.input([batch, tokens.len() / batch], tokens);
    let logits = tape.fetch::<f32>(gpt.cached_logits(tokens, cache));
    tape.run().unwrap();
    logits.get().unwrap()
}

#[test]
fn cached_logits_equal_those_of_the_whole_text_at_every_position() {
    for &positions in PositionKind::ALL {
        let (gpt, parameters) = model(&GptConfig {
            context: 20,
            positions,
            ..small()
        });
        widen(&parameters);
        // Two texts, the second of which is three tokens behind: it has them in its padding only.
        let tokens = Random::new(6).indices(2 * 20, 11);
        let (one, other) = tokens.split_at(20);
        let whole = inferred(&gpt, &tokens, 2);
        let expected = |text: usize, range: std::ops::Range<usize>| {
            &whole[(20 * text + range.start) * 11..(20 * text + range.end) * 11]
        };
        let what = |at: &str| format!("{positions}: {at}");
        let mut cache = gpt.kv_cache(2, 20).unwrap();
        let padded = [&one[..5], &other[..2], &[7, 7, 7]].concat();
        let logits = continued(&gpt, &padded, &mut cache);
        assert_close_f32(
            &what("prompt"),
            &logits[..55],
            expected(0, 0..5),
            1e-4,
            1e-5,
        );
        assert_close_f32(
            &what("padded"),
            &logits[55..77],
            expected(1, 0..2),
            1e-4,
            1e-5,
        );
        cache.truncate(1, 2);
        // One token at a time, past the first rounded length.
        for t in 5..18 {
            let logits = continued(&gpt, &[one[t], other[t - 3]], &mut cache);
            let at = what(&format!("position {t}"));
            assert_close_f32(&at, &logits[..11], expected(0, t..t + 1), 1e-4, 1e-5);
            assert_close_f32(&at, &logits[11..], expected(1, t - 3..t - 2), 1e-4, 1e-5);
        }
        // Several at once behind what is there.
        assert_eq!(cache.lengths(), [18, 15]);
        cache.truncate(0, 9);
        let tokens = [&one[9..13], &other[15..19]].concat();
        let logits = continued(&gpt, &tokens, &mut cache);
        assert_close_f32(
            &what("chunk"),
            &logits[..44],
            expected(0, 9..13),
            1e-4,
            1e-5,
        );
        assert_close_f32(
            &what("chunk"),
            &logits[44..],
            expected(1, 15..19),
            1e-4,
            1e-5,
        );
    }
}

#[test]
fn caches_hold_what_they_have_room_for() {
    let (gpt, _parameters) = model(&small());
    for (name, batch, capacity) in [("batch", 0, 8), ("capacity", 1, 0), ("capacity", 1, 9)] {
        match gpt.kv_cache(batch, capacity) {
            Err(Error::InvalidArgument { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut cache = gpt.kv_cache(3, 5).unwrap();
    // Two layers of keys and values.
    assert_eq!(cache.bytes(), 2 * 2 * 4 * (3 * 5 * 16));
    continued(&gpt, &[1; 12], &mut cache);
    let full = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        continued(&gpt, &[1; 6], &mut cache)
    }));
    let message = *full.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(
        message,
        "kv_cache: 2 more tokens make a text of 6, there is room for 5"
    );
}

#[test]
fn caches_grow_with_what_is_in_them() {
    for positions in [PositionKind::Learned, PositionKind::Rotary] {
        let (gpt, parameters) = model(&GptConfig {
            context: 40,
            positions,
            ..small()
        });
        widen(&parameters);
        let tokens = Random::new(9).indices(2 * 20, 11);
        let mut cache = gpt.kv_cache(2, 16).unwrap();
        let mut expected = gpt.kv_cache(2, 40).unwrap();
        for cache in [&mut cache, &mut expected] {
            continued(&gpt, &tokens[..26], cache);
            cache.truncate(1, 4);
        }
        cache.grow(40).unwrap();
        // There is room already.
        cache.grow(5).unwrap();
        assert_eq!((cache.capacity(), cache.lengths()), (40, &[13, 4][..]));
        assert_eq!(cache.bytes(), expected.bytes());
        assert_eq!(
            continued(&gpt, &tokens[26..], &mut cache),
            continued(&gpt, &tokens[26..], &mut expected)
        );
    }
}

#[test]
fn rows_are_written_where_the_data_says() {
    let cache = Tensor::new(device(), [2, 4, 3], &[-1f32; 24]).unwrap();
    let values: Vec<f32> = (0..20).map(|n| n as f32).collect();
    for (starts, expected) in [
        ([1u32, 2], [1, 2]),
        ([3, 0], [3, 0]),
        ([4, u32::MAX], [4, 4]),
    ] {
        cache.write(&[-1f32; 24]).unwrap();
        let tape = Tape::inference(device());
        // A view with strides: columns 1..4 of 5.
        let rows = tape.input([2, 2, 5], &values).slice(2, 1..4);
        let before = tape.fetch::<f32>(tape.tensor(&cache) * 1.0 + 1.0);
        tape.write_rows(&cache, rows, tape.input([2], &starts));
        let after = tape.fetch::<f32>(tape.tensor(&cache) + 1.0);
        tape.run().unwrap();
        let mut written = vec![0f32; 24];
        for (b, start) in expected.into_iter().enumerate() {
            for t in (0..2).filter(|t| start + t < 4) {
                for c in 0..3 {
                    written[(b * 4 + start + t) * 3 + c] = values[(b * 2 + t) * 5 + c + 1] + 1.0;
                }
            }
        }
        assert_eq!(before.get().unwrap(), [0.0; 24]);
        assert_eq!(after.get().unwrap(), written);
    }
}
