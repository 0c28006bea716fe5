//! One HTML file with everything in it, and the pictures beside it.

use std::fs;
use std::path::Path;

use shadegrad::Error;

use crate::common::canvas::Picture;
use crate::common::svg::escape;
use crate::common::{Result, outputs};
use crate::subject::Subject;

const STYLE: &str = "\
:root { color-scheme: light dark; --page: #f4f4f4; --card: #fff; --ink: #222; --pale: #666; --edge: #ddd; --link: #1f6fb4; }
@media (prefers-color-scheme: dark) {
:root { --page: #0e1013; --card: #16191d; --ink: #d5d9de; --pale: #9aa1a9; --edge: #3a3f45; --link: #5aa9ea; }
}
body { font: 16px/1.5 sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 1320px; padding: 1em; }
nav { columns: 3; }
nav a { display: block; color: var(--link); }
figure { background: var(--card); border: 1px solid var(--edge); border-radius: 6px; margin: 1.5em 0; padding: 1em; }
figure svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { max-width: 60em; margin: .8em auto 0; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1em; }
dt { color: var(--pale); }
dd { margin: 0; }
@media (max-width: 700px) { nav { columns: 1; } }
";

/// Writes `index.html` and one SVG file per picture into a folder, which is made if it isn't there.
///
/// # Errors
///
/// [`Error::File`]
pub fn write(folder: &Path, subject: &Subject, pictures: &[Picture]) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::File {
        path: folder.to_owned(),
        source,
    })?;
    for picture in pictures {
        outputs::text(&folder.join(format!("{}.svg", picture.name)), &picture.svg)?;
    }
    outputs::text(&folder.join("index.html"), &page(subject, pictures))
}

fn page(subject: &Subject, pictures: &[Picture]) -> String {
    let config = &subject.config;
    let text: String = subject.text.concat();
    let heads = format!("{} of width {}", config.n_heads, config.head_dim());
    let facts = [
        (
            "checkpoint",
            format!("{}, after {} steps", subject.source, subject.step),
        ),
        ("text", text.clone()),
        ("parameters", config.parameter_count().to_string()),
        ("layers", config.n_layers.to_string()),
        ("d_model", config.d_model.to_string()),
        ("heads", heads),
        ("feed-forward", format!("{}, {}", config.ffn, config.d_ff)),
        ("norm", config.norm.to_string()),
        (
            "positions",
            format!("{}, up to {}", config.positions, config.context),
        ),
        ("computed on", subject.device.description().to_string()),
    ];
    let facts = facts.map(|(name, fact)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(&fact)));
    let links = pictures.iter().map(|picture| {
        format!(
            "<a href=\"#{}\">{}</a>\n",
            picture.name,
            escape(&picture.title)
        )
    });
    let figures = pictures.iter().map(|picture| {
        let caption = escape(&picture.caption);
        let svg = inlined(&picture.svg);
        let name = picture.name;
        format!("<figure id=\"{name}\">\n{svg}<figcaption>{caption}</figcaption>\n</figure>\n")
    });
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<h1>{title}</h1>\n<dl>\n{facts}</dl>\n<nav aria-label=\"Pictures\">\n{links}</nav>\n{figures}</body>\n</html>\n",
        title = escape(&format!("Inside a model that reads “{text}”")),
        facts = facts.concat(),
        links = links.collect::<String>(),
        figures = figures.collect::<String>(),
    )
}

/// An SVG file's element, with what lets it shrink with the page.
fn inlined(svg: &str) -> &str {
    svg.find("<svg").map_or(svg, |start| &svg[start..])
}
