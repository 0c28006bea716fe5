//! Parameters: their names, initial values and flat storage.

use shadegrad::nn::{Init, Parameter, ParameterBuilder};
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
