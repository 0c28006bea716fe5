//! Matrices as coloured cells.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::Result;
use super::canvas::{
    Area, INK, LABEL, SUBTITLE, number, range, text_width, write, write_up_to, write_upwards,
};

/// Which colours stand for numbers.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Palette {
    /// From dark to bright: amounts.
    #[default]
    Amount,
    /// Blue below zero, white at zero, red above.
    Sign,
}

/// A matrix. Values that are not finite are left grey.
#[derive(Default)]
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
    /// Whether the scale is left out, because the caption says what it would.
    pub bare: bool,
    /// Cells to draw a frame around, as rows and columns.
    pub marks: Vec<(usize, usize)>,
    /// Names of groups of columns, all of one size, instead of names of columns.
    pub x_groups: Option<&'a [String]>,
}

const HIDDEN: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
/// For frames around cells.
const MARK: RGBColor = RGBColor(0xff, 0x5a, 0x36);
const SCALE_WIDTH: i32 = 12;

impl HeatMap<'_> {
    /// Draws it into an area, with its scale to the right.
    ///
    /// # Errors
    ///
    /// What the backend reports.
    pub fn draw(&self, area: &Area<'_>) -> Result<()> {
        let (columns, rows) = (self.rows[0].len() as i32, self.rows.len() as i32);
        let (low, high) = self.span();
        let scale = [low, (low + high) / 2.0, high].map(|value| number(value, high - low));
        let widest = |names: &[String]| names.iter().map(|name| text_width(name, LABEL)).max();
        let y_room = match self.y_names {
            Some(names) => widest(names).unwrap_or(0),
            None => text_width(&rows.to_string(), LABEL),
        };
        let x_room = match self.x_names {
            Some(names) if self.x_upwards => widest(names).unwrap_or(0),
            _ => LABEL,
        };
        let described = |text: &str| if text.is_empty() { 0 } else { LABEL + 8 };
        let scale_room = scale.iter().map(|text| text_width(text, LABEL)).max();

        let (width, height) = area.dim_in_pixel();
        let left = described(self.y) + y_room + 8;
        let scale_room = match self.bare {
            true => 8,
            false => scale_room.unwrap_or(0) + SCALE_WIDTH + 22,
        };
        let right = width as i32 - scale_room;
        let top = if self.title.is_empty() {
            4
        } else {
            SUBTITLE + 12
        };
        let bottom = height as i32 - (x_room + 8) - described(self.x);
        let (mut cell_w, mut cell_h) = (
            f64::from(right - left) / f64::from(columns),
            f64::from(bottom - top) / f64::from(rows),
        );
        if self.square {
            cell_w = cell_w.min(cell_h);
            cell_h = cell_w;
        }
        // In the middle of what room there is.
        let left = left + ((f64::from(right - left) - cell_w * f64::from(columns)) / 2.0) as i32;
        let x_at = |column: i32| left + (cell_w * f64::from(column)).round() as i32;
        let y_at = |row: i32| top + (cell_h * f64::from(row)).round() as i32;
        let (right, bottom) = (x_at(columns), y_at(rows));

        if !self.title.is_empty() {
            let middle = ((left + right) / 2, 2);
            write(
                area,
                &self.title,
                middle,
                SUBTITLE,
                (HPos::Center, VPos::Top),
            )?;
        }
        let background = Rectangle::new([(left, top), (right, bottom)], HIDDEN.filled());
        area.draw(&background)?;
        for (row, values) in (0..).zip(&self.rows) {
            for (column, &value) in (0..).zip(*values).filter(|(_, value)| value.is_finite()) {
                let color = self.color(value, low, high);
                let corners = [(x_at(column), y_at(row)), (x_at(column + 1), y_at(row + 1))];
                area.draw(&Rectangle::new(corners, color.filled()))?;
                if self.numbers && value != 0.0 && cell_w >= 34.0 && cell_h >= 16.0 {
                    self.write_number(area, value, color, corners)?;
                }
            }
        }
        for &(row, column) in &self.marks {
            let (row, column) = (row as i32, column as i32);
            let corners = [(x_at(column), y_at(row)), (x_at(column + 1), y_at(row + 1))];
            area.draw(&Rectangle::new(corners, MARK.stroke_width(2)))?;
        }
        let frame = Rectangle::new([(left, top), (right, bottom)], INK);
        area.draw(&frame)?;

        let middle = |at: &dyn Fn(i32) -> i32, n: i32| (at(n) + at(n + 1)) / 2;
        if let Some(groups) = self.x_groups {
            let size = columns / groups.len() as i32;
            for (group, name) in (0..).zip(groups) {
                let (from, to) = (x_at(group * size), x_at((group + 1) * size));
                let at = ((from + to) / 2, bottom + 5);
                write(area, name, at, LABEL, (HPos::Center, VPos::Top))?;
                area.draw(&PathElement::new([(to, top), (to, bottom + 5)], INK))?;
            }
        } else if self.x_upwards {
            for (column, name) in names(self.x_names, columns, cell_w, LABEL + 3) {
                let at = (middle(&x_at, column), bottom + 5);
                write_up_to(area, &name, at, LABEL)?;
            }
        } else {
            let x_needed = self.x_names.and_then(widest).unwrap_or(24) + 3;
            for (column, name) in names(self.x_names, columns, cell_w, x_needed) {
                let at = (middle(&x_at, column), bottom + 5);
                write(area, &name, at, LABEL, (HPos::Center, VPos::Top))?;
            }
        }
        for (row, name) in names(self.y_names, rows, cell_h, LABEL + 3) {
            let at = (left - 5, middle(&y_at, row));
            write(area, &name, at, LABEL, (HPos::Right, VPos::Center))?;
        }
        let x_title = ((left + right) / 2, bottom + x_room + 10);
        write(area, self.x, x_title, LABEL + 1, (HPos::Center, VPos::Top))?;
        if !self.y.is_empty() {
            let at = (left - y_room - LABEL - 14, (top + bottom) / 2);
            write_upwards(area, self.y, at, LABEL + 1)?;
        }
        match self.bare {
            true => Ok(()),
            false => self.draw_scale(area, (right + 10, top, bottom), (low, high), &scale),
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

    fn write_number(
        &self,
        area: &Area<'_>,
        value: f64,
        color: RGBColor,
        [(x0, y0), (x1, y1)]: [(i32, i32); 2],
    ) -> Result<()> {
        let RGBColor(r, g, b) = color;
        let light = 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
        let ink = if light > 140.0 { INK } else { WHITE };
        let style = TextStyle::from(("sans-serif", 13).into_font()).color(&ink);
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            HPos::Center,
            VPos::Center,
        ));
        let text = number(value, 1.0);
        area.draw_text(&text, &style, ((x0 + x1) / 2, (y0 + y1) / 2))?;
        Ok(())
    }

    fn draw_scale(
        &self,
        area: &Area<'_>,
        (x, top, bottom): (i32, i32, i32),
        (low, high): (f64, f64),
        labels: &[String; 3],
    ) -> Result<()> {
        for y in top..bottom {
            let share = f64::from(bottom - y) / f64::from(bottom - top);
            let color = self.color(low + share * (high - low), low, high);
            let corners = [(x, y), (x + SCALE_WIDTH, y + 1)];
            area.draw(&Rectangle::new(corners, color.filled()))?;
        }
        let frame = Rectangle::new([(x, top), (x + SCALE_WIDTH, bottom)], INK);
        area.draw(&frame)?;
        let half = LABEL / 2;
        let places = [bottom - half, (top + bottom) / 2, top + half];
        for (label, y) in labels.iter().zip(places) {
            let at = (x + SCALE_WIDTH + 5, y);
            write(area, label, at, LABEL, (HPos::Left, VPos::Center))?;
        }
        Ok(())
    }
}

/// The names of places 0, 1, …: all, or as many as there is room for.
fn names(
    given: Option<&[String]>,
    count: i32,
    room: f64,
    needed: i32,
) -> impl Iterator<Item = (i32, String)> {
    let step = (f64::from(needed) / room).ceil().max(1.0) as i32;
    // Numbers go in steps that people count in.
    let step = match given {
        Some(_) => step,
        None => [1, 2, 5, 10, 20, 50, 100, 200, 500]
            .into_iter()
            .find(|&nice| nice >= step)
            .unwrap_or(step),
    };
    let name = move |place: i32| match given {
        Some(names) => names[place as usize].clone(),
        None => place.to_string(),
    };
    (0..count)
        .step_by(step as usize)
        .map(move |place| (place, name(place)))
}
