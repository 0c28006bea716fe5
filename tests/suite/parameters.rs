//! Parameters: their names, initial values and flat storage.

use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, Init, InitKind, Linear, NormKind, Parameter, ParameterBuilder,
};
use shadegrad::optim::{Factors, ParameterGroups};
use shadegrad::{Error, Shape, Tape};

use crate::common;

fn model(builder: &mut ParameterBuilder) -> [Parameter; 3] {
    builder.scope("layers", |b| {
        let first = b.scope("0", |b| {
            b.parameter("weight", [5, 30], Init::Normal { std: 0.5 })
        });
        let second = b.scope("1", |b| {
            b.parameter("weight", [7], Init::Uniform { limit: 2.0 })
        });
        [first, second, b.parameter("gain", [], Init::Constant(1.5))]
    })
}

#[test]
fn storage_is_flat_aligned_and_padded_with_zeros() {
    let mut builder = ParameterBuilder::new(1);
    let [first, second, gain] = model(&mut builder);
    let parameters = builder.build(common::device()).unwrap();
    assert_eq!(parameters.len(), 3);
    assert_eq!(parameters.element_count(), 158);
    assert_eq!(parameters.places(), [(0, 0), (0, 152), (0, 160)]);
    let [segment] = parameters.segments() else {
        panic!("one segment: {:?}", parameters.segments());
    };
    let flat = segment.to_vec::<f32>().unwrap();
    assert_eq!(flat.len(), 168);
    assert_eq!(flat[..150], first.tensor().to_vec::<f32>().unwrap());
    assert_eq!(flat[152..159], second.tensor().to_vec::<f32>().unwrap());
    assert_eq!(flat[160], 1.5);
    let padding = [&flat[150..152], &flat[159..160], &flat[161..]].concat();
    assert!(padding.iter().all(|value| value.to_bits() == 0));
    let names: Vec<&str> = parameters.iter().map(Parameter::name).collect();
    assert_eq!(names, ["layers.0.weight", "layers.1.weight", "layers.gain"]);
    assert_eq!(gain.shape(), Shape::SCALAR);
    assert!(parameters.get("layers.gain").is_some() && parameters.get("gain").is_none());
}

#[test]
fn a_segment_limit_splits_the_storage_and_nothing_else() {
    let values = |limit: u64| {
        let mut builder = ParameterBuilder::new(1).with_segment_limit(limit);
        model(&mut builder);
        let parameters = builder.build(common::device()).unwrap();
        let places = parameters.places().to_vec();
        (places, parameters.to_host().unwrap())
    };
    let (_, whole) = values(u64::MAX);
    let (places, split) = values(512);
    // The first is larger than the limit and stays alone; the others fit together.
    assert_eq!(places, [(0, 0), (1, 0), (1, 8)]);
    assert_eq!(whole, split);
}

#[test]
fn initial_values_depend_on_seed_and_name_only() {
    let draw = |seed: u64, name: &str, before: usize| {
        let mut builder = ParameterBuilder::new(seed);
        for index in 0..before {
            builder.parameter(format!("other{index}"), [3], Init::Normal { std: 1.0 });
        }
        let wanted = builder.parameter(name, [999], Init::Normal { std: 1.0 });
        builder.build(common::device()).unwrap();
        wanted.tensor().to_vec::<f32>().unwrap()
    };
    let reference = draw(1, "a.weight", 0);
    assert_eq!(reference, draw(1, "a.weight", 2));
    assert_ne!(reference, draw(2, "a.weight", 0));
    assert_ne!(reference, draw(1, "b.weight", 0));
}

#[test]
fn initial_values_have_the_moments_asked_for() {
    let mut builder = ParameterBuilder::new(3);
    let normal = builder.parameter("normal", [40_000], Init::Normal { std: 0.25 });
    let uniform = builder.parameter("uniform", [40_000], Init::Uniform { limit: 0.5 });
    builder.build(common::device()).unwrap();
    let moments = |parameter: &Parameter| {
        let values = parameter.tensor().to_vec::<f32>().unwrap();
        let mean = |power: i32| {
            let sum: f64 = values.iter().map(|&x| f64::from(x).powi(power)).sum();
            sum / values.len() as f64
        };
        (mean(1), mean(2).sqrt(), mean(4) / mean(2).powi(2))
    };
    // Five standard errors of each statistic.
    let (mean, deviation, kurtosis) = moments(&normal);
    assert!(mean.abs() < 0.0063, "{mean}");
    assert!((deviation - 0.25).abs() < 0.0045, "{deviation}");
    assert!((kurtosis - 3.0).abs() < 0.13, "{kurtosis}");
    let (mean, deviation, kurtosis) = moments(&uniform);
    assert!(mean.abs() < 0.0073, "{mean}");
    assert!(
        (deviation - 0.5 / 3f64.sqrt()).abs() < 0.0035,
        "{deviation}"
    );
    assert!((kurtosis - 1.8).abs() < 0.03, "{kurtosis}");
}

/// Of a model's parameters: the largest magnitude and the standard deviation around zero, by name.
fn spread(kind: InitKind, scale_residual_init: bool) -> impl Fn(&str) -> (f32, f32) {
    let config = GptConfig {
        d_model: 64,
        d_ff: 256,
        n_layers: 2,
        bias: true,
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::Gelu,
        tie_weights: false,
        head_bias: true,
        scale_residual_init,
        ..GptConfig::new(300)
    };
    let mut builder = ParameterBuilder::new(5).with_init(kind);
    Gpt::new(&config, &mut builder).unwrap();
    let values = builder.build(common::device()).unwrap().to_host().unwrap();
    move |wanted| {
        let (.., values) = values
            .iter()
            .find(|(name, ..)| name == wanted)
            .expect(wanted);
        let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let squares: f32 = values.iter().map(|x| x * x).sum();
        (most, (squares / values.len() as f32).sqrt())
    }
}

#[test]
fn layers_start_as_the_builder_says() {
    let close = |(_, std): (f32, f32), expected: f32, what: &str| {
        assert!(
            (std / expected - 1.0).abs() < 0.04,
            "{what}: {std}, expected {expected}"
        );
    };
    let (up, down) = ("blocks.1.ffn.up", "blocks.1.ffn.down.weight");
    let [up_weight, up_bias] = ["weight", "bias"].map(|name| format!("{up}.{name}"));
    let embedding = "token_embedding.weight";
    let uniform = |std: f32| 3f32.sqrt() * std;
    // 64 inputs and 256 outputs.
    for (kind, std, is_uniform) in [
        (InitKind::Normal, 0.02, false),
        (InitKind::Pytorch, 1.0 / (3.0f32 * 64.0).sqrt(), true),
        (InitKind::KaimingUniform, (2.0f32 / 64.0).sqrt(), true),
        (InitKind::KaimingNormal, (2.0f32 / 64.0).sqrt(), false),
        (InitKind::XavierUniform, (2.0f32 / 320.0).sqrt(), true),
        (InitKind::XavierNormal, (2.0f32 / 320.0).sqrt(), false),
    ] {
        let of = spread(kind, false);
        close(of(&up_weight), std, kind.name());
        let (most, _) = of(&up_weight);
        assert_eq!(
            most <= uniform(std) * 1.000_001,
            is_uniform,
            "{kind}: {most}"
        );
        let embedded = if kind == InitKind::Pytorch { 1.0 } else { 0.02 };
        close(of(embedding), embedded, kind.name());
        close(of("position_embedding.weight"), embedded, kind.name());
        for bias in [&up_bias, "head.bias"] {
            let (most, _) = of(bias);
            let limit = if kind == InitKind::Pytorch {
                0.125
            } else {
                0.0
            };
            assert!(
                most <= limit && most >= 0.8 * limit,
                "{kind}: {bias} {most}"
            );
        }
        assert_eq!(of("norm.weight"), (1.0, 1.0));
        assert_eq!(of("norm.bias"), (0.0, 0.0));
        // Two blocks have four residual sums.
        let (_, whole) = of(down);
        close(spread(kind, true)(down), whole / 2.0, kind.name());
    }
}

#[test]
fn kinds_of_initial_values_have_names() {
    for kind in InitKind::ALL {
        assert_eq!(kind.name().parse::<InitKind>().unwrap(), *kind);
    }
    let error = "torch".parse::<InitKind>().unwrap_err().to_string();
    assert!(
        error.contains("init") && error.contains("pytorch, kaiming_uniform"),
        "{error}"
    );
}

#[test]
fn a_summary_says_what_is_frozen() {
    let mut builder = ParameterBuilder::new(1);
    Linear::new(&mut builder.enter("body"), 300, 40, true);
    Linear::new(&mut builder.enter("head"), 40, 3, false);
    let parameters = builder.build(common::device()).unwrap();
    let groups = ParameterGroups::new(|name, shape| match name.starts_with("body") {
        true => Factors::FROZEN,
        false => Factors::default_of(name, shape),
    });
    let summary = groups.summary(&parameters);
    assert_eq!(
        (summary.elements(), summary.frozen_elements()),
        (12_160, 12_040)
    );
    let expected = "\
parameter         shape  numbers   bytes
body.weight   [300, 40]   12,000  48,000  frozen
body.bias          [40]       40     160  frozen
head.weight     [40, 3]      120     480
total        3 tensors   12,160  48,640
trained 120, frozen 12,040";
    let text = summary.to_string();
    let squeezed = |text: &str| {
        let lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(squeezed(&text), squeezed(expected), "{text}");
    // Columns stand below one another.
    let ends = text
        .lines()
        .take(5)
        .map(|line| line.trim_end_matches("  frozen").len());
    assert_eq!(
        ends.collect::<std::collections::BTreeSet<_>>().len(),
        1,
        "{text}"
    );
}

#[test]
fn values_can_be_taken_and_put_back_by_name() {
    let build = |seed| {
        let mut builder = ParameterBuilder::new(seed);
        model(&mut builder);
        builder.build(common::device()).unwrap()
    };
    let (source, target) = (build(1), build(2));
    let values = source.to_host().unwrap();
    assert_ne!(values, target.to_host().unwrap());
    target.load(values.iter().rev().cloned()).unwrap();
    assert_eq!(values, target.to_host().unwrap());

    let refused = |values: Vec<(String, Shape, Vec<f32>)>| {
        let before = target.to_host().unwrap();
        let error = target.load(values).unwrap_err();
        assert_eq!(before, target.to_host().unwrap());
        assert!(matches!(error, Error::Parameter { .. }));
        error.to_string()
    };
    let mut missing = values.clone();
    missing.remove(1);
    assert!(refused(missing).contains("`layers.1.weight`: its values are missing"));
    let mut extra = values.clone();
    extra.push(("head.weight".to_owned(), Shape::from([1]), vec![0.0]));
    assert!(refused(extra).contains("`head.weight`: the model has no such"));
    let mut twice = values.clone();
    twice.push(values[0].clone());
    assert!(refused(twice).contains("twice"));
    let mut other = values.clone();
    other[0].1 = Shape::from([30, 5]);
    let message = refused(other);
    assert!(
        message.contains("[5, 30]") && message.contains("[30, 5]"),
        "{message}"
    );
}

#[test]
#[should_panic(expected = "there is a parameter `layers.gain` already")]
fn names_are_unique() {
    let mut builder = ParameterBuilder::new(1);
    model(&mut builder);
    builder.scope("layers", |b| b.parameter("gain", [], Init::Ones));
}

#[test]
#[should_panic(expected = "`weight` has no storage yet: call ParameterBuilder::build")]
fn parameters_must_be_built_before_use() {
    let tape = Tape::training(common::device());
    ParameterBuilder::new(1)
        .parameter("weight", [1], Init::Ones)
        .on(&tape);
}
