//! The text as numbers, and the functions that a model is made of.

use plotters::style::RGBColor;
use shadegrad::Tape;
use shadegrad::nn::{FeedForwardKind, NormKind};

use super::{percent, steps};
use crate::chart::{Chart, Mark, Series, widened};
use crate::common::Result;
use crate::common::canvas::{Picture, number, picture, px, range};
use crate::common::heat_map::{HeatMap, Palette};
use crate::common::svg::{BLUE, GREEN, INK, ORANGE, PURPLE};
use crate::statistics::{deviation, histogram, mean, share};
use crate::subject::{Pending, Subject, Value};

const COLORS: [RGBColor; 4] = [BLUE, ORANGE, GREEN, PURPLE];

/// The numbers of the tokens as bars.
pub fn tokens(s: &Subject) -> Result<Picture> {
    let values: Vec<f64> = s.tokens.iter().map(|&token| f64::from(token)).collect();
    let (last, first) = (s.tokens.len() - 1, &s.text[0]);
    let caption = format!(
        "The model reads {} tokens of {}; a bar is the place of its character in the vocabulary and says nothing about \
         its meaning: “{first}” is {} and “{}” is {}.",
        s.tokens.len(),
        s.vocabulary.len(),
        s.tokens[0],
        s.text[last],
        s.tokens[last]
    );
    picture(
        "tokens",
        "Token numbers over the text",
        (900, 380),
        caption,
        |area| {
            Chart {
                x: "text",
                y: "token",
                series: vec![Series::bars("", BLUE, &values)],
                x_names: Some(&s.text),
                ..Chart::default()
            }
            .draw(area)
        },
    )
}

/// Softmax at several temperatures: of evenly spaced logits, and of the model's own.
pub fn softmax(s: &Subject) -> Result<Picture> {
    const TEMPERATURES: [f64; 4] = [0.1, 0.5, 1.0, 3.0];
    let x = steps(-5.0, 5.0, 100);
    let curves = s.evaluate(&x, |x| TEMPERATURES.map(|t| (x / t as f32).softmax()))?;

    const OWN: [f64; 3] = [0.5, 1.0, 2.0];
    let logits = *s.value("logits").rows().last().expect("there is a token");
    let own = s.evaluate(logits, |x| OWN.map(|t| (x / t as f32).softmax()))?;
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|&a, &b| own[1][b].total_cmp(&own[1][a]));
    ranked.truncate(10);
    let names: Vec<String> = ranked.iter().map(|&t| s.vocabulary[t].clone()).collect();

    let (sharp, flat) = (curves[0][99], curves[3][99]);
    let caption = format!(
        "The lower the temperature, the sharper: of 100 logits from −5 to 5 the largest gets a probability of {sharp:.3} \
         at temperature 0.1 and {flat:.3} at 3; after this text the model gives its favourite, “{}”, {:.2} at 0.5, {:.2} \
         at 1 and {:.2} at 2.",
        names[0], own[0][ranked[0]], own[1][ranked[0]], own[2][ranked[0]]
    );
    picture(
        "softmax",
        "Softmax at several temperatures",
        (1100, 440),
        caption,
        |area| {
            let (left, right) = area.split_horizontally(px(560.0));
            let line = |((t, ys), color)| {
                let points = x.iter().copied().zip(ys).collect::<Vec<_>>();
                Series::new(format!("T = {t}"), color, Mark::Line, points)
            };
            let curves = TEMPERATURES.into_iter().zip(curves).zip(COLORS);
            Chart {
                title: "100 evenly spaced logits, temperature T".to_owned(),
                x: "logit",
                y: "probability",
                series: curves.map(line).collect(),
                ..Chart::default()
            }
            .draw(&left)?;
            let bars = |(i, (t, probabilities)): (usize, (f64, &Vec<f64>))| {
                let mark = Mark::Bars {
                    width: 0.26,
                    shift: 0.26 * (i as f64 - 1.0),
                };
                let heights = ranked.iter().map(|&token| probabilities[token]);
                let points = heights.enumerate().map(|(place, y)| (place as f64, y));
                Series::new(format!("T = {t}"), COLORS[i + 1], mark, points)
            };
            Chart {
                title: "The model's ten favourites after the text".to_owned(),
                x: "next token",
                y: "probability",
                series: OWN.into_iter().zip(&own).enumerate().map(bars).collect(),
                x_names: Some(&names),
                ..Chart::default()
            }
            .draw(&right)
        },
    )
}

/// Values before and after the first norm of the layer in focus.
pub fn norm(s: &Subject) -> Result<Picture> {
    let before = &s.stream(s.focus.layer).data;
    let after = &s.in_focus("norm1").data;
    let (name, does) = match s.config.norm {
        NormKind::LayerNorm => (
            "LayerNorm",
            "takes each position to mean 0 and deviation 1, then multiplies by learned weights and adds learned biases, if \
             it has them",
        ),
        NormKind::RmsNorm => (
            "RMSNorm",
            "divides each position by its root mean square and, unlike LayerNorm, subtracts no mean, then multiplies by \
             learned weights",
        ),
    };
    let describe = |values: &[f64]| {
        let spread = deviation(values);
        format!(
            "mean {}, deviation {}",
            number(mean(values), spread),
            number(spread, spread)
        )
    };
    let caption = format!(
        "Before the first norm of layer {} the {} values have {}, after it {}: {name} {does}.",
        s.focus.layer,
        before.len(),
        describe(before),
        describe(after)
    );
    let title = format!("Before and after {name}, layer {}", s.focus.layer);
    picture("norm", title, (1100, 420), caption, |area| {
        let (left, right) = area.split_horizontally(px(540.0));
        for (area, title, values, color) in [
            (left, "before", before, BLUE),
            (right, "after", after, GREEN),
        ] {
            let (low, high) = widened(range(values));
            let bins = 40;
            let width = (high - low) / bins as f64;
            let bars = Mark::Bars { width, shift: 0.0 };
            let (middle, spread) = (mean(values), deviation(values));
            let rules = |label: &str, color, xs: &[f64]| {
                let points: Vec<(f64, f64)> = xs.iter().map(|&x| (x, 0.0)).collect();
                Series::new(label, color, Mark::Rules, points)
            };
            Chart {
                title: format!("{title}: {}", describe(values)),
                x: "value",
                y: "how many",
                x_range: Some((low, high)),
                series: vec![
                    Series::new("values", color, bars, histogram(values, (low, high), bins)),
                    rules("mean", ORANGE, &[middle]),
                    rules("mean ± deviation", INK, &[middle - spread, middle + spread]),
                ],
                ..Chart::default()
            }
            .draw(&area)?;
        }
        Ok(())
    })
}

/// The embedded text before and after dropout.
pub fn dropout(s: &Subject) -> Result<Picture> {
    const P: f32 = 0.5;
    let before = s.value("embedded");
    let values: Vec<f32> = before.data.iter().map(|&x| x as f32).collect();
    let tape = Tape::training(&s.device);
    let dropped = tape.input(&before.shape[..], &values).dropout(P);
    let dropped = Pending::of(dropped);
    tape.run()?;
    let after = dropped.get()?;
    let mean_size = |values: &[f64]| {
        let sizes: Vec<f64> = values.iter().map(|x| x.abs()).collect();
        number(mean(&sizes), mean(&sizes))
    };
    let caption = format!(
        "In training, dropout at p = {P} has made {} of these {} values zero and the others twice as large, so that their \
         mean size stays about the same ({} before, {} after); {}.",
        percent(share(&after.data, |x| x == 0.0)),
        after.data.len(),
        mean_size(&before.data),
        mean_size(&after.data),
        match s.config.dropout {
            0.0 => "this model was trained without it".to_owned(),
            p => format!("this model was trained with p = {p}"),
        }
    );
    let height = (120 + 12 * s.text.len() as u32).max(420);
    picture(
        "dropout",
        "Dropout of the embedded text",
        (1100, height),
        caption,
        |area| {
            let (left, right) = area.split_horizontally(px(540.0));
            let (low, high) = range(&after.data);
            let zeros: Vec<f64> = after
                .data
                .iter()
                .map(|&x| if x == 0.0 { f64::NAN } else { x })
                .collect();
            let zeros = Value {
                data: zeros,
                shape: after.shape.clone(),
            };
            for (area, title, hidden, value) in [
                (left, "before", "", before),
                (right, "after", "dropped", &zeros),
            ] {
                HeatMap {
                    title: title.to_owned(),
                    x: "dimension",
                    y: "text",
                    rows: value.rows(),
                    y_names: Some(&s.text),
                    palette: Palette::Sign,
                    range: Some((low, high)),
                    hidden,
                    ..HeatMap::default()
                }
                .draw(&area)?;
            }
            Ok(())
        },
    )
}

/// ReLU, GELU and SiLU as curves.
pub fn activations(s: &Subject) -> Result<Picture> {
    let x = steps(-4.0, 4.0, 400);
    let [relu, gelu, silu] = s.evaluate(&x, |x| [x.relu(), x.gelu(), x.silu()])?;
    let lowest = |ys: &[f64]| {
        let lowest = ys.iter().zip(&x).min_by(|a, b| a.0.total_cmp(b.0));
        let (y, x) = lowest.expect("there are points");
        format!("{} at {}", number(*y, 0.1), number(*x, 1.0))
    };
    let own = match s.config.ffn {
        FeedForwardKind::Relu => "this model uses ReLU",
        FeedForwardKind::Gelu => "this model uses GELU",
        FeedForwardKind::Swiglu => {
            "this model uses SwiGLU: SiLU of one projection, multiplied by another"
        }
        FeedForwardKind::GegluTanh => {
            "this model uses GEGLU: GELU of one projection, in its approximation by tanh, multiplied by another"
        }
        _ => "this model uses GELU in its approximation by tanh, which looks the same",
    };
    let caption = format!(
        "ReLU makes everything below 0 exactly 0, while GELU dips to {} and SiLU to {} before they come back to 0; {own}.",
        lowest(&gelu),
        lowest(&silu)
    );
    picture(
        "activations",
        "GELU against ReLU, and SiLU",
        (900, 460),
        caption,
        |area| {
            let line = |label: &str, color, ys: &[f64]| {
                let points: Vec<(f64, f64)> = x.iter().copied().zip(ys.iter().copied()).collect();
                Series::new(label, color, Mark::Line, points)
            };
            Chart {
                x: "x",
                y: "activation of x",
                series: vec![
                    line("SiLU", GREEN, &silu),
                    line("GELU", ORANGE, &gelu),
                    line("ReLU", BLUE, &relu),
                ],
                ..Chart::default()
            }
            .draw(area)
        },
    )
}
