//! What the heads of a layer look at, as a picture and as a page to hover over.

use std::fs;
use std::path::Path;

use plotters::style::RGBColor;
use plotters::style::colors::colormaps::{ColorMap, ViridisRGB};
use serde_json::json;
use shadegrad::{Error, Tape};

use super::measure::DAMAGED;
use super::{Model, files_of};
use crate::common::Result;
use crate::common::canvas::{LABEL, grid, picture, widest};
use crate::common::heat_map::HeatMap;
use crate::common::outputs::{self, Mode, Output};

/// The page, but for what it shows.
const PAGE: &str = include_str!("attention.html");

/// Where that goes.
const PLACE: &str = "{{data}}";

/// More tokens than this cannot be told apart in a picture.
const MOST_TOKENS: usize = 64;

/// How many steps the page's scale has.
const SHADES: usize = 100;

/// The height of a cell that has room for its token's name.
const CELL: usize = LABEL as usize + 4;

/// The attention weights of one layer: of every head, for every query, those of the keys that it sees.
struct Pattern {
    model: String,
    layer: usize,
    tokens: Vec<String>,
    heads: Vec<Vec<Vec<f32>>>,
}

/// Writes `layer_{layer}.svg` and `layer_{layer}.html` into a folder, which is made if there is none.
///
/// # Errors
///
/// If there is no such layer or the text is too long; what the device reports; [`Error::File`].
pub fn draw(
    model: &Model,
    directory: &Path,
    tokens: &[u32],
    layer: usize,
    out: &Path,
) -> Result<()> {
    let pattern = Pattern::read(model, directory, tokens, layer)?;
    fs::create_dir_all(out).map_err(|source| Error::File {
        path: out.to_owned(),
        source,
    })?;
    let paths = ["svg", "html"].map(|extension| out.join(format!("layer_{layer}.{extension}")));
    let read = files_of(directory, &model.files);
    let read: Vec<_> = read.iter().map(|(what, path)| (&**what, &**path)).collect();
    let written = paths.each_ref().map(|path| Output {
        flag: "--out",
        path,
        mode: Mode::Replace,
        replaces: None,
    });
    outputs::check(&written, &read)?;
    for (path, contents) in paths.iter().zip([pattern.svg()?, pattern.page()]) {
        outputs::text(path, &contents)?;
        say!("written: {}", path.display());
    }
    Ok(())
}

impl Pattern {
    fn read(model: &Model, directory: &Path, tokens: &[u32], layer: usize) -> Result<Pattern> {
        let config = model.gpt.config();
        let (length, most) = (tokens.len(), config.context.min(MOST_TOKENS));
        if length > most {
            return Err(format!(
                "the text has {length} tokens, at most {most} can be shown: take a shorter one"
            )
            .into());
        }
        let tape = Tape::inference(model.gpt.device());
        let (_, trace) = tape.trace(|| model.gpt.hidden(tape.input([1, length], tokens)));
        let weights = trace.get(&format!("blocks.{layer}.attention.weights"));
        let weights = tape.fetch::<f32>(weights.expect("every block attends"));
        tape.run()?;
        let weights = weights.get()?;
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return Err(format!("an attention weight is {weight}: {DAMAGED}").into());
        }
        let heads = weights.chunks(length * length).map(|head| {
            let queries = head.chunks(length).enumerate();
            queries.map(|(query, row)| row[..=query].to_vec()).collect()
        });
        let strings = model.tokenizer.strings(tokens)?;
        Ok(Pattern {
            model: directory.display().to_string(),
            layer,
            tokens: strings.iter().map(|token| shown(token)).collect(),
            heads: heads.collect(),
        })
    }

    /// All heads, in about as many rows as columns.
    fn svg(&self) -> Result<String> {
        let (heads, length) = (self.heads.len(), self.tokens.len());
        let columns = (1..).find(|n| n * n >= heads).expect("there are heads");
        let rows = heads.div_ceil(columns);
        // What comes later is hidden, not zero.
        let cells = |head: &Vec<Vec<f32>>| -> Vec<Vec<f64>> {
            let row = |query: &Vec<f32>| {
                let seen = query.iter().map(|&weight| f64::from(weight));
                let hidden = std::iter::repeat(f64::NAN);
                seen.chain(hidden).take(length).collect()
            };
            head.iter().map(row).collect()
        };
        let title = format!("Attention of layer {}", self.layer);
        let caption = format!(
            "What each of {length} tokens (downwards) takes from itself and those before it in {heads} heads, from weight 0 \
             (dark) to 1 (bright); later tokens are hidden (hatched)."
        );
        let names = widest(&self.tokens, LABEL) as u32;
        let map = ((CELL * length) as u32).max(150);
        // Around a map: its title, names and what they are of, and the scale.
        let (width, height) = (map + names + 116, map + names + 76);
        let size = (width * columns as u32 + 20, height * rows as u32 + 56);
        let picture = picture("attention", title, size, caption, |area| {
            for (head, area) in (0..heads).zip(grid(area, rows, columns)) {
                let cells = cells(&self.heads[head]);
                HeatMap {
                    title: format!("head {head}"),
                    x: "key",
                    y: "query",
                    rows: cells.iter().map(Vec::as_slice).collect(),
                    x_names: Some(&self.tokens),
                    y_names: Some(&self.tokens),
                    x_upwards: true,
                    range: Some((0.0, 1.0)),
                    square: true,
                    hidden: "hidden",
                    ..HeatMap::default()
                }
                .draw(&area)?;
            }
            Ok(())
        })?;
        Ok(picture.svg)
    }

    /// One file that needs no other.
    fn page(&self) -> String {
        let rounded = |weight: &f32| (f64::from(*weight) * 1e4).round() / 1e4;
        let rows = |head: &Vec<Vec<f32>>| -> Vec<Vec<f64>> {
            let rows = head.iter();
            rows.map(|row| row.iter().map(rounded).collect()).collect()
        };
        let data = json!({
            "model": self.model,
            "layer": self.layer,
            "tokens": self.tokens,
            "heads": self.heads.iter().map(rows).collect::<Vec<_>>(),
            // The same colours as in the picture.
            "colours": (0..=SHADES).map(shade).collect::<Vec<_>>(),
        });
        // Whatever the text says, it ends no element.
        PAGE.replace(PLACE, &data.to_string().replace('<', "\\u003c"))
    }
}

/// A colour of the picture's scale.
fn shade(step: usize) -> [u8; 3] {
    let RGBColor(r, g, b) = ViridisRGB.get_color_normalized(step as f64, 0.0, SHADES as f64);
    [r, g, b]
}

/// A token as a label: blanks and what else would not be seen are written out.
fn shown(token: &str) -> String {
    let characters = token.chars().map(|character| match character {
        ' ' => "␣".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    characters.collect()
}
