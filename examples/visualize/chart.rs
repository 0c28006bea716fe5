//! Lines, bars and points over axes.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::common::Result;
use crate::common::canvas::{
    Area, LABEL, Labels, Point, SUBTITLE, extent, fill, font, line, number, px, range, text_width,
    widest, write,
};
use crate::common::svg::{FAINT, INK, UNITS};

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

const LEFT: f64 = 68.0;
const BOTTOM: f64 = 48.0;

impl Chart<'_> {
    /// Draws it into an area.
    ///
    /// # Errors
    ///
    /// What the backend reports.
    pub fn draw(&self, area: &Area<'_>) -> Result<()> {
        let (width, height) = extent(area);
        let mut top = 2.0;
        if !self.title.is_empty() {
            let middle = ((LEFT + width) / 2.0, top);
            write(
                area,
                &self.title,
                middle,
                SUBTITLE,
                (HPos::Center, VPos::Top),
            )?;
            top += SUBTITLE + 8.0;
        }
        top = self.draw_key(area, top)?;
        let body = area.margin(px(top), 0, 0, 0);
        let ((x0, x1), (y0, y1)) = (self.x_span(), self.y_span());
        let mut chart = ChartBuilder::on(&body)
            .margin_right(px(14.0))
            .margin_top(px(4.0))
            .x_label_area_size(px(BOTTOM))
            .y_label_area_size(px(LEFT))
            .build_cartesian_2d(x0..x1, y0..y1)?;
        let inner = width - LEFT - 14.0;
        let named = self.x_names.is_some();
        let ticks = (inner as usize / 70).max(3);
        let x_label = |x: &f64| match named {
            true => String::new(),
            false => tick(*x, (x1 - x0) / ticks as f64),
        };
        let mut mesh = chart.configure_mesh();
        mesh.set_all_tick_mark_size(px(5.0));
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
            .label_style(font(LABEL).color(&INK))
            .axis_desc_style(font(LABEL + 1.0).color(&INK))
            .axis_style(INK.stroke_width(px(1.0) as u32))
            .bold_line_style(FAINT.stroke_width(px(1.0) as u32))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let stroke = px(2.0) as u32;
        for series in &self.series {
            let color = series.color;
            let points = series.points.iter().copied();
            match series.mark {
                Mark::Line => {
                    chart.draw_series(LineSeries::new(points, color.stroke_width(stroke)))?;
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
                    let point = |at| Circle::new(at, px(3.0), color.mix(0.75).filled());
                    chart.draw_series(points.map(point))?;
                }
                Mark::Rules => {
                    let rule =
                        |(x, _)| PathElement::new([(x, y0), (x, y1)], color.stroke_width(stroke));
                    chart.draw_series(points.map(rule))?;
                }
            }
        }
        let plane = chart.plotting_area();
        let base = area.get_base_pixel();
        let pixel = |at: Point| {
            let (x, y) = plane.map_coordinate(&at);
            let units = f64::from(UNITS);
            (f64::from(x - base.0) / units, f64::from(y - base.1) / units)
        };
        if let Some(names) = self.x_names {
            let labels = Labels::fit(inner / (x1 - x0), |size| widest(names, size) + 2.0);
            for (place, name) in labels.of(names) {
                let (x, y) = pixel((place as f64, y0));
                write(
                    area,
                    name,
                    (x, y + 8.0),
                    labels.size,
                    (HPos::Center, VPos::Top),
                )?;
            }
        }
        let [(left, top), (right, bottom)] = [pixel((x0, y1)), pixel((x1, y0))];
        let left_out = self.draw_notes(area, [left, top, right, bottom], pixel)?;
        if left_out > 0 {
            let corner = (width - 14.0, height - 2.0);
            let text = format!("without a label: {left_out}");
            write(
                area,
                &text,
                corner,
                LABEL - 2.0,
                (HPos::Right, VPos::Bottom),
            )?;
        }
        Ok(())
    }

    fn x_span(&self) -> (f64, f64) {
        if let Some(range) = self.x_range {
            return widened(range);
        }
        if let Some(names) = self.x_names {
            return (-0.6, names.len() as f64 - 0.4);
        }
        let all = self.series.iter().flat_map(|s| &s.points);
        let xs: Vec<f64> = all.map(|point| point.0).collect();
        let (low, high) = range(&xs);
        let has_points = self.series.iter().any(|s| matches!(s.mark, Mark::Points));
        let margin = if has_points { 0.08 * (high - low) } else { 0.0 };
        widened((low - margin, high + margin))
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
        widened((low, high + margin))
    }

    /// The key, in lines above the chart; gives where it ends.
    fn draw_key(&self, area: &Area<'_>, mut top: f64) -> Result<f64> {
        let right = extent(area).0 - 8.0;
        let labelled = self.series.iter().filter(|s| !s.label.is_empty());
        let mut x = LEFT;
        let mut any = false;
        for series in labelled {
            let needed = 34.0 + text_width(&series.label, LABEL);
            if any && x + needed > right {
                x = LEFT;
                top += LABEL + 6.0;
            }
            any = true;
            let y = top + LABEL / 2.0 + 2.0;
            let color = series.color;
            match series.mark {
                Mark::Line | Mark::Rules => line(area, [(x, y), (x + 18.0, y)], &color, 2.0)?,
                Mark::Bars { .. } => {
                    let corners = [(x + 3.0, y - 5.0), (x + 15.0, y + 5.0)];
                    fill(area, corners, &color.mix(0.85))?;
                }
                Mark::Points => {
                    let middle = (px(x + 9.0), px(y));
                    area.draw(&Circle::new(middle, px(4.0), color.filled()))?;
                }
            }
            let beside = (x + 23.0, y);
            write(
                area,
                &series.label,
                beside,
                LABEL,
                (HPos::Left, VPos::Center),
            )?;
            x += needed + 6.0;
        }
        Ok(if any { top + LABEL + 8.0 } else { top })
    }

    /// Writes the notes near their points, with a line to those that stand away from theirs, where they cover neither
    /// each other nor a point. Gives how many have no such place and are left out.
    fn draw_notes(
        &self,
        area: &Area<'_>,
        inside: [f64; 4],
        pixel: impl Fn(Point) -> Point,
    ) -> Result<usize> {
        const SIZE: f64 = 14.0;
        /// How far labels are moved away, in pixels.
        const AWAY: [f64; 8] = [0.0, 6.0, 13.0, 22.0, 32.0, 44.0, 58.0, 74.0];
        const DIRECTIONS: usize = 24;
        let points = self.series.iter().flat_map(|s| &s.points);
        let mut taken: Vec<[f64; 4]> = points
            .map(|&at| pixel(at))
            .map(|(x, y)| [x - 3.5, y - 3.5, x + 3.5, y + 3.5])
            .collect();
        let points = taken.len();
        let mut left_out = 0;
        for (text, at) in &self.notes {
            let (x, y) = pixel(*at);
            let (w, h) = (text_width(text, SIZE) / 2.0 + 1.5, SIZE / 2.0);
            let boxed = |(x, y): Point| [x - w, y - h, x + w, y + h];
            let is_free = |&place: &Point| {
                let b = boxed(place);
                let within =
                    b[0] > inside[0] && b[1] > inside[1] && b[2] < inside[2] && b[3] < inside[3];
                // The line to it crosses no label either.
                let along = |share: f64| [x + share * (place.0 - x), y + share * (place.1 - y)];
                let crossed = |t: &[f64; 4]| {
                    (0..16)
                        .map(|n| along(f64::from(n) / 16.0))
                        .any(|[x, y]| x > t[0] && x < t[2] && y > t[1] && y < t[3])
                };
                within
                    && !taken.iter().any(|t| meets(&b, t))
                    && !taken[points..].iter().any(crossed)
            };
            let around = AWAY.iter().flat_map(|away| {
                (0..DIRECTIONS).map(move |n| {
                    // Above first, then alternately to both sides.
                    let turn = n.div_ceil(2) as f64 / DIRECTIONS as f64 * std::f64::consts::TAU;
                    let turn = if n % 2 == 0 { turn } else { -turn };
                    let place = (
                        x + turn.sin() * (w + 5.0 + away),
                        y - turn.cos() * (h + 5.0 + away),
                    );
                    (*away, place)
                })
            });
            let mut around = around;
            let Some((away, place)) = around.find(|(_, place)| is_free(place)) else {
                left_out += 1;
                continue;
            };
            if away > 6.0 {
                let (dx, dy) = (place.0 - x, place.1 - y);
                // To the edge of the label.
                let share = (w / dx.abs()).min(h / dy.abs()).min(1.0);
                let end = (place.0 - share * dx, place.1 - share * dy);
                line(area, [(x, y), end], &INK.mix(0.5), 0.75)?;
            }
            taken.push(boxed(place));
            write(area, text, place, SIZE, (HPos::Center, VPos::Center))?;
        }
        Ok(left_out)
    }
}

/// Whether two boxes (left, top, right, bottom) have a part in common.
fn meets(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// A range that an axis can show: values that are all the same have some room around them.
pub fn widened((low, high): (f64, f64)) -> (f64, f64) {
    let size = low.abs().max(high.abs()).max(1e-3);
    match high - low > 1e-6 * size {
        true => (low, high),
        false => (low - 0.5 * size, high + 0.5 * size),
    }
}

/// The number at a tick of an axis with steps of about this size.
fn tick(value: f64, step: f64) -> String {
    let digits = -step.log10().floor();
    number(value, 10f64.powf(2.0 - digits.max(0.0)))
}
