//! The ground that pictures are drawn on: lengths in pixels, text, lines and boxes.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Result;
use super::svg::{HATCH, INK, PAGE, Svg, UNITS};

/// A part of a picture.
pub type Area<'a> = DrawingArea<Svg<'a>, Shift>;

/// A place in a part of a picture, in pixels.
pub type Point = (f64, f64);

/// Sizes of text: titles of pictures, titles of their parts, labels, and the smallest that labels shrink to.
pub const TITLE: f64 = 23.0;
pub const SUBTITLE: f64 = 17.0;
pub const LABEL: f64 = 14.0;
pub const SMALLEST: f64 = 9.0;

/// A finished picture.
pub struct Picture {
    /// The name of its file, without the extension.
    pub name: &'static str,
    pub title: String,
    /// One sentence: what to see, with the numbers.
    pub caption: String,
    pub svg: String,
}

/// A picture of the given width and height, its title on top; `body` draws what is below.
///
/// # Errors
///
/// Those of `body`.
pub fn picture(
    name: &'static str,
    title: impl Into<String>,
    size: (u32, u32),
    caption: String,
    body: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<Picture> {
    register_fonts();
    let title = title.into();
    let mut svg = String::new();
    let root = Svg::new(&mut svg, size, name, &title, &caption).into_drawing_area();
    root.fill(&PAGE)?;
    let middle = (f64::from(size.0) / 2.0, 12.0);
    write(&root, &title, middle, TITLE, (HPos::Center, VPos::Top))?;
    body(&root.margin(px(48.0), px(8.0), px(10.0), px(10.0)))?;
    root.present()?;
    drop(root);
    Ok(Picture {
        name,
        title,
        caption,
        svg,
    })
}

/// Pixels in the whole numbers that plotters draws in.
pub fn px(pixels: f64) -> i32 {
    (pixels * f64::from(UNITS)).round() as i32
}

fn at((x, y): Point) -> (i32, i32) {
    (px(x), px(y))
}

/// The width and the height of an area.
pub fn extent(area: &Area<'_>) -> Point {
    let (width, height) = area.dim_in_pixel();
    let units = f64::from(UNITS);
    (f64::from(width) / units, f64::from(height) / units)
}

/// An area in `rows` × `columns` parts, with room between them.
pub fn grid<'a>(area: &Area<'a>, rows: usize, columns: usize) -> Vec<Area<'a>> {
    let parts = area.split_evenly((rows, columns)).into_iter();
    parts
        .map(|part| part.margin(px(2.0), px(14.0), px(2.0), px(10.0)))
        .collect()
}

/// Brings the font along: not every machine has one, nor a library to find it with.
pub fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let registered = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
        assert!(registered.is_ok(), "the embedded font is valid");
    });
}

/// A font of a size in pixels.
pub fn font<'a>(size: f64) -> FontDesc<'a> {
    ("sans-serif", size * f64::from(UNITS)).into_font()
}

/// A box of one colour.
///
/// # Errors
///
/// What the backend reports.
pub fn fill(area: &Area<'_>, corners: [Point; 2], color: &impl Color) -> Result<()> {
    area.draw(&Rectangle::new(corners.map(at), color.filled()))?;
    Ok(())
}

/// A line around a box.
///
/// # Errors
///
/// What the backend reports.
pub fn frame(area: &Area<'_>, corners: [Point; 2], color: &impl Color, width: f64) -> Result<()> {
    let style = color.stroke_width(px(width) as u32);
    area.draw(&Rectangle::new(corners.map(at), style))?;
    Ok(())
}

/// A straight line.
///
/// # Errors
///
/// What the backend reports.
pub fn line(area: &Area<'_>, ends: [Point; 2], color: &impl Color, width: f64) -> Result<()> {
    let style = color.stroke_width(px(width) as u32);
    area.draw(&PathElement::new(ends.map(at), style))?;
    Ok(())
}

/// The line across a grey box that says that it stands for no number.
///
/// # Errors
///
/// What the backend reports.
pub fn hatch(area: &Area<'_>, [from, to]: [Point; 2]) -> Result<()> {
    line(area, [(from.0, to.1), (to.0, from.1)], &HATCH, 0.75)
}

/// Text at a point of an area.
///
/// # Errors
///
/// What the backend reports.
pub fn write(
    area: &Area<'_>,
    text: &str,
    point: Point,
    size: f64,
    anchor: (HPos, VPos),
) -> Result<()> {
    write_in(area, text, point, font(size).color(&INK), anchor)
}

/// Text at a point of an area, in any style.
///
/// # Errors
///
/// What the backend reports.
pub fn write_in(
    area: &Area<'_>,
    text: &str,
    point: Point,
    style: TextStyle<'_>,
    (h, v): (HPos, VPos),
) -> Result<()> {
    area.draw_text(text, &style.pos(Pos::new(h, v)), at(point))?;
    Ok(())
}

/// Text that reads upwards, its middle at a point.
///
/// # Errors
///
/// What the backend reports.
pub fn write_upwards(area: &Area<'_>, text: &str, point: Point, size: f64) -> Result<()> {
    let style = font(size).transform(FontTransform::Rotate270).color(&INK);
    write_in(area, text, point, style, (HPos::Center, VPos::Top))
}

/// Text that reads upwards and ends below a point.
///
/// # Errors
///
/// What the backend reports.
pub fn write_up_to(area: &Area<'_>, text: &str, point: Point, size: f64) -> Result<()> {
    let style = font(size).transform(FontTransform::Rotate270).color(&INK);
    write_in(area, text, point, style, (HPos::Right, VPos::Center))
}

/// How wide a text is.
pub fn text_width(text: &str, size: f64) -> f64 {
    register_fonts();
    let wide = font(size).layout_box(text);
    wide.map_or(
        size * text.chars().count() as f64,
        |((left, _), (right, _))| f64::from(right - left) / f64::from(UNITS),
    )
}

/// How wide the widest text is.
pub fn widest(texts: &[String], size: f64) -> f64 {
    let widths = texts.iter().map(|text| text_width(text, size));
    widths.fold(0.0, f64::max)
}

/// Labels for places in a row that have `room` pixels each: all of them, smaller if need be, or a part of them, with dots
/// between that stand for those that are left out.
pub struct Labels {
    pub size: f64,
    /// From label to label, from a label to the next dot, and from dot to dot, in places.
    steps: [usize; 3],
}

impl Labels {
    /// For labels that take so many pixels at a size.
    pub fn fit(room: f64, needed: impl Fn(f64) -> f64) -> Labels {
        let mut size = LABEL;
        while size > SMALLEST && needed(size) > room {
            size -= 0.5;
        }
        if needed(size) <= room {
            let steps = [1; 3];
            return Labels { size, steps };
        }
        const DOT: f64 = 5.0;
        let places = |pixels: f64| (pixels / room).ceil() as usize;
        let clear = places((needed(size) + DOT) / 2.0);
        let steps = [2 * clear, clear, places(DOT)];
        Labels { size, steps }
    }

    /// The places at which something is written, and what: the name, or a dot.
    pub fn of<'a>(&self, names: &'a [String]) -> impl Iterator<Item = (usize, &'a str)> {
        let [label, clear, dot] = self.steps;
        let written = move |place: usize, name: &'a str| match place % label {
            0 => Some(name),
            n if n < clear || label - n < clear => None,
            n => (n - clear).is_multiple_of(dot).then_some("·"),
        };
        let names = names.iter().enumerate();
        names.filter_map(move |(place, name)| Some((place, written(place, name)?)))
    }
}

/// A number with about three digits that count, for numbers around `scale`.
pub fn number(value: f64, scale: f64) -> String {
    let digits = 2 - scale.abs().max(1e-9).log10().floor() as i32;
    let text = format!("{value:.*}", digits.clamp(0, 6) as usize);
    match text.strip_prefix('-') {
        // No minus in front of nothing.
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// The smallest and the largest finite value.
pub fn range<'a>(values: impl IntoIterator<Item = &'a f64>) -> (f64, f64) {
    let finite = values.into_iter().filter(|x| x.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| {
        (low.min(x), high.max(x))
    });
    if low > high { (0.0, 1.0) } else { (low, high) }
}
