//! The residual stream through all layers, and what the model says in the end.

use super::{percent, times};
use crate::chart::{Chart, Mark, Series};
use crate::common::Result;
use crate::common::canvas::{Picture, number, picture};
use crate::common::heat_map::{HeatMap, Palette};
use crate::common::svg::{BLUE, GREEN, ORANGE};
use crate::statistics::{mean, share};
use crate::subject::Subject;

/// The mean length of the stream's vectors as they enter and leave every layer.
pub fn norms(s: &Subject) -> Result<Picture> {
    let layers = s.config.n_layers;
    let sizes: Vec<f64> = (0..=layers)
        .map(|layer| mean(&s.stream(layer).norms()))
        .collect();
    let grown = times(sizes[layers], sizes[0]);
    let most = (0..layers)
        .max_by(|&a, &b| (sizes[a + 1] / sizes[a]).total_cmp(&(sizes[b + 1] / sizes[b])))
        .expect("a model has layers");
    let caption = format!(
        "The residual stream's mean length goes from {:.3} to {:.3} through {layers} layers, a factor of {grown}, most \
         of it in layer {most} ({}×).",
        sizes[0],
        sizes[layers],
        times(sizes[most + 1], sizes[most])
    );
    let names: Vec<String> = (0..layers).map(|layer| format!("layer {layer}")).collect();
    picture(
        "residual_norms",
        "Length of the residual stream",
        (900, 400),
        caption,
        |area| {
            Chart {
                x: "",
                y: "mean L2 norm",
                series: vec![
                    Series::line("as it enters the layer", BLUE, &sizes[..layers]),
                    Series::line("as it leaves the layer", ORANGE, &sizes[1..]),
                    Series::new("", BLUE, Mark::Points, places(&sizes[..layers])),
                    Series::new("", ORANGE, Mark::Points, places(&sizes[1..])),
                ],
                x_names: Some(&names),
                y_range: Some((0.0, 1.08 * sizes.iter().copied().fold(0.0, f64::max))),
                ..Chart::default()
            }
            .draw(area)
        },
    )
}

fn places(values: &[f64]) -> Vec<(f64, f64)> {
    let places = values.iter().enumerate();
    places.map(|(i, &y)| (i as f64, y)).collect()
}

/// How much attention and the feed-forward part add in every layer.
pub fn updates(s: &Subject) -> Result<Picture> {
    let layers = s.config.n_layers;
    let sizes = |name: &str| -> Vec<f64> {
        let layers = 0..layers;
        layers
            .map(|layer| mean(&s.of_layer(layer, name).norms()))
            .collect()
    };
    let (attention, ffn) = (sizes("attention"), sizes("ffn"));
    let largest = |sizes: &[f64]| {
        let layer = (0..layers).max_by(|&a, &b| sizes[a].total_cmp(&sizes[b]));
        let layer = layer.expect("a model has layers");
        format!("{:.3} in layer {layer}", sizes[layer])
    };
    let caption = format!(
        "Attention adds vectors of mean length {:.3}, at most {}; the feed-forward parts {:.3}, at most {}.",
        mean(&attention),
        largest(&attention),
        mean(&ffn),
        largest(&ffn)
    );
    let names: Vec<String> = (0..layers).map(|layer| format!("layer {layer}")).collect();
    picture(
        "update_sizes",
        "What every layer adds",
        (900, 400),
        caption,
        |area| {
            let bars = |label: &str, color, shift, values: &[f64]| {
                Series::new(
                    label,
                    color,
                    Mark::Bars { width: 0.36, shift },
                    places(values),
                )
            };
            Chart {
                x: "",
                y: "mean L2 norm of the update",
                series: vec![
                    bars("attention", BLUE, -0.19, &attention),
                    bars("feed-forward", GREEN, 0.19, &ffn),
                ],
                x_names: Some(&names),
                ..Chart::default()
            }
            .draw(area)
        },
    )
}

/// Every number of the residual stream, layer under layer.
pub fn evolution(s: &Subject) -> Result<Picture> {
    let layers = s.config.n_layers;
    let states: Vec<&[f64]> = (0..=layers)
        .map(|layer| s.stream(layer).data.as_slice())
        .collect();
    let kept = |a: &[f64], b: &[f64]| {
        let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
        let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        dot / (length(a) * length(b)).max(f64::MIN_POSITIVE)
    };
    let neighbours: Vec<f64> = (0..layers)
        .map(|l| kept(states[l], states[l + 1]))
        .collect();
    // A few numbers that are much larger than all others would leave these pale.
    let all = states.concat();
    let mut sizes: Vec<f64> = all.iter().map(|x| x.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let most = sizes[(sizes.len() - 1) * 98 / 100];
    let caption = format!(
        "All {} numbers of the stream ({} positions of {} dimensions) from the embedding at the top to the last layer: \
         columns keep their colour where layers only add a little, with a mean cosine of {} from row to row and {} from \
         the first to the last (colours end at ±{}, which {} of the numbers exceed).",
        states[0].len(),
        s.tokens.len(),
        s.config.d_model,
        number(mean(&neighbours), 1.0),
        number(kept(states[0], states[layers]), 1.0),
        number(most, most),
        percent(share(&all, |x| x.abs() > most))
    );
    let entered = std::iter::once("embedded".to_owned());
    let names: Vec<String> = entered
        .chain((0..layers).map(|layer| format!("after layer {layer}")))
        .collect();
    let height = 130 + 56 * (layers as u32 + 1);
    picture(
        "residual_stream",
        "The residual stream",
        (1280, height),
        caption,
        |area| {
            HeatMap {
                x: "dimensions of each position of the text",
                rows: states,
                x_groups: Some(&s.text),
                y_names: Some(&names),
                palette: Palette::Sign,
                range: Some((-most, most)),
                ..HeatMap::default()
            }
            .draw(area)
        },
    )
}

/// What the model expects after every position.
pub fn next_tokens(s: &Subject) -> Result<Picture> {
    let logits = s.value("logits");
    let vocabulary = s.vocabulary.len();
    let length = s.tokens.len();
    let [flat] = s.evaluate(&logits.data, |x| {
        let rows = x.reshape([length, vocabulary]).softmax();
        [rows.reshape([length * vocabulary])]
    })?;
    let rows: Vec<&[f64]> = flat.chunks(vocabulary).collect();
    let came: Vec<f64> = (1..length)
        .map(|t| rows[t - 1][s.tokens[t] as usize])
        .collect();
    let favourite = |row: &[f64]| {
        let best = (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        best.expect("there are tokens")
    };
    let right = (1..length).filter(|&t| favourite(rows[t - 1]) == s.tokens[t] as usize);
    let surprise: Vec<f64> = came.iter().map(|p| -p.ln()).collect();
    let end = rows[length - 1];
    let best = favourite(end);
    let caption = format!(
        "What the model expects after each position: the token that did come (framed) gets a mean probability of {} and is the \
         favourite {} of {} times (cross-entropy {:.2} nats); after the whole text it expects “{}” with {}.",
        percent(mean(&came)),
        right.count(),
        length - 1,
        mean(&surprise),
        s.vocabulary[best],
        percent(end[best])
    );
    let size = (1180, 120 + 26 * length as u32);
    picture(
        "next_tokens",
        "Probabilities of the next token",
        size,
        caption,
        |area| {
            HeatMap {
                x: "next token",
                y: "after",
                rows,
                x_names: Some(&s.vocabulary),
                y_names: Some(&s.text),
                marks: (1..length).map(|t| (t - 1, s.tokens[t] as usize)).collect(),
                ..HeatMap::default()
            }
            .draw(area)
        },
    )
}
