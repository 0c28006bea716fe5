//! Tokens and positions as vectors.

use shadegrad::nn::PositionKind;
use shadegrad::ops::rotary_table_of;

use super::{percent, times};
use crate::chart::{Chart, Mark, Series};
use crate::common::Result;
use crate::common::canvas::{Picture, grid, number, picture};
use crate::common::heat_map::{HeatMap, Palette};
use crate::common::svg::{BLUE, GREEN, ORANGE};
use crate::statistics::{Pca, mean, pca};
use crate::subject::{Subject, Value};

/// The most rows of a table of positions that are drawn, unless the text is longer.
const MOST_POSITIONS: usize = 64;

/// The vectors of all positions; of rotary ones, what they turn by.
pub fn positions(s: &Subject) -> Result<Picture> {
    match &s.position_table {
        Some(table) => added_positions(s, table),
        None => rotary_positions(s),
    }
}

fn added_positions(s: &Subject, table: &Value) -> Result<Picture> {
    let context = s.config.context;
    let norms = table.norms();
    let (kind, what) = if s.config.positions == PositionKind::Learned {
        let extreme = |sign: f64| {
            let positions = 0..context;
            let found = positions.max_by(|&a, &b| (sign * norms[a]).total_cmp(&(sign * norms[b])));
            let at = found.expect("a model has positions");
            format!("{} (position {at})", number(norms[at], norms[at]))
        };
        let what = format!(
            "trained like any weight, so that rows that few texts reach stay short: from {} to {} in length",
            extreme(-1.0),
            extreme(1.0)
        );
        ("Learned", what)
    } else {
        let length = number(norms[0], norms[0]);
        let what = format!(
            "fixed sines and cosines, slower from left to right, which are not trained and all have a length of {length}"
        );
        ("Sinusoidal", what)
    };
    let [near, far] = [1, (context / 2).max(1)].map(|apart| number(cosine(table, apart), 1.0));
    let caption = format!(
        "Each of the {context} rows is what the model adds at that position, {what}; neighbouring rows have a mean cosine \
         of {near}, rows half a window apart one of {far}."
    );
    position_map(
        s,
        format!("{kind} position embeddings"),
        table,
        None,
        caption,
    )
}

fn rotary_positions(s: &Subject) -> Result<Picture> {
    let (context, head_dim) = (s.config.context, s.config.head_dim());
    let frequencies = s.config.rotary.frequencies(head_dim);
    let data = rotary_table_of(context, &frequencies);
    let table = Value {
        shape: vec![context, head_dim],
        data: data.into_iter().map(f64::from).collect(),
    };
    let pairs = head_dim / 2;
    let names: Vec<String> = ["cos", "sin"]
        .iter()
        .flat_map(|function| (0..pairs).map(move |pair| format!("{function} {pair}")))
        .collect();
    let caption = format!(
        "This model adds no vectors for positions: it turns each of the {pairs} pairs in a query or key by an angle that \
         grows with the position, by 1 a position in the first pair and by {} in the last.",
        number(frequencies[pairs - 1], 0.01)
    );
    let title = "Rotary positions: what queries and keys turn by".to_owned();
    position_map(s, title, &table, Some(&names), caption)
}

fn position_map(
    s: &Subject,
    title: String,
    table: &Value,
    x_names: Option<&[String]>,
    caption: String,
) -> Result<Picture> {
    let shown = s.config.context.min(MOST_POSITIONS.max(s.text.len()));
    let names: Vec<String> = (0..shown)
        .map(|t| match s.text.get(t) {
            Some(token) => format!("{t} {token}"),
            None => t.to_string(),
        })
        .collect();
    let height = (120 + 12 * shown as u32).max(520);
    picture("positions", title, (900, height), caption, |area| {
        HeatMap {
            x: match x_names {
                Some(_) => "cosine and sine of the angle of each pair",
                None => "dimension",
            },
            y: "position, and what the text has there",
            rows: table.rows()[..shown].to_vec(),
            x_names,
            y_names: Some(&names),
            palette: Palette::Sign,
            ..HeatMap::default()
        }
        .draw(area)
    })
}

/// The mean cosine between rows that are so far apart.
fn cosine(table: &Value, apart: usize) -> f64 {
    let (rows, norms) = (table.rows(), table.norms());
    let pairs = (apart..rows.len()).map(|i| {
        let dot: f64 = rows[i]
            .iter()
            .zip(rows[i - apart])
            .map(|(a, b)| a * b)
            .sum();
        dot / (norms[i] * norms[i - apart]).max(f64::MIN_POSITIVE)
    });
    mean(&pairs.collect::<Vec<_>>())
}

/// How long the vectors of tokens and positions are.
pub fn norms(s: &Subject) -> Result<Picture> {
    let tokens = s.value("token_embedding").norms();
    let mut series = vec![Series::line(
        format!("tokens, mean {:.3}", mean(&tokens)),
        BLUE,
        &tokens,
    )];
    let caption = match &s.position_table {
        Some(table) => {
            let positions = &table.norms()[..s.tokens.len()];
            let label = format!("positions, mean {:.3}", mean(positions));
            series.push(Series::line(label, ORANGE, positions));
            format!(
                "The vectors of the text's tokens have a mean length of {:.3}, those of its positions {:.3}, a ratio of \
                 {}: the closer to 1, the more evenly the sum tells what a token is and where it stands.",
                mean(&tokens),
                mean(positions),
                times(mean(&tokens), mean(positions))
            )
        }
        None => format!(
            "The vectors of the text's tokens have a mean length of {:.3}; rotary positions add nothing to compare it \
             with.",
            mean(&tokens)
        ),
    };
    picture(
        "embedding_norms",
        "Lengths of token and position embeddings",
        (900, 400),
        caption,
        |area| {
            Chart {
                x: "text",
                y: "L2 norm",
                series,
                x_names: Some(&s.text),
                ..Chart::default()
            }
            .draw(area)
        },
    )
}

/// Embeddings projected to the plane in which they differ most.
pub fn projections(s: &Subject) -> Result<Picture> {
    let tokens = pca(&s.token_table.rows());
    let positions = s.position_table.as_ref().map(|table| pca(&table.rows()));
    let sums = pca(&s.value("embedded").rows());
    let of_text: Vec<String> = s
        .text
        .iter()
        .enumerate()
        .map(|(t, token)| format!("{token}·{t}"))
        .collect();
    let numbers: Vec<String> = (0..s.config.context).map(|t| t.to_string()).collect();
    let covered = |p: &Pca| percent(p.shares.0 + p.shares.1);
    let caption = match &positions {
        Some(positions) => format!(
            "Embeddings in the plane in which they differ most, which holds {} of the variance of all tokens, {} of that \
             of all positions and {} of that of their sums in this text: tokens that are used alike lie close together, \
             and adding positions pulls equal tokens apart.",
            covered(&tokens),
            covered(positions),
            covered(&sums)
        ),
        None => format!(
            "Embeddings in the plane in which they differ most, which holds {} of the variance of all tokens and {} of \
             that of this text's: tokens that are used alike lie close together; without added positions equal tokens \
             coincide.",
            covered(&tokens),
            covered(&sums)
        ),
    };
    let mut panels = vec![("All tokens", &tokens, &s.vocabulary, BLUE)];
    if let Some(positions) = &positions {
        panels.push(("All positions", positions, &numbers, ORANGE));
    }
    let title = match positions {
        Some(_) => "The text: token + position",
        None => "The text (token·position)",
    };
    panels.push((title, &sums, &of_text, GREEN));
    let width = 500 * panels.len() as u32;
    picture(
        "pca",
        "Principal components of embeddings",
        (width, 540),
        caption,
        |area| {
            let areas = grid(area, 1, panels.len());
            for (area, (title, pca, names, color)) in areas.iter().zip(panels) {
                let notes = names.iter().cloned().zip(pca.points.iter().copied());
                let [x, y] = [("first", pca.shares.0), ("second", pca.shares.1)]
                    .map(|(which, share)| format!("{which} component ({})", percent(share)));
                Chart {
                    title: title.to_owned(),
                    x: &x,
                    y: &y,
                    series: vec![Series::new("", color, Mark::Points, pca.points.clone())],
                    notes: notes.collect(),
                    ..Chart::default()
                }
                .draw(area)?;
            }
            Ok(())
        },
    )
}
