//! SVG files as plotters draws them, but finer than whole pixels, for light and dark pages, and with words for those who
//! can't see the picture.

use std::convert::Infallible;
use std::fmt::Write as _;

use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    FontTransform,
};

/// How many of the whole numbers that plotters draws in make one pixel.
pub const UNITS: u32 = 100;

pub const PAGE: RGBColor = RGBColor(0xff, 0xff, 0xff);
pub const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
pub const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
pub const HIDDEN: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
pub const HATCH: RGBColor = RGBColor(0x99, 0x99, 0x99);
pub const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
pub const NAVY: RGBColor = RGBColor(0x0b, 0x3c, 0x6f);
pub const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x0e);
pub const GREEN: RGBColor = RGBColor(0x2a, 0x9d, 0x5c);
pub const PURPLE: RGBColor = RGBColor(0x7b, 0x4f, 0xa3);

/// What these colours are on dark pages. All others, those of cells and of the numbers in them, stay.
const DARK: [(RGBColor, RGBColor); 10] = [
    (PAGE, RGBColor(0x16, 0x19, 0x1d)),
    (INK, RGBColor(0xd5, 0xd9, 0xde)),
    (FAINT, RGBColor(0x3a, 0x3f, 0x45)),
    (HIDDEN, RGBColor(0x2c, 0x31, 0x37)),
    (HATCH, RGBColor(0x6e, 0x75, 0x7d)),
    (BLUE, RGBColor(0x5a, 0xa9, 0xea)),
    (NAVY, RGBColor(0xb5, 0xd6, 0xf6)),
    (ORANGE, RGBColor(0xf2, 0x8e, 0x4b)),
    (GREEN, RGBColor(0x4c, 0xc3, 0x8a)),
    (PURPLE, RGBColor(0xb8, 0x91, 0xe0)),
];

/// A file in the making. To be drawn on in [`UNITS`] of a pixel; its numbers are pixels.
pub struct Svg<'a> {
    out: &'a mut String,
    size: (u32, u32),
    closed: bool,
}

impl<'a> Svg<'a> {
    /// Begins a file of a width and a height in pixels. `name` tells apart the pictures of one page.
    pub fn new(
        out: &'a mut String,
        size: (u32, u32),
        name: &str,
        title: &str,
        description: &str,
    ) -> Svg<'a> {
        let (width, height) = size;
        let (title, description) = (escape(title), escape(description));
        let _ = write!(
            out,
            "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" \
             aria-labelledby=\"{name}-title {name}-description\">\n\
             <title id=\"{name}-title\">{title}</title>\n\
             <desc id=\"{name}-description\">{description}</desc>\n\
             <style>\n@media (prefers-color-scheme: dark) {{\n"
        );
        for (light, dark) in DARK {
            let [light, dark] = [light, dark].map(hexadecimal);
            for property in ["fill", "stroke"] {
                let _ = writeln!(
                    out,
                    "svg [{property}=\"{light}\"] {{ {property}: {dark}; }}"
                );
            }
        }
        out.push_str("}\n</style>\n");
        Svg {
            out,
            size,
            closed: false,
        }
    }

    /// Adds an element of a colour, unless nobody could see it.
    fn element(&mut self, color: BackendColor, tag: &str, attributes: &str) {
        if color.alpha > 0.0 {
            let _ = write!(self.out, "<{tag}{attributes}");
            if color.alpha < 1.0 {
                let _ = write!(self.out, " opacity=\"{}\"", color.alpha);
            }
            self.out.push_str("/>\n");
        }
    }
}

type Outcome = Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for Svg<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.size.0 * UNITS, self.size.1 * UNITS)
    }

    fn ensure_prepared(&mut self) -> Outcome {
        Ok(())
    }

    fn present(&mut self) -> Outcome {
        if !std::mem::replace(&mut self.closed, true) {
            self.out.push_str("</svg>\n");
        }
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Outcome {
        self.draw_rect((x, y), (x + 1, y + 1), &color, true)
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Outcome {
        let ends = format!(
            " x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"{}",
            pixels(from.0),
            pixels(from.1),
            pixels(to.0),
            pixels(to.1),
            painted(style, false)
        );
        self.element(style.color(), "line", &ends);
        Ok(())
    }

    /// Filled ones have sharp edges: the smooth edges of neighbours would let what is below shine through.
    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Outcome {
        let attributes = format!(
            " x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{}{}",
            pixels(from.0.min(to.0)),
            pixels(from.1.min(to.1)),
            pixels((to.0 - from.0).abs()),
            pixels((to.1 - from.1).abs()),
            painted(style, fill),
            if fill {
                " shape-rendering=\"crispEdges\""
            } else {
                ""
            }
        );
        self.element(style.color(), "rect", &attributes);
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Outcome {
        let attributes = format!(
            "{} stroke-linejoin=\"round\" points=\"{}\"",
            painted(style, false),
            points(path)
        );
        self.element(style.color(), "polyline", &attributes);
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Outcome {
        let attributes = format!("{} points=\"{}\"", painted(style, true), points(path));
        self.element(style.color(), "polygon", &attributes);
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        center: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Outcome {
        let attributes = format!(
            " cx=\"{}\" cy=\"{}\" r=\"{}\"{}",
            pixels(center.0),
            pixels(center.1),
            pixels(radius as i32),
            painted(style, fill)
        );
        self.element(style.color(), "circle", &attributes);
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        at: BackendCoord,
    ) -> Outcome {
        let (x, y) = (pixels(at.0), pixels(at.1));
        let anchor = match style.anchor().h_pos {
            HPos::Left => "start",
            HPos::Right => "end",
            HPos::Center => "middle",
        };
        let below = match style.anchor().v_pos {
            VPos::Top => "0.76em",
            VPos::Center => "0.5ex",
            VPos::Bottom => "-0.5ex",
        };
        let angle = match style.transform() {
            FontTransform::None => 0,
            FontTransform::Rotate90 => 90,
            FontTransform::Rotate180 => 180,
            FontTransform::Rotate270 => 270,
        };
        let turned = match angle {
            0 => String::new(),
            angle => format!(" transform=\"rotate({angle}, {x}, {y})\""),
        };
        // Plotters counts the space between lines as part of a font's size.
        let size = style.size() / f64::from(UNITS) / 1.24;
        let _ = write!(
            self.out,
            "<text x=\"{x}\" y=\"{y}\" dy=\"{below}\" text-anchor=\"{anchor}\" font-family=\"{}\" \
             font-size=\"{size:.2}\" fill=\"{}\"{turned}>\n{}\n</text>\n",
            style.family().as_str(),
            hexadecimal(rgb(style.color())),
            escape(text)
        );
        Ok(())
    }
}

/// Units as pixels.
fn pixels(units: i32) -> f64 {
    f64::from(units) / f64::from(UNITS)
}

fn points(path: impl IntoIterator<Item = BackendCoord>) -> String {
    let points = path.into_iter();
    let points = points.map(|(x, y)| format!("{},{}", pixels(x), pixels(y)));
    points.collect::<Vec<_>>().join(" ")
}

/// The attributes that say how a shape is filled and drawn.
fn painted<S: BackendStyle>(style: &S, fill: bool) -> String {
    let color = hexadecimal(rgb(style.color()));
    match fill {
        true => format!(" fill=\"{color}\""),
        false => {
            let width = pixels(style.stroke_width() as i32);
            format!(" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\"")
        }
    }
}

fn rgb(color: BackendColor) -> RGBColor {
    let (r, g, b) = color.rgb;
    RGBColor(r, g, b)
}

fn hexadecimal(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A text as it stands in SVG and HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
