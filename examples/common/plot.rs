//! Loss curves as SVG or PNG.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::metrics::Record;
use super::svg::{BLUE, FAINT, INK, NAVY, ORANGE, PAGE, Svg, UNITS};
use super::{Result, canvas, outputs};

/// Width and height in pixels of an SVG, which is half as many as a PNG has.
const SIZE: (u32, u32) = (860, 520);
const PNG_SCALE: u32 = 2;

/// In a bitmap, plotters centres text this fraction of the font's size too high. (In an SVG the viewer does it right.)
const PNG_TEXT_RISE: f64 = 0.2;

/// The size of labels in pixels of an SVG.
const LABEL: f64 = 14.0;

/// The most points that one curve is drawn with.
const MOST_POINTS: usize = 1000;

/// Refuses a file whose extension is neither `.svg` nor `.png`.
///
/// # Errors
///
/// One line with the path.
pub fn check(path: &Path) -> Result<()> {
    match is_png(path) {
        Some(_) => Ok(()),
        None => Err(format!(
            "--plot: {} ends neither in .svg nor in .png",
            path.display()
        )
        .into()),
    }
}

fn is_png(path: &Path) -> Option<bool> {
    let extension = path.extension()?.to_str()?.to_lowercase();
    match extension.as_str() {
        "png" => Some(true),
        "svg" => Some(false),
        _ => None,
    }
}

/// Draws the losses of a run over its steps.
///
/// # Errors
///
/// If the file cannot be written: then an older one of that name is as it was.
pub fn write(path: &Path, title: &str, records: &[Record]) -> Result<()> {
    check(path)?;
    canvas::register_fonts();
    if is_png(path) == Some(true) {
        let size = (SIZE.0 * PNG_SCALE, SIZE.1 * PNG_SCALE);
        outputs::replace(path, |temporary| {
            let root = BitMapBackend::new(temporary, size).into_drawing_area();
            draw(&root, title, records, f64::from(PNG_SCALE), PNG_TEXT_RISE)
        })
    } else {
        let mut text = String::new();
        let root = Svg::new(&mut text, SIZE, "loss", title, &describe(records)).into_drawing_area();
        draw(&root, title, records, f64::from(UNITS), 0.0)?;
        drop(root);
        outputs::text(path, &text)
    }
}

/// The curves in words, for those who can't see them.
fn describe(records: &[Record]) -> String {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return "Losses over steps; there are none yet.".to_owned();
    };
    let mut text = format!(
        "Losses in nats per token over steps {} to {}: single batches go from {:.3} to {:.3}",
        first.step, last.step, first.train_loss, last.train_loss
    );
    let tested = |record: &&Record| record.test_loss.is_some();
    if let Some(loss) = records.iter().rfind(tested).and_then(|r| r.test_loss) {
        text.push_str(&format!(
            ", and the test split is last evaluated at {loss:.3}"
        ));
    }
    text + "."
}

/// The curves of a run, as points `(step, loss)`.
struct Curves {
    batches: Vec<(f64, f64)>,
    mean: Vec<(f64, f64)>,
    train: Vec<(f64, f64)>,
    test: Vec<(f64, f64)>,
}

impl Curves {
    fn of(records: &[Record]) -> Curves {
        let count = records.len();
        let stride = count.div_ceil(MOST_POINTS).max(1);
        let kept = (0..count).filter(|&index| index.is_multiple_of(stride) || index == count - 1);
        let step = |index: usize| records[index].step as f64;
        let evaluated = |loss: fn(&Record) -> Option<f64>| {
            let found = records
                .iter()
                .filter_map(|r| Some((r.step as f64, loss(r)?)));
            found.collect()
        };
        // A mean over the neighbours on both sides does not lag behind as a running one would.
        let reach = count / 100;
        let mean = |index: usize| {
            // At the steep start it narrows, at the level end it only loses one side.
            let before = reach.min(index);
            let after = before.min(count - 1 - index);
            let window = &records[index - before..=index + after];
            let sum: f64 = window
                .iter()
                .map(|record| f64::from(record.train_loss))
                .sum();
            sum / window.len() as f64
        };
        Curves {
            batches: kept
                .clone()
                .map(|index| (step(index), records[index].train_loss.into()))
                .collect(),
            mean: kept.map(|index| (step(index), mean(index))).collect(),
            train: evaluated(|record| record.train_split_loss),
            test: evaluated(|record| record.test_loss),
        }
    }

    fn steps(&self) -> (f64, f64) {
        let first = self.mean.first().map_or(0.0, |point| point.0);
        let last = self.mean.last().map_or(1.0, |point| point.0);
        // A run that was resumed without its earlier metrics need not begin at 0.
        let first = if first < last / 4.0 { 0.0 } else { first };
        (first, last.max(first + 1.0))
    }

    /// From a little below the lowest to a little above the highest, but for the outliers among single batches.
    fn losses(&self) -> (f64, f64) {
        let mut batches: Vec<f64> = self.batches.iter().map(|point| point.1).collect();
        batches.sort_by(f64::total_cmp);
        let trusted = batches.len() / 200..batches.len() - batches.len() / 200;
        let others = [&self.mean, &self.train, &self.test];
        let others = others.into_iter().flatten().map(|point| point.1);
        let all = batches[trusted].iter().copied().chain(others);
        let all = all.filter(|loss| loss.is_finite());
        let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), loss| {
            (low.min(loss), high.max(loss))
        });
        if low > high {
            return (0.0, 1.0);
        }
        let margin = (0.05 * (high - low)).max(0.01);
        (low - margin, high + margin)
    }
}

fn draw<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    title: &str,
    records: &[Record],
    scale: f64,
    text_rise: f64,
) -> Result<()>
where
    B::ErrorType: 'static,
{
    let px = |units: f64| (units * scale).round() as u32;
    let font = |size: f64| ("sans-serif", size * scale).into_font().color(&INK);
    let rise = (text_rise * LABEL * scale).round() as i32;
    let curves = Curves::of(records);
    let (first, last) = curves.steps();
    let (low, high) = curves.losses();

    root.fill(&PAGE)?;
    let below = root.margin(px(14.0), 0, 0, 0).titled(title, font(19.0))?;
    let mut chart = ChartBuilder::on(&below)
        .margin(px(14.0))
        .margin_top(px(8.0))
        .margin_right(px(22.0))
        .x_label_area_size(px(44.0))
        .y_label_area_size(px(58.0))
        .build_cartesian_2d(first..last, low..high)?;
    chart
        .configure_mesh()
        .set_all_tick_mark_size(px(5.0))
        .x_desc("step")
        .y_desc("loss (nats per token)")
        .x_labels(9)
        .y_labels(9)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|loss| format!("{loss:.2}"))
        .label_style(font(LABEL))
        .y_label_offset(rise)
        .axis_desc_style(font(15.0))
        .axis_style(INK.stroke_width(px(1.0)))
        .bold_line_style(FAINT.stroke_width(px(1.0)))
        .light_line_style(TRANSPARENT)
        .draw()?;

    let inside = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        let clamped = points.iter();
        let finite = clamped.filter(|(_, y)| y.is_finite());
        finite.map(|&(x, y)| (x, y.clamp(low, high))).collect()
    };
    let key = |style: ShapeStyle, mark: Option<RGBColor>| {
        move |(x, y): (i32, i32)| {
            let y = y - rise;
            let (width, radius) = ((20.0 * scale) as i32, (3.5 * scale) as i32);
            let line = PathElement::new(vec![(x, y), (x + width, y)], style);
            let radius = if mark.is_some() { radius } else { 0 };
            let mark = mark.map_or(TRANSPARENT, |color| color.to_rgba()).filled();
            EmptyElement::at((0, 0)) + line + Circle::new((x + width / 2, y), radius, mark)
        }
    };
    let fine = BLUE.mix(0.25).stroke_width(px(1.0));
    chart
        .draw_series(LineSeries::new(inside(&curves.batches), fine))?
        .label("train, single batches")
        .legend(key(fine, None));
    let bold = BLUE.stroke_width(px(2.0));
    chart
        .draw_series(LineSeries::new(inside(&curves.mean), bold))?
        .label("train, mean of neighbours")
        .legend(key(bold, None));
    for (points, color, line, label) in [
        (&curves.train, NAVY, TRANSPARENT, "train split, evaluated"),
        (
            &curves.test,
            ORANGE,
            ORANGE.to_rgba(),
            "test split, evaluated",
        ),
    ] {
        if points.is_empty() {
            continue;
        }
        let style = line.stroke_width(px(1.5));
        let points = inside(points);
        chart
            .draw_series(LineSeries::new(points.clone(), style))?
            .label(label)
            .legend(key(style, Some(color)));
        let radius = px(3.5) as i32;
        let marks = points.into_iter();
        chart.draw_series(marks.map(|point| Circle::new(point, radius, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(px(12.0))
        .legend_area_size(px(30.0))
        .label_font(font(LABEL))
        .background_style(PAGE.mix(0.9))
        .border_style(INK.mix(0.3).stroke_width(px(1.0)))
        .draw()?;
    root.present()?;
    Ok(())
}
