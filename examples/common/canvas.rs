//! The ground that pictures are drawn on: sizes, colours, text.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Result;

/// A part of a picture.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
pub const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
pub const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
pub const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x0e);
pub const GREEN: RGBColor = RGBColor(0x2a, 0x9d, 0x5c);
pub const PURPLE: RGBColor = RGBColor(0x7b, 0x4f, 0xa3);

/// Sizes of text: titles of pictures, titles of their parts, labels.
pub const TITLE: i32 = 23;
pub const SUBTITLE: i32 = 17;
pub const LABEL: i32 = 14;

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
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    write(
        &root,
        &title,
        (size.0 as i32 / 2, 12),
        TITLE,
        (HPos::Center, VPos::Top),
    )?;
    body(&root.margin(48, 8, 10, 10))?;
    root.present()?;
    drop(root);
    Ok(Picture {
        name,
        title,
        caption,
        svg,
    })
}

/// An area in `rows` × `columns` parts, with room between them.
pub fn grid<'a>(area: &Area<'a>, rows: usize, columns: usize) -> Vec<Area<'a>> {
    let parts = area.split_evenly((rows, columns)).into_iter();
    parts.map(|part| part.margin(2, 14, 2, 10)).collect()
}

/// Brings the font along: not every machine has one, nor a library to find it with.
fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let registered = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
        assert!(registered.is_ok(), "the embedded font is valid");
    });
}

/// Text at a point of an area.
///
/// # Errors
///
/// What the backend reports.
pub fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    (h, v): (HPos, VPos),
) -> Result<()> {
    let style = TextStyle::from(("sans-serif", size).into_font())
        .color(&INK)
        .pos(Pos::new(h, v));
    area.draw_text(text, &style, at)?;
    Ok(())
}

/// Text that reads upwards, its middle at a point.
///
/// # Errors
///
/// What the backend reports.
pub fn write_upwards(area: &Area<'_>, text: &str, at: (i32, i32), size: i32) -> Result<()> {
    upwards(area, text, at, size, (HPos::Center, VPos::Top))
}

/// Text that reads upwards and ends below a point.
///
/// # Errors
///
/// What the backend reports.
pub fn write_up_to(area: &Area<'_>, text: &str, at: (i32, i32), size: i32) -> Result<()> {
    upwards(area, text, at, size, (HPos::Right, VPos::Center))
}

fn upwards(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    (h, v): (HPos, VPos),
) -> Result<()> {
    let font = ("sans-serif", size)
        .into_font()
        .transform(FontTransform::Rotate270);
    let style = TextStyle::from(font).color(&INK).pos(Pos::new(h, v));
    area.draw_text(text, &style, at)?;
    Ok(())
}

/// How wide a text is.
pub fn text_width(text: &str, size: i32) -> i32 {
    let font = ("sans-serif", size).into_font();
    let wide = font.layout_box(text);
    wide.map_or(
        size * text.chars().count() as i32,
        |((left, _), (right, _))| right - left,
    )
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
