//! Lines, bars and points over axes.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::common::Result;
use crate::common::canvas::{Area, FAINT, INK, LABEL, SUBTITLE, number, range, text_width, write};

/// How a series is drawn.
#[derive(Clone, Copy)]
pub enum Mark {
    Line,
    /// Bars of this width, beside their place by this much.
    Bars {
        width: f64,
        shift: f64,
    },
    Points,
    /// A vertical line at every point's `x`, over the whole height.
    Rules,
}

/// Points with a name.
pub struct Series {
    pub label: String,
    pub color: RGBColor,
    pub mark: Mark,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(
        label: impl Into<String>,
        color: RGBColor,
        mark: Mark,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Series {
        Series {
            label: label.into(),
            color,
            mark,
            points: points.into_iter().collect(),
        }
    }

    /// A line over the places 0, 1, 2, …
    pub fn line(label: impl Into<String>, color: RGBColor, values: &[f64]) -> Series {
        Series::new(label, color, Mark::Line, places(values))
    }

    /// Bars over the places 0, 1, 2, …
    pub fn bars(label: impl Into<String>, color: RGBColor, values: &[f64]) -> Series {
        let mark = Mark::Bars {
            width: 0.8,
            shift: 0.0,
        };
        Series::new(label, color, mark, places(values))
    }
}

fn places(values: &[f64]) -> impl Iterator<Item = (f64, f64)> + '_ {
    values.iter().enumerate().map(|(i, &y)| (i as f64, y))
}

/// A chart. Series without a label are not in the key.
#[derive(Default)]
pub struct Chart<'a> {
    pub title: String,
    pub x: &'a str,
    pub y: &'a str,
    pub series: Vec<Series>,
    /// Names of the places 0, 1, 2, … on the x axis, instead of numbers.
    pub x_names: Option<&'a [String]>,
    /// Instead of what the series span.
    pub x_range: Option<(f64, f64)>,
    pub y_range: Option<(f64, f64)>,
    /// Texts beside points.
    pub notes: Vec<(String, (f64, f64))>,
}

const LEFT: u32 = 68;
const BOTTOM: u32 = 48;

impl Chart<'_> {
    /// Draws it into an area.
    ///
    /// # Errors
    ///
    /// What the backend reports.
    pub fn draw(&self, area: &Area<'_>) -> Result<()> {
        let width = area.dim_in_pixel().0 as i32;
        let mut top = 2;
        if !self.title.is_empty() {
            let middle = (LEFT as i32 + width) / 2;
            write(
                area,
                &self.title,
                (middle, top),
                SUBTITLE,
                (HPos::Center, VPos::Top),
            )?;
            top += SUBTITLE + 8;
        }
        top = self.draw_key(area, top)?;
        let body = area.margin(top, 0, 0, 0);
        let ((x0, x1), (y0, y1)) = (self.x_span(), self.y_span());
        let mut chart = ChartBuilder::on(&body)
            .margin_right(14)
            .margin_top(4)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(x0..x1, y0..y1)?;
        let (inner, _) = chart.plotting_area().dim_in_pixel();
        let named = self.x_names.is_some();
        let ticks = (inner as usize / 70).max(3);
        let x_label = |x: &f64| match named {
            true => String::new(),
            false => tick(*x, (x1 - x0) / ticks as f64),
        };
        let mut mesh = chart.configure_mesh();
        if named {
            mesh.disable_x_mesh();
            mesh.set_tick_mark_size(LabelAreaPosition::Bottom, 0);
        }
        mesh.x_desc(self.x)
            .y_desc(self.y)
            .x_labels(ticks)
            .y_labels(6)
            .x_label_formatter(&x_label)
            .y_label_formatter(&|y| tick(*y, (y1 - y0) / 6.0))
            .label_style(("sans-serif", LABEL).into_font().color(&INK))
            .axis_desc_style(("sans-serif", LABEL + 1).into_font().color(&INK))
            .axis_style(INK)
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for series in &self.series {
            let color = series.color;
            let points = series.points.iter().copied();
            match series.mark {
                Mark::Line => {
                    chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
                }
                Mark::Bars { width, shift } => {
                    let bar = |(x, y): (f64, f64)| {
                        let x = x + shift;
                        let corners = [(x - width / 2.0, y0.max(0.0)), (x + width / 2.0, y)];
                        Rectangle::new(corners, color.mix(0.85).filled())
                    };
                    chart.draw_series(points.map(bar))?;
                }
                Mark::Points => {
                    let point = |at| Circle::new(at, 3, color.mix(0.75).filled());
                    chart.draw_series(points.map(point))?;
                }
                Mark::Rules => {
                    let rule = |(x, _)| PathElement::new([(x, y0), (x, y1)], color.stroke_width(2));
                    chart.draw_series(points.map(rule))?;
                }
            }
        }
        let plane = chart.plotting_area();
        let base = area.get_base_pixel();
        let pixel = |at: (f64, f64)| {
            let (x, y) = plane.map_coordinate(&at);
            (x - base.0, y - base.1)
        };
        if let Some(names) = self.x_names {
            let widest = names.iter().map(|name| text_width(name, LABEL)).max();
            let needed = widest.unwrap_or(0) + 4;
            let room = (f64::from(inner) / (x1 - x0)).max(0.1);
            let step = (f64::from(needed) / room).ceil().max(1.0) as usize;
            for (place, name) in names.iter().enumerate().step_by(step) {
                let (x, y) = pixel((place as f64, y0));
                write(area, name, (x, y + 8), LABEL, (HPos::Center, VPos::Top))?;
            }
        }
        self.draw_notes(area, pixel)
    }

    fn x_span(&self) -> (f64, f64) {
        if let Some(range) = self.x_range {
            return range;
        }
        if let Some(names) = self.x_names {
            return (-0.6, names.len() as f64 - 0.4);
        }
        let all = self.series.iter().flat_map(|s| &s.points);
        let xs: Vec<f64> = all.map(|point| point.0).collect();
        let (low, high) = range(&xs);
        let has_points = self.series.iter().any(|s| matches!(s.mark, Mark::Points));
        let margin = if has_points { 0.08 * (high - low) } else { 0.0 };
        (low - margin, (high + margin).max(low + 1e-6))
    }

    fn y_span(&self) -> (f64, f64) {
        if let Some(range) = self.y_range {
            return range;
        }
        let drawn = self
            .series
            .iter()
            .filter(|s| !matches!(s.mark, Mark::Rules));
        let ys: Vec<f64> = drawn.flat_map(|s| &s.points).map(|point| point.1).collect();
        let (low, high) = range(&ys);
        let has_points = self.series.iter().any(|s| matches!(s.mark, Mark::Points));
        let margin = (0.06 * (high - low)).max(1e-6);
        // Amounts are seen from zero.
        let low = if low >= 0.0 && !has_points {
            0.0
        } else {
            low - margin
        };
        (low, high + margin)
    }

    /// The key, in lines above the chart; gives where it ends.
    fn draw_key(&self, area: &Area<'_>, mut top: i32) -> Result<i32> {
        let right = area.dim_in_pixel().0 as i32 - 8;
        let labelled = self.series.iter().filter(|s| !s.label.is_empty());
        let mut x = LEFT as i32;
        let mut any = false;
        for series in labelled {
            let needed = 34 + text_width(&series.label, LABEL);
            if any && x + needed > right {
                x = LEFT as i32;
                top += LABEL + 6;
            }
            any = true;
            let y = top + LABEL / 2 + 2;
            let color = series.color;
            match series.mark {
                Mark::Line | Mark::Rules => {
                    let line = [(x, y), (x + 18, y)];
                    area.draw(&PathElement::new(line, color.stroke_width(2)))?;
                }
                Mark::Bars { .. } => {
                    let corners = [(x + 3, y - 5), (x + 15, y + 5)];
                    area.draw(&Rectangle::new(corners, color.mix(0.85).filled()))?;
                }
                Mark::Points => area.draw(&Circle::new((x + 9, y), 4, color.filled()))?,
            }
            write(
                area,
                &series.label,
                (x + 23, y),
                LABEL,
                (HPos::Left, VPos::Center),
            )?;
            x += needed + 6;
        }
        Ok(if any { top + LABEL + 8 } else { top })
    }

    /// Writes the notes beside their points, where they cover neither each other nor a point, if there is such a place.
    fn draw_notes(&self, area: &Area<'_>, pixel: impl Fn((f64, f64)) -> (i32, i32)) -> Result<()> {
        const SIZE: i32 = 15;
        let points = self.series.iter().flat_map(|s| &s.points);
        let mut taken: Vec<[i32; 4]> = points
            .map(|&at| pixel(at))
            .map(|(x, y)| [x - 4, y - 4, x + 4, y + 4])
            .collect();
        for (text, at) in &self.notes {
            let (x, y) = pixel(*at);
            let (w, h) = (text_width(text, SIZE) / 2 + 1, SIZE / 2);
            let around = [
                (0, -h - 6),
                (w + 6, 0),
                (-w - 6, 0),
                (0, h + 6),
                (w + 4, -h - 3),
                (-w - 4, -h - 3),
                (w + 4, h + 3),
                (-w - 4, h + 3),
                (0, -h - 14),
                (w + 14, 0),
                (-w - 14, 0),
                (0, h + 14),
            ];
            let boxed = |&(dx, dy): &(i32, i32)| [x + dx - w, y + dy - h, x + dx + w, y + dy + h];
            let covered = |place: &(i32, i32)| {
                let a = boxed(place);
                let meets =
                    |b: &&[i32; 4]| a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
                taken.iter().filter(meets).count()
            };
            let place = around.iter().min_by_key(|place| covered(place));
            let place = *place.expect("there are places");
            taken.push(boxed(&place));
            let at = (x + place.0, y + place.1);
            write(area, text, at, SIZE, (HPos::Center, VPos::Center))?;
        }
        Ok(())
    }
}

/// The number at a tick of an axis with steps of about this size.
fn tick(value: f64, step: f64) -> String {
    let digits = -step.log10().floor();
    number(value, 10f64.powf(2.0 - digits.max(0.0)))
}
