//! Matrices as coloured cells.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Result;
use super::canvas::{
    Area, LABEL, Labels, Point, SMALLEST, SUBTITLE, extent, fill, font, frame, hatch, line, number,
    range, text_width, widest, write, write_in, write_up_to, write_upwards,
};
use super::svg::{HIDDEN, INK};

/// Which colours stand for numbers.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Palette {
    /// From dark to bright: amounts.
    #[default]
    Amount,
    /// Blue below zero, white at zero, red above.
    Sign,
}

/// A matrix. Cells of values that are not finite are hatched.
#[derive(Clone, Default)]
pub struct HeatMap<'a> {
    pub title: String,
    pub x: &'a str,
    pub y: &'a str,
    pub rows: Vec<&'a [f64]>,
    /// Names of columns and rows, instead of numbers.
    pub x_names: Option<&'a [String]>,
    pub y_names: Option<&'a [String]>,
    /// Whether the names of columns read upwards, which leaves room for all of them.
    pub x_upwards: bool,
    pub palette: Palette,
    /// Instead of what the values span.
    pub range: Option<(f64, f64)>,
    /// Whether cells are as high as wide.
    pub square: bool,
    /// Whether cells that are large enough show their numbers, zeros excepted.
    pub numbers: bool,
    /// Whether the scale is left out, because one stands for several maps.
    pub bare: bool,
    /// What is said of cells whose values are not finite.
    pub hidden: &'a str,
    /// Cells to draw a frame around, as rows and columns.
    pub marks: Vec<(usize, usize)>,
    /// Names of groups of columns, all of one size, instead of names of columns.
    pub x_groups: Option<&'a [String]>,
}

/// For frames around cells.
const MARK: RGBColor = RGBColor(0xff, 0x5a, 0x36);
/// For numbers in bright and in dark cells, whose colours are the same on every page.
const DARK_INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const LIGHT_INK: RGBColor = RGBColor(0xfa, 0xfa, 0xfa);
const SCALE_WIDTH: f64 = 12.0;
const SCALE_STEPS: usize = 128;

impl HeatMap<'_> {
    /// Draws it into an area, with its scale to the right.
    ///
    /// # Errors
    ///
    /// What the backend reports.
    pub fn draw(&self, area: &Area<'_>) -> Result<()> {
        let (columns, rows) = (self.rows[0].len(), self.rows.len());
        let (low, high) = self.span();
        let y_room = match self.y_names {
            Some(names) => widest(names, LABEL),
            None => text_width(&rows.to_string(), LABEL),
        };
        let described = |text: &str| if text.is_empty() { 0.0 } else { LABEL + 8.0 };
        let (width, height) = extent(area);
        let left = described(self.y) + y_room + 8.0;
        let scale_room = if self.bare {
            8.0
        } else {
            self.scale_width() + 10.0
        };
        let right = width - scale_room;
        let top = if self.title.is_empty() {
            4.0
        } else {
            SUBTITLE + 12.0
        };
        let bottom = height - (LABEL + 8.0) - described(self.x);
        let room = (right - left) / columns as f64;
        let room = if self.square {
            room.min((bottom - top) / rows as f64)
        } else {
            room
        };
        let names = self.x_names.map(|names| widest(names, SMALLEST) + 2.0);
        // Names that don't fit side by side are turned, unless not even that helps.
        let upwards = self.x_upwards || names.is_some_and(|n| n > room && room > SMALLEST + 2.0);
        let x_room = match self.x_names {
            Some(names) if upwards => widest(names, LABEL),
            _ => LABEL,
        };
        let bottom = bottom + LABEL - x_room;
        let (mut cell_w, mut cell_h) = (
            (right - left) / columns as f64,
            (bottom - top) / rows as f64,
        );
        if self.square {
            cell_w = cell_w.min(cell_h);
            cell_h = cell_w;
        }
        // In the middle of what room there is.
        let left = left + (right - left - cell_w * columns as f64) / 2.0;
        let x_at = |column: usize| left + cell_w * column as f64;
        let y_at = |row: usize| top + cell_h * row as f64;
        let cell = |row, column| [(x_at(column), y_at(row)), (x_at(column + 1), y_at(row + 1))];
        let (right, bottom) = (x_at(columns), y_at(rows));

        if !self.title.is_empty() {
            let middle = ((left + right) / 2.0, 2.0);
            write(
                area,
                &self.title,
                middle,
                SUBTITLE,
                (HPos::Center, VPos::Top),
            )?;
        }
        let mut values = self.rows.iter().flat_map(|row| row.iter());
        if values.any(|value| !value.is_finite()) {
            fill(area, [(left, top), (right, bottom)], &HIDDEN)?;
        }
        for (row, values) in self.rows.iter().enumerate() {
            for (column, &value) in values.iter().enumerate() {
                let corners = cell(row, column);
                if !value.is_finite() {
                    hatch(area, corners)?;
                    continue;
                }
                let color = self.color(value, low, high);
                fill(area, corners, &color)?;
                if self.numbers && value != 0.0 && cell_w >= 34.0 && cell_h >= 16.0 {
                    write_number(area, value, color, corners)?;
                }
            }
        }
        for &(row, column) in &self.marks {
            frame(area, cell(row, column), &MARK, 2.0)?;
        }
        frame(area, [(left, top), (right, bottom)], &INK, 1.0)?;

        if let Some(groups) = self.x_groups {
            let size = columns / groups.len();
            let labels = Labels::fit(cell_w * size as f64, |at| widest(groups, at) + 3.0);
            for (group, name) in labels.of(groups) {
                let middle = (x_at(group * size) + x_at((group + 1) * size)) / 2.0;
                let below = (middle, bottom + 5.0);
                write(area, name, below, labels.size, (HPos::Center, VPos::Top))?;
            }
            for group in 1..groups.len() {
                let x = x_at(group * size);
                line(area, [(x, top), (x, bottom + 5.0)], &INK, 1.0)?;
            }
        } else if let Some(names) = self.x_names {
            let needed = |at: f64| {
                if upwards {
                    at + 2.0
                } else {
                    widest(names, at) + 2.0
                }
            };
            let labels = Labels::fit(cell_w, needed);
            for (column, name) in labels.of(names) {
                let below = ((x_at(column) + x_at(column + 1)) / 2.0, bottom + 5.0);
                match upwards {
                    true => write_up_to(area, name, below, labels.size)?,
                    false => write(area, name, below, labels.size, (HPos::Center, VPos::Top))?,
                }
            }
        } else {
            for (column, name) in numbers(columns, cell_w, 27.0) {
                let below = ((x_at(column) + x_at(column + 1)) / 2.0, bottom + 5.0);
                write(area, &name, below, LABEL, (HPos::Center, VPos::Top))?;
            }
        }
        let beside = |row: usize| (left - 5.0, (y_at(row) + y_at(row + 1)) / 2.0);
        if let Some(names) = self.y_names {
            let labels = Labels::fit(cell_h, |at| 1.1 * at);
            for (row, name) in labels.of(names) {
                write(
                    area,
                    name,
                    beside(row),
                    labels.size,
                    (HPos::Right, VPos::Center),
                )?;
            }
        } else {
            for (row, name) in numbers(rows, cell_h, LABEL + 3.0) {
                write(area, &name, beside(row), LABEL, (HPos::Right, VPos::Center))?;
            }
        }
        let x_title = ((left + right) / 2.0, bottom + x_room + 10.0);
        write(
            area,
            self.x,
            x_title,
            LABEL + 1.0,
            (HPos::Center, VPos::Top),
        )?;
        if !self.y.is_empty() {
            let middle = (left - y_room - LABEL - 14.0, (top + bottom) / 2.0);
            write_upwards(area, self.y, middle, LABEL + 1.0)?;
        }
        match self.bare {
            true => Ok(()),
            false => self.draw_scale(area, (right + 10.0, top), bottom),
        }
    }

    fn span(&self) -> (f64, f64) {
        let values = self.rows.iter().flat_map(|row| row.iter());
        let (low, high) = self.range.unwrap_or_else(|| range(values));
        let (low, high) = match self.palette {
            Palette::Amount => (low, high),
            Palette::Sign => {
                let most = low.abs().max(high.abs());
                (-most, most)
            }
        };
        (low, high.max(low + 1e-9))
    }

    fn color(&self, value: f64, low: f64, high: f64) -> RGBColor {
        match self.palette {
            Palette::Amount => ViridisRGB.get_color_normalized(value, low, high),
            Palette::Sign => DerivedColorMap::new(&[
                RGBColor(0x1d, 0x4f, 0x9e),
                RGBColor(0x8f, 0xb5, 0xe0),
                RGBColor(0xf7, 0xf7, 0xf7),
                RGBColor(0xf0, 0xa5, 0x88),
                RGBColor(0xb0, 0x22, 0x1f),
            ])
            .get_color_normalized(value, low, high),
        }
    }

    /// The numbers at the scale's low end, middle and high end.
    fn scale_labels(&self) -> [String; 3] {
        let (low, high) = self.span();
        [low, (low + high) / 2.0, high].map(|value| number(value, high - low))
    }

    /// How wide the scale is with what stands beside it.
    pub fn scale_width(&self) -> f64 {
        let labels = widest(&self.scale_labels(), LABEL);
        SCALE_WIDTH + 12.0 + labels.max(text_width(self.hidden, LABEL))
    }

    /// Draws the scale from a point downwards, at its end what hatched cells are.
    ///
    /// # Errors
    ///
    /// What the backend reports.
    pub fn draw_scale(&self, area: &Area<'_>, (x, top): Point, mut bottom: f64) -> Result<()> {
        let beside = |y: f64| (x + SCALE_WIDTH + 5.0, y);
        let half = LABEL / 2.0;
        if !self.hidden.is_empty() {
            let swatch = [(x, bottom - SCALE_WIDTH), (x + SCALE_WIDTH, bottom)];
            fill(area, swatch, &HIDDEN)?;
            hatch(area, swatch)?;
            frame(area, swatch, &INK, 1.0)?;
            let middle = beside(bottom - SCALE_WIDTH / 2.0);
            write(area, self.hidden, middle, LABEL, (HPos::Left, VPos::Center))?;
            bottom -= SCALE_WIDTH + LABEL;
        }
        let (low, high) = self.span();
        // Each step reaches to the end, under those after it: between two of them nothing can shine through.
        for step in 0..SCALE_STEPS {
            let from = top + (bottom - top) * step as f64 / SCALE_STEPS as f64;
            let share = 1.0 - (step as f64 + 0.5) / SCALE_STEPS as f64;
            let color = self.color(low + share * (high - low), low, high);
            fill(area, [(x, from), (x + SCALE_WIDTH, bottom)], &color)?;
        }
        frame(area, [(x, top), (x + SCALE_WIDTH, bottom)], &INK, 1.0)?;
        let places = [bottom - half, (top + bottom) / 2.0, top + half];
        for (label, y) in self.scale_labels().iter().zip(places) {
            write(area, label, beside(y), LABEL, (HPos::Left, VPos::Center))?;
        }
        Ok(())
    }
}

fn write_number(
    area: &Area<'_>,
    value: f64,
    RGBColor(r, g, b): RGBColor,
    [(x0, y0), (x1, y1)]: [Point; 2],
) -> Result<()> {
    let light = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
    let ink = if light > 140.0 { DARK_INK } else { LIGHT_INK };
    let middle = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
    let anchor = (HPos::Center, VPos::Center);
    write_in(
        area,
        &number(value, 1.0),
        middle,
        font(13.0).color(&ink),
        anchor,
    )
}

/// The numbers of places 0, 1, …, in steps that people count in, as many as there is room for.
fn numbers(count: usize, room: f64, needed: f64) -> impl Iterator<Item = (usize, String)> {
    let step = (needed / room).ceil().max(1.0) as usize;
    let step = [1, 2, 5, 10, 20, 50, 100, 200, 500]
        .into_iter()
        .find(|&nice| nice >= step)
        .unwrap_or(step);
    let places = (0..count).step_by(step);
    places.map(|place| (place, place.to_string()))
}
