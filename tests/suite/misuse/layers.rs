//! Layers whose name is taken.

use shadegrad::nn::{
    CausalSelfAttention, DecoderBlock, Embedding, Encoder, EncoderBlock, EncoderConfig,
    FeedForward, FeedForwardKind, Gpt, GptConfig, Init, LayerNorm, Linear, LoraConfig,
    MultiHeadAttention, MultiHeadAttentionConfig, Norm, NormKind, ParameterBuilder, Positions,
    RmsNorm,
};

use super::misuse;

#[test]
fn two_layers_of_one_name_are_found_where_the_second_is_made() {
    let mut builder = ParameterBuilder::new(1);
    let _first = Linear::new(&mut builder, 2, 3, true);
    misuse(
        "a parameter `weight` already: give each layer a name with",
        || Linear::new(&mut builder, 2, 3, true),
    );
    misuse("a parameter `weight` already", || {
        Linear::with_init(&mut builder, 2, 3, true, Init::Ones)
    });
    misuse("a parameter `weight` already", || {
        Embedding::new(&mut builder, 2, 3)
    });
    misuse("a parameter `weight` already", || {
        RmsNorm::new(&mut builder, 3, 1e-5)
    });
    misuse("a parameter `weight` already", || {
        LayerNorm::new(&mut builder, 3, true, 1e-5)
    });
    misuse("a parameter `weight` already", || {
        Norm::new(&mut builder, NormKind::RmsNorm, 3, true, 1e-5)
    });
    misuse("a parameter `weight` already", || {
        Positions::learned(&mut builder, 4, 8)
    });
}

/// Also where it is a layer within a layer whose name is taken.
#[test]
fn two_models_of_one_name_are_found_where_the_second_is_made() {
    const TAKEN: &str = "already: give each layer a name with ParameterBuilder::scope";
    let b = &mut ParameterBuilder::new(1);
    let gelu = FeedForwardKind::Gelu;
    FeedForward::new(b, gelu, 8, 16, true);
    misuse(TAKEN, || FeedForward::new(b, gelu, 8, 16, true));

    let b = &mut ParameterBuilder::new(1);
    CausalSelfAttention::new(b, 8, 2, true, 0.0);
    misuse(TAKEN, || CausalSelfAttention::new(b, 8, 2, true, 0.0));

    for packed in [true, false] {
        let b = &mut ParameterBuilder::new(1);
        let config = MultiHeadAttentionConfig {
            packed,
            ..MultiHeadAttentionConfig::new(8, 2)
        };
        MultiHeadAttention::new(b, &config);
        misuse(TAKEN, || MultiHeadAttention::new(b, &config));
    }

    let config = EncoderConfig::new(5);
    let b = &mut ParameterBuilder::new(1);
    EncoderBlock::new(b, &config);
    misuse(TAKEN, || EncoderBlock::new(b, &config));
    let b = &mut ParameterBuilder::new(1);
    Encoder::new(&config, b).unwrap();
    misuse(TAKEN, || Encoder::new(&config, b));

    let config = GptConfig::new(5);
    let b = &mut ParameterBuilder::new(1);
    DecoderBlock::new(b, &config, 0);
    misuse(TAKEN, || DecoderBlock::new(b, &config, 0));
    let b = &mut ParameterBuilder::new(1);
    Gpt::new(&config, b).unwrap();
    misuse(TAKEN, || Gpt::new(&config, b));

    // What the message says to do.
    let mut again = b.enter("another");
    assert!(Gpt::new(&config, &mut again).is_ok());
}

#[test]
fn adapters_fit_their_layer() {
    let mut builder = ParameterBuilder::new(1);
    let mut linear = Linear::new(&mut builder.enter("layer"), 2, 9, true);
    let config = LoraConfig::new(1);
    for columns in [
        &[][..],
        &[0..4, 4..10],
        &[0..3, 3..3],
        &[4..6, 0..2],
        &[0..3, 2..5],
        &[0..1, 1..2, 2..3, 3..4, 4..5],
    ] {
        misuse("are not 1 to 4 ranges of 9 outputs", || {
            linear.add_lora_to(&mut ParameterBuilder::new(1), &config, columns)
        });
    }
    misuse("lora: rank = 0", || {
        linear.add_lora(&mut builder, &LoraConfig::new(0))
    });
    linear.add_lora(&mut builder, &config);
    misuse("a parameter `layer.lora_a` already", || {
        linear.add_lora(&mut builder, &config)
    });
}
