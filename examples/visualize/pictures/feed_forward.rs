//! The feed-forward part of a layer.

use shadegrad::nn::FeedForwardKind;

use super::percent;
use crate::chart::{Chart, Mark, Series, widened};
use crate::common::Result;
use crate::common::canvas::{Picture, grid, number, picture, px, range};
use crate::common::svg::{BLUE, GREEN, ORANGE};
use crate::statistics::{deviation, histogram, mean, share};
use crate::subject::Subject;

/// What the activation gets, `[T, d_ff]`: with gates the half that the activation is taken of.
fn before(s: &Subject) -> Vec<f64> {
    if !is_gated(s) {
        return s.in_focus("ffn.up").data.clone();
    }
    let rows = s.in_focus("ffn.gate_up").rows();
    let gates = rows.iter().flat_map(|row| &row[..s.config.d_ff]);
    gates.copied().collect()
}

fn is_gated(s: &Subject) -> bool {
    s.config.ffn.is_gated()
}

/// Values before and after the activation.
pub fn histograms(s: &Subject) -> Result<Picture> {
    let layer = s.focus.layer;
    let before = before(s);
    let after = &s.in_focus("ffn.hidden").data;
    let near_zero = |values: &[f64]| {
        let near = 0.05 * deviation(&before);
        percent(share(values, |x| x.abs() <= near))
    };
    let kind = match s.config.ffn {
        FeedForwardKind::Relu => "ReLU",
        FeedForwardKind::Swiglu => "SwiGLU",
        FeedForwardKind::GegluTanh => "GEGLU",
        _ => "GELU",
    };
    let different = match is_gated(s) {
        true => {
            let inner = match s.config.ffn {
                FeedForwardKind::Swiglu => "SiLU",
                _ => "GELU",
            };
            format!(
                " {kind} multiplies {inner} of what is on the left by a second projection, so what comes out may be of \
                 either sign, unlike with GELU or ReLU."
            )
        }
        false => String::new(),
    };
    let (low, high) = range(after);
    let caption = format!(
        "{kind} in layer {layer} takes {} values, {} of them negative, to values between {} and {}: the share within \
         0.05 deviations of zero goes from {} to {}.{different}",
        before.len(),
        percent(share(&before, |x| x < 0.0)),
        number(low, high - low),
        number(high, high - low),
        near_zero(&before),
        near_zero(after)
    );
    let title = format!("Feed-forward values before and after {kind}, layer {layer}");
    picture("ffn_histograms", title, (1100, 420), caption, |area| {
        let (left, right) = area.split_horizontally(px(540.0));
        let before_title = if is_gated(s) {
            "before: the gate"
        } else {
            "before"
        };
        for (area, title, values, color) in [
            (left, before_title, before.as_slice(), BLUE),
            (right, "after", after.as_slice(), GREEN),
        ] {
            let (low, high) = widened(range(values));
            let bins = 50;
            let width = (high - low) / bins as f64;
            let mark = Mark::Bars { width, shift: 0.0 };
            let spread = deviation(values);
            Chart {
                title: format!(
                    "{title}: mean {}, deviation {}",
                    number(mean(values), spread),
                    number(spread, spread)
                ),
                x: "value",
                y: "how many",
                x_range: Some((low, high)),
                series: vec![Series::new(
                    "",
                    color,
                    mark,
                    histogram(values, (low, high), bins),
                )],
                ..Chart::default()
            }
            .draw(&area)?;
        }
        Ok(())
    })
}

/// How often every hidden neuron is active.
pub fn sparsity(s: &Subject) -> Result<Picture> {
    let (layer, d_ff, length) = (s.focus.layer, s.config.d_ff, s.tokens.len());
    let before = before(s);
    let active: Vec<f64> = (0..d_ff)
        .map(|neuron| {
            let positions = (0..length).filter(|t| before[t * d_ff + neuron] > 0.0);
            positions.count() as f64 / length as f64
        })
        .collect();
    let count = |wanted: f64| active.iter().filter(|&&share| share == wanted).count();
    let different = match is_gated(s) {
        true => " With SwiGLU, active means that the gate is positive.",
        false => "",
    };
    let caption = format!(
        "Over this text's {length} positions a neuron of layer {layer} is active (its activation's argument positive) {} \
         of the time; of {d_ff} neurons {} never are and {} always.{different}",
        percent(mean(&active)),
        count(0.0),
        count(1.0)
    );
    let title = format!("How often feed-forward neurons are active, layer {layer}");
    picture("ffn_sparsity", title, (1000, 400), caption, |area| {
        let overall = vec![mean(&active); active.len()];
        Chart {
            x: "hidden neuron",
            y: "share of positions",
            series: vec![
                Series::bars("share of positions at which it is active", BLUE, &active),
                Series::line(format!("mean, {:.2}", mean(&active)), ORANGE, &overall),
            ],
            x_range: Some((-0.6, d_ff as f64 - 0.4)),
            y_range: Some((0.0, 1.0)),
            ..Chart::default()
        }
        .draw(area)
    })
}

/// What the feed-forward part makes of its input, dimension by dimension.
pub fn scatter(s: &Subject) -> Result<Picture> {
    const COLUMNS: usize = 4;
    let layer = s.focus.layer;
    let (inputs, outputs) = (s.in_focus("norm2").rows(), s.in_focus("ffn").rows());
    let shown = s.config.d_model.min(16);
    let pairs = |dimension: usize| -> Vec<(f64, f64)> {
        let pairs = inputs.iter().zip(&outputs);
        pairs.map(|(x, y)| (x[dimension], y[dimension])).collect()
    };
    let correlations: Vec<f64> = (0..shown).map(|d| correlation(&pairs(d))).collect();
    let strongest = correlations.iter().map(|r| r.abs()).enumerate();
    let strongest = strongest.max_by(|a, b| a.1.total_cmp(&b.1));
    let strongest = strongest.expect("a model has dimensions").0;
    let sizes: Vec<f64> = correlations.iter().map(|r| r.abs()).collect();
    let caption = format!(
        "What layer {layer}'s feed-forward part adds against what it read (the normalised stream), one dot per position: \
         it mixes dimensions, so that within one the two need not go together: the mean correlation is {:.2} in size, the \
         strongest {}, in dimension {strongest}.",
        mean(&sizes),
        number(correlations[strongest], 1.0)
    );
    let rows = shown.div_ceil(COLUMNS);
    let title = format!("Feed-forward output against input, layer {layer}, {shown} dimensions");
    picture(
        "ffn_scatter",
        title,
        (1200, 60 + 250 * rows as u32),
        caption,
        |area| {
            let areas = grid(area, rows, COLUMNS);
            for (dimension, area) in areas.iter().take(shown).enumerate() {
                Chart {
                    title: format!("dimension {dimension}"),
                    x: "input",
                    y: "output",
                    series: vec![Series::new("", BLUE, Mark::Points, pairs(dimension))],
                    ..Chart::default()
                }
                .draw(area)?;
            }
            Ok(())
        },
    )
}

/// Pearson's coefficient.
fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let (xs, ys): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (x, y) = (mean(&xs), mean(&ys));
    let products: Vec<f64> = pairs.iter().map(|(a, b)| (a - x) * (b - y)).collect();
    mean(&products) / (deviation(&xs) * deviation(&ys)).max(f64::MIN_POSITIVE)
}
