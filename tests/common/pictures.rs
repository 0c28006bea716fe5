//! What every SVG file of the example programs has to keep.

// No test uses all of it.
#![allow(dead_code)]

/// An element's attribute.
pub fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = element.split_once(&format!(" {name}=\""))?;
    Some(value.split_once('"')?.0)
}

/// An attribute that is a number.
pub fn number(element: &str, name: &str) -> f64 {
    let value = attribute(element, name).unwrap_or_else(|| panic!("{name} in {element}"));
    value
        .parse()
        .unwrap_or_else(|_| panic!("{name} in {element}"))
}

/// All elements of a name, each to the end of its line.
pub fn elements<'a>(svg: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("<{name} ");
    let lines = svg.lines();
    lines.filter(|line| line.starts_with(&start)).collect()
}

/// The texts, each with its element.
pub fn texts(svg: &str) -> Vec<(&str, &str)> {
    let lines: Vec<&str> = svg.lines().collect();
    let pairs = lines.windows(2);
    let texts = pairs.filter(|pair| pair[0].starts_with("<text "));
    texts.map(|pair| (pair[0], pair[1])).collect()
}

/// The points of the longest line.
pub fn longest_line(svg: &str) -> Vec<(f64, f64)> {
    let lines = elements(svg, "polyline").into_iter();
    let points = lines.map(|line| {
        let points = attribute(line, "points").unwrap().split_whitespace();
        let points = points.map(|point| {
            let (x, y) = point.split_once(',').unwrap();
            (x.parse().unwrap(), y.parse().unwrap())
        });
        points.collect::<Vec<(f64, f64)>>()
    });
    points.max_by_key(Vec::len).expect("there is a line")
}

/// How many boxes are hatched, those that say what this means included.
pub fn hatched(svg: &str) -> usize {
    let lines = elements(svg, "polyline").into_iter();
    let hatches = lines.filter(|line| attribute(line, "stroke") == Some("#999999"));
    hatches.count()
}

/// Checks what holds for every picture: words for those who can't see it, colours for light and dark pages, a ground of
/// its own, and no text over another one.
#[track_caller]
pub fn check(name: &str, svg: &str) {
    let root = elements(svg, "svg")[0];
    assert_eq!(attribute(root, "role"), Some("img"), "{name}");
    let said = attribute(root, "aria-labelledby").unwrap().split(' ');
    for id in said {
        let (_, text) = svg.split_once(&format!(" id=\"{id}\">")).unwrap();
        let text = text.split_once("</").unwrap().0;
        assert!(text.len() > 3 && !text.contains('<'), "{name}: {id}");
    }
    let (_, dark) = svg
        .split_once("@media (prefers-color-scheme: dark)")
        .expect("a dark style");
    let dark = dark.split_once("</style>").unwrap().0;
    let ground = elements(svg, "rect")[0];
    for (axis, size) in [("x", "width"), ("y", "height")] {
        assert_eq!(number(ground, axis), 0.0, "{name}");
        assert_eq!(number(ground, size), number(root, size), "{name}");
    }
    let restyled = |property: &str, color: &str| {
        dark.contains(&format!("[{property}=\"{color}\"] {{ {property}: "))
    };
    let paint = attribute(ground, "fill").unwrap();
    assert!(restyled("fill", paint), "{name}: the ground stays {paint}");
    let mut boxes: Vec<([f64; 4], &str)> = Vec::new();
    for (element, text) in texts(svg) {
        // Numbers in cells have the ink that suits their cell.
        let ink = attribute(element, "fill").unwrap();
        let in_cell = ["#222222", "#fafafa"].contains(&ink);
        assert!(in_cell || restyled("fill", ink), "{name}: {text} is {ink}");
        if attribute(element, "transform").is_some() || text.trim().is_empty() {
            continue;
        }
        let this = text_box(element, text);
        let other = boxes
            .iter()
            .find(|(b, _)| this[0] < b[2] && b[0] < this[2] && this[1] < b[3] && b[1] < this[3]);
        assert!(other.is_none(), "{name}: {text} {this:?} over {other:?}");
        boxes.push((this, text));
    }
    for line in elements(svg, "line") {
        let stroke = attribute(line, "stroke").unwrap();
        assert!(restyled("stroke", stroke), "{name}: a line is {stroke}");
    }
}

/// About what a text covers: left, top, right, bottom.
fn text_box(element: &str, text: &str) -> [f64; 4] {
    let size = number(element, "font-size");
    let width = 0.5
        * size
        * text
            .replace("&lt;", "<")
            .replace("&amp;", "&")
            .chars()
            .count() as f64;
    let (x, y) = (number(element, "x"), number(element, "y"));
    let left = match attribute(element, "text-anchor").unwrap() {
        "start" => x,
        "middle" => x - width / 2.0,
        _ => x - width,
    };
    // Letters without those that reach below the line.
    let top = match attribute(element, "dy").unwrap() {
        "0.76em" => y,
        "0.5ex" => y - 0.4 * size,
        _ => y - 0.9 * size,
    };
    [left, top, left + width, top + 0.7 * size]
}
