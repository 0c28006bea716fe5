//! Who looks at whom, and what comes of it.

use super::percent;
use crate::chart::{Chart, Series};
use crate::common::Result;
use crate::common::canvas::{Picture, extent, grid, number, picture, px};
use crate::common::heat_map::{HeatMap, Palette};
use crate::common::svg::{BLUE, ORANGE};
use crate::statistics::{mean, variance};
use crate::subject::Subject;

/// The rows of one head of `[1, n_heads, T, T]` values.
fn of_head<'a>(s: &'a Subject, layer: usize, name: &str, head: usize) -> Vec<&'a [f64]> {
    let length = s.tokens.len();
    let rows = s.of_layer(layer, name).rows();
    rows[head * length..(head + 1) * length].to_vec()
}

/// What the mask leaves of rows of queries: the rest is hidden, not zero.
fn visible(rows: &[&[f64]]) -> Vec<Vec<f64>> {
    let row = |(query, row): (usize, &&[f64])| {
        let keys = row.iter().enumerate();
        let seen = keys.map(|(key, &value)| if key > query { f64::NAN } else { value });
        seen.collect()
    };
    rows.iter().enumerate().map(row).collect()
}

/// Scores before and after the mask, weights, and what the head in focus gives.
pub fn mask(s: &Subject) -> Result<Picture> {
    let (layer, head) = (s.focus.layer, s.focus.head);
    let length = s.tokens.len();
    let scores = of_head(s, layer, "attention.scores", head);
    let weights = of_head(s, layer, "attention.weights", head);
    let masked = visible(&scores);
    let head_dim = s.config.head_dim();
    let mixed: Vec<&[f64]> = s
        .in_focus("attention.heads")
        .rows()
        .into_iter()
        .map(|row| &row[head * head_dim..(head + 1) * head_dim])
        .collect();
    let favourite = |row: &[f64]| (0..length).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let ahead = (0..length)
        .filter(|&i| favourite(scores[i]) > Some(i))
        .count();
    let last = length - 1;
    let favoured = favourite(weights[last]).expect("there is a token");
    let caption = format!(
        "In head {head} of layer {layer} {ahead} of {length} positions score a later token highest before the mask; \
         after it (hatched: hidden) each row is made of itself and what came before, softmax makes it sum to 1, and the \
         last position gives “{}” (position {favoured}) the most, {:.2}.",
        s.text[favoured], weights[last][favoured]
    );
    let title = format!("Attention before and after the mask, layer {layer}, head {head}");
    // Long texts get more room, so that every token keeps its label.
    let side = (120 + 13 * length as u32).clamp(490, 1300);
    let size = (2 * side + 140, 2 * side + 60);
    picture("attention_mask", title, size, caption, |area| {
        let areas = grid(area, 2, 2);
        let pair = |title: &str, rows, palette| HeatMap {
            title: title.to_owned(),
            x: "key",
            y: "query",
            rows,
            x_names: Some(&s.text),
            y_names: Some(&s.text),
            palette,
            square: true,
            numbers: true,
            hidden: "hidden",
            ..HeatMap::default()
        };
        let before = "scaled scores, before the mask";
        HeatMap {
            hidden: "",
            ..pair(before, scores.clone(), Palette::Sign)
        }
        .draw(&areas[0])?;
        let masked = masked.iter().map(Vec::as_slice).collect();
        pair("after the mask", masked, Palette::Sign).draw(&areas[1])?;
        let weights = visible(&weights);
        let weights = weights.iter().map(Vec::as_slice).collect();
        HeatMap {
            range: Some((0.0, 1.0)),
            ..pair("weights: softmax of each row", weights, Palette::Amount)
        }
        .draw(&areas[2])?;
        HeatMap {
            title: "the head's output: values, weighted".to_owned(),
            x: "dimension of the head",
            y: "query",
            rows: mixed,
            y_names: Some(&s.text),
            palette: Palette::Sign,
            ..HeatMap::default()
        }
        .draw(&areas[3])
    })
}

/// The weights of all heads of all layers.
pub fn heads(s: &Subject) -> Result<Picture> {
    let (layers, heads, length) = (s.config.n_layers, s.config.n_heads, s.tokens.len());
    // Of which heads look at themselves, at their neighbour, at the first token.
    let mut strongest = [(0.0, 0, 0); 3];
    for layer in 0..layers {
        for head in 0..heads {
            let weights = of_head(s, layer, "attention.weights", head);
            let to = |key: fn(usize) -> usize| {
                let given: Vec<f64> = (1..length).map(|i| weights[i][key(i)]).collect();
                mean(&given)
            };
            let found = [to(|i| i), to(|i| i - 1), to(|_| 0)];
            for (best, found) in strongest.iter_mut().zip(found) {
                if found > best.0 {
                    *best = (found, layer, head);
                }
            }
        }
    }
    let said = |(mean, layer, head): (f64, usize, usize)| {
        format!("layer {layer}, head {head} (mean weight {mean:.2})")
    };
    let caption = format!(
        "All heads from weight 0 (dark) to 1 (bright), queries downwards, later keys hidden (hatched): their own token gets most from {}, the token \
         before from {}, the first one from {}.",
        said(strongest[0]),
        said(strongest[1]),
        said(strongest[2])
    );
    // As large as needed for a label per row, as far as that goes.
    let side = (62 + 18 * length as u32).clamp(250, 600);
    let size = (130 + side * heads as u32, 60 + (side + 26) * layers as u32);
    picture(
        "attention_heads",
        "Attention weights of all heads",
        size,
        caption,
        |area| {
            let (width, height) = extent(area);
            let (maps, key) = area.split_horizontally(px(width - 90.0));
            let map = HeatMap {
                x_names: Some(&s.text),
                y_names: Some(&s.text),
                range: Some((0.0, 1.0)),
                square: true,
                bare: true,
                hidden: "hidden",
                ..HeatMap::default()
            };
            for (index, area) in grid(&maps, layers, heads).iter().enumerate() {
                let (layer, head) = (index / heads, index % heads);
                let weights = visible(&of_head(s, layer, "attention.weights", head));
                HeatMap {
                    title: format!("layer {layer}, head {head}"),
                    // A space takes the same room.
                    x: if layer + 1 == layers { "key" } else { " " },
                    y: if head == 0 { "query" } else { " " },
                    rows: weights.iter().map(Vec::as_slice).collect(),
                    ..map.clone()
                }
                .draw(area)?;
            }
            map.draw_scale(&key, (4.0, 31.0), height.min(340.0) - 40.0)
        },
    )
}

/// The weights of every position as bars.
pub fn distributions(s: &Subject) -> Result<Picture> {
    // So many that every token keeps its label.
    let columns = (1200 / (95 + 11 * s.tokens.len())).clamp(1, 4);
    let (layer, head) = (s.focus.layer, s.focus.head);
    let weights = of_head(s, layer, "attention.weights", head);
    let entropy = |row: &[f64]| -> f64 {
        let seen = row.iter().filter(|&&p| p > 0.0);
        seen.map(|p| -p * p.log2()).sum()
    };
    let last = weights.len() - 1;
    let largest = |row: &[f64]| row.iter().copied().fold(0.0, f64::max);
    let caption = format!(
        "What each position of layer {layer}, head {head} takes from which: the first can only look at itself (weight 1), \
         the last spreads over {} tokens with an entropy of {:.2} bits of {:.2} possible and gives at most {} to one.",
        last + 1,
        entropy(weights[last]),
        ((last + 1) as f64).log2(),
        percent(largest(weights[last]))
    );
    let rows = weights.len().div_ceil(columns);
    let title = format!("Attention of every position, layer {layer}, head {head}");
    picture(
        "attention_bars",
        title,
        (1200, 60 + 230 * rows as u32),
        caption,
        |area| {
            let areas = grid(area, rows, columns);
            for (position, (area, weights)) in areas.iter().zip(&weights).enumerate() {
                Chart {
                    title: format!("position {position}: {}", s.text[position]),
                    x: "key",
                    y: "weight",
                    series: vec![Series::bars("", BLUE, weights)],
                    x_names: Some(&s.text),
                    y_range: Some((0.0, 1.0)),
                    ..Chart::default()
                }
                .draw(area)?;
            }
            Ok(())
        },
    )
}

/// How long what attention adds is, beside what it is added to.
pub fn update(s: &Subject) -> Result<Picture> {
    let layer = s.focus.layer;
    let stream = s.stream(layer).norms();
    let update = s.in_focus("attention").norms();
    let caption = format!(
        "Attention adds to the residual stream rather than replacing it: in layer {layer} what it adds has a mean length \
         of {:.3}, {} of the {:.3} of the stream that it is added to.",
        mean(&update),
        percent(mean(&update) / mean(&stream)),
        mean(&stream)
    );
    let title = format!("Attention's update against the residual stream, layer {layer}");
    picture("attention_update", title, (900, 400), caption, |area| {
        let label = |what: &str, values: &[f64]| format!("{what}, mean {:.3}", mean(values));
        Chart {
            x: "text",
            y: "L2 norm",
            series: vec![
                Series::line(label("residual stream", &stream), BLUE, &stream),
                Series::line(label("attention's update", &update), ORANGE, &update),
            ],
            x_names: Some(&s.text),
            ..Chart::default()
        }
        .draw(area)
    })
}

/// How much the dimensions differ, in the stream and in what attention adds.
pub fn variance_of_update(s: &Subject) -> Result<Picture> {
    let layer = s.focus.layer;
    let of_rows = |rows: Vec<&[f64]>| rows.into_iter().map(variance).collect::<Vec<f64>>();
    let stream = of_rows(s.stream(layer).rows());
    let update = of_rows(s.in_focus("attention").rows());
    let (a, b) = (mean(&stream), mean(&update));
    let caption = format!(
        "Over the {} dimensions the residual stream has a mean variance of {}, the output of all heads of layer {layer} \
         together one of {}, {} of it.",
        s.config.d_model,
        number(a, a),
        number(b, b),
        percent(b / a)
    );
    let title = format!("Variance of the residual stream and of attention's output, layer {layer}");
    picture("attention_variance", title, (900, 400), caption, |area| {
        let label = |what: &str, mean: f64| format!("{what}, mean {}", number(mean, mean));
        Chart {
            x: "text",
            y: "variance over the dimensions",
            series: vec![
                Series::line(label("residual stream", a), BLUE, &stream),
                Series::line(label("attention's output", b), ORANGE, &update),
            ],
            x_names: Some(&s.text),
            ..Chart::default()
        }
        .draw(area)
    })
}
