//! The report of `examples/visualize` for models of several kinds.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use shadegrad::Tape;
use shadegrad::checkpoint::{self, Metadata};
use shadegrad::nn::{
    FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder, Parameters, PositionKind,
};

use crate::common::{Random, device};
use crate::example::program;
use crate::pictures;

/// A folder of its own for a test, gone when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("visualize-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn checkpoint(&self) -> PathBuf {
        self.0.join("model.safetensors")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const VOCABULARY: &str = "\n &<abc";

fn small() -> GptConfig {
    GptConfig {
        context: 8,
        d_model: 8,
        n_heads: 2,
        n_layers: 2,
        d_ff: 12,
        ..GptConfig::new(VOCABULARY.len())
    }
}

/// A checkpoint of a model with weights that make pictures differ.
fn save(config: &GptConfig, path: &Path) -> (Gpt, Parameters) {
    save_with(config, VOCABULARY, path, |_, weight| weight)
}

/// The same with another vocabulary, and weights that are changed by their parameter's name.
fn save_with(
    config: &GptConfig,
    vocabulary: &str,
    path: &Path,
    change: impl Fn(&str, f32) -> f32,
) -> (Gpt, Parameters) {
    let mut builder = ParameterBuilder::new(7);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    let mut random = Random::new(8);
    let values = parameters.iter().map(|parameter| {
        let shape = parameter.shape();
        let drawn = random.values(shape.elements(), -0.8, 0.8).into_iter();
        let changed = drawn.map(|weight| change(parameter.name(), weight));
        (parameter.name(), shape, changed.collect())
    });
    let values: Vec<_> = values.collect();
    parameters.load(values).unwrap();
    let metadata = Metadata {
        config: serde_json::to_value(config).unwrap(),
        vocabulary: vocabulary.chars().collect(),
        step: 12,
        ..Metadata::default()
    };
    checkpoint::save(path, &parameters, None, &metadata).unwrap();
    (gpt, parameters)
}

fn visualize(checkpoint: &Path, text: &str, out: &Path, more: &[&str]) -> Output {
    Command::new(program("visualize"))
        .arg(checkpoint)
        .args(["--text", text, "--out"])
        .arg(out)
        .args(more)
        .output()
        .unwrap()
}

/// The report of a model, having found it whole.
fn report(folder: &Folder, text: &str, more: &[&str]) -> String {
    let out = folder.0.join("report");
    let output = visualize(&folder.checkpoint(), text, &out, more);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page = std::fs::read_to_string(out.join("index.html")).unwrap();
    assert_eq!(page.matches("<figure").count(), 20);
    // Nothing comes from elsewhere; the one address is the name of SVG's namespace.
    let addresses = page.matches("http").count();
    assert_eq!(
        addresses,
        page.matches("http://www.w3.org/2000/svg").count()
    );
    for loading in ["src=", "<link", "<script", "url(", "@import"] {
        assert!(!page.contains(loading), "{loading}");
    }
    let pictures = std::fs::read_dir(&out).unwrap();
    let pictures = pictures.map(|entry| entry.unwrap().path());
    let svgs: Vec<PathBuf> = pictures
        .filter(|path| path.extension().is_some_and(|extension| extension == "svg"))
        .collect();
    assert_eq!(svgs.len(), 20);
    for path in svgs {
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.trim_end().ends_with("</svg>"), "{}", path.display());
        // A number that is none would be drawn at no place.
        assert!(
            !svg.contains("NaN") && !svg.contains("inf"),
            "{}",
            path.display()
        );
        pictures::check(&path.display().to_string(), &svg);
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    page
}

impl Folder {
    fn picture(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(format!("report/{name}.svg"))).unwrap()
    }
}

/// The texts of one size below a height that read as the labels of a row of places.
fn row_of_labels(svg: &str, text: &[&str]) -> usize {
    let all = pictures::texts(svg);
    let words: Vec<&str> = all.iter().map(|(_, text)| *text).collect();
    words.windows(text.len()).filter(|w| w == &text).count()
}

#[test]
fn the_report_shows_the_models_own_numbers() {
    let folder = Folder::new("numbers");
    let (gpt, _parameters) = save(&small(), &folder.checkpoint());
    report(&folder, "ab<c a", &["--layer", "1", "--head", "1"]);

    // The weights of the head that was asked for, as the model computes them.
    let tape = Tape::inference(device());
    let tokens = tape.input([1, 7], &[0u32, 4, 5, 3, 6, 1, 4]);
    let (_, trace) = tape.trace(|| gpt.logits(tokens));
    let weights = trace.get("blocks.1.attention.weights").unwrap();
    let weights = tape.fetch::<f32>(weights.slice(1, 1..2).reshape([49]));
    tape.run().unwrap();
    let weights = weights.get().unwrap();
    let shown: Vec<String> = weights
        .iter()
        .filter(|&&weight| weight != 0.0)
        .map(|weight| format!("{weight:.2}"))
        .collect();
    assert_eq!(shown.len(), 28);
    let svg = std::fs::read_to_string(folder.0.join("report/attention_mask.svg")).unwrap();
    let texts: Vec<&str> = svg.lines().filter(|line| !line.starts_with('<')).collect();
    let found = texts.windows(shown.len()).any(|texts| texts == shown);
    assert!(found, "{shown:?} is not among {texts:?}");
    // Characters that mean something in SVG are shown as themselves.
    assert!(texts.contains(&"&lt;"));
}

#[test]
fn reports_say_what_other_models_do_otherwise() {
    let folder = Folder::new("variants");
    let rotary = GptConfig {
        ffn: FeedForwardKind::Swiglu,
        norm: NormKind::RmsNorm,
        positions: PositionKind::Rotary,
        ..small()
    };
    save(&rotary, &folder.checkpoint());
    let page = report(&folder, "abc", &[]);
    assert!(page.contains("adds no vectors for positions"));
    assert!(page.contains("RMSNorm") && page.contains("subtracts no mean"));
    assert!(page.contains("active means that the gate is positive"));

    let sinusoidal = GptConfig {
        ffn: FeedForwardKind::Relu,
        norm: NormKind::LayerNorm,
        positions: PositionKind::Sinusoidal,
        bias: true,
        attention_bias: Some(false),
        head_bias: true,
        final_norm: false,
        tie_weights: false,
        dropout: 0.1,
        ..small()
    };
    save(&sinusoidal, &folder.checkpoint());
    let page = report(&folder, "a", &[]);
    assert!(page.contains("Sinusoidal position embeddings"));
    assert!(page.contains("Before and after LayerNorm"));
    assert!(page.contains("this model uses ReLU"));
    assert!(page.contains("trained with p = 0.1"));
}

#[test]
fn what_cannot_be_drawn_costs_one_line() {
    let folder = Folder::new("refusals");
    save(&small(), &folder.checkpoint());
    let out = folder.0.join("report");
    let refused = |text: &str, more: &[&str], expected: &str| {
        let output = visualize(&folder.checkpoint(), text, &out, more);
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.starts_with("error: ") && error.lines().count() == 1,
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    };
    refused("abcabcab", &[], "texts of 1 to 7");
    refused("", &[], "0 characters");
    refused("axb", &[], "'x'");
    refused("ab", &["--layer", "2"], "layers 0 to 1");
    refused("ab", &["--head", "9"], "heads 0 to 1");
    let attention_only = GptConfig {
        ffn: FeedForwardKind::None,
        ..small()
    };
    save(&attention_only, &folder.checkpoint());
    refused("ab", &[], "have a feed-forward part");
    assert!(!out.exists());
}

#[test]
fn curves_are_finer_than_pixels_and_scales_have_no_gaps() {
    let folder = Folder::new("fine");
    save(&small(), &folder.checkpoint());
    report(&folder, "ab<c a", &[]);

    // Softmax over 100 logits at temperature 3 climbs at every one of them.
    let softmax = folder.picture("softmax");
    let curves = pictures::elements(&softmax, "polyline");
    let climbing = curves.iter().filter(|curve| {
        let points = pictures::longest_line(curve);
        points.len() == 100 && points.windows(2).all(|two| two[1].1 < two[0].1)
    });
    assert!(climbing.count() >= 1);

    // One scale for all heads: every step of it reaches to the same end, under the next one.
    let heads = folder.picture("attention_heads");
    let boxes = pictures::elements(&heads, "rect");
    let filled = boxes
        .iter()
        .filter(|b| pictures::attribute(b, "fill") != Some("none"));
    let scale: Vec<&&str> = filled
        .clone()
        .filter(|b| pictures::attribute(b, "width") == Some("12"))
        .filter(|b| pictures::attribute(b, "fill") != Some("#e4e4e4"))
        .collect();
    assert!(scale.len() > 100, "{}", scale.len());
    let end = |b: &str| pictures::number(b, "y") + pictures::number(b, "height");
    assert!(scale.iter().all(|b| (end(b) - end(scale[0])).abs() < 0.011));
    let mut rest = filled.skip(1);
    assert!(rest.all(|b| pictures::attribute(b, "shape-rendering") == Some("crispEdges")));
    // Later keys are hidden, which is no weight of zero.
    assert_eq!(pictures::hatched(&heads), 4 * 21 + 1);
    assert_eq!(
        pictures::texts(&heads)
            .iter()
            .filter(|t| t.1 == "hidden")
            .count(),
        1
    );
    assert_eq!(
        pictures::hatched(&folder.picture("attention_mask")),
        2 * (21 + 1)
    );
}

#[test]
fn every_token_of_a_long_text_keeps_its_label() {
    let folder = Folder::new("long");
    let vocabulary = "\n,.0123456789;ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let config = GptConfig {
        context: 64,
        ..GptConfig {
            vocab_size: vocabulary.chars().count(),
            ..small()
        }
    };
    save_with(&config, vocabulary, &folder.checkpoint(), |_, weight| {
        weight
    });
    let text = "Whoever,reads;this.text,sees42lettersofit.";
    assert_eq!(text.len(), 42);
    report(&folder, text, &[]);
    let names: Vec<String> = text.chars().map(|c| c.to_string()).collect();
    let names: Vec<&str> = std::iter::once("\\n")
        .chain(names.iter().map(String::as_str))
        .collect();
    for (name, rows) in [
        ("tokens", 1),
        ("embedding_norms", 1),
        ("attention_mask", 7),
        ("attention_heads", 8),
        ("attention_bars", 43),
        ("attention_update", 1),
        ("attention_variance", 1),
        ("residual_stream", 1),
        ("next_tokens", 1),
        ("dropout", 2),
    ] {
        let found = row_of_labels(&folder.picture(name), &names);
        assert!(found >= rows, "{name}: {found}");
    }
    // Labels in the planes of components cover each other nowhere (every report is checked for that), and what has no
    // place is counted.
    let planes = folder.picture("pca");
    let texts = pictures::texts(&planes);
    let left_out: usize = texts
        .iter()
        .filter_map(|(_, text)| text.strip_prefix("without a label: "))
        .map(|count| count.parse::<usize>().unwrap())
        .sum();
    let written = |wanted: &dyn Fn(&str) -> bool| texts.iter().filter(|t| wanted(t.1)).count();
    assert!(written(&|text| text.contains('·')) + left_out >= 43);
}

#[test]
fn labels_that_are_left_out_are_dots() {
    let folder = Folder::new("dots");
    let config = GptConfig {
        context: 200,
        ..small()
    };
    save(&config, &folder.checkpoint());
    let text = "ab<c a&".repeat(28);
    report(&folder, &text, &[]);
    let svg = folder.picture("embedding_norms");
    let dots = pictures::texts(&svg).iter().filter(|t| t.1 == "·").count();
    assert!(dots > 30, "{dots}");
}

#[test]
fn the_shortest_texts_and_the_dullest_models_have_pictures() {
    let folder = Folder::new("short");
    let dead = GptConfig {
        ffn: FeedForwardKind::Relu,
        ..small()
    };
    let rotary = GptConfig {
        positions: PositionKind::Rotary,
        ..small()
    };
    for config in [&small(), &dead, &rotary] {
        for zero in [false, true] {
            let change = |_: &str, weight| if zero { 0.0 } else { weight };
            save_with(config, VOCABULARY, &folder.checkpoint(), change);
            for text in ["a", "aa", "ab"] {
                report(&folder, text, &[]);
            }
        }
    }
    // Without a line break to begin with, two characters are the least.
    let config = GptConfig {
        vocab_size: 3,
        ..small()
    };
    save_with(&config, "abc", &folder.checkpoint(), |_, weight| weight);
    report(&folder, "aa", &[]);
    let output = visualize(&folder.checkpoint(), "a", &folder.0.join("none"), &[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("1 characters") && error.contains("2 to 8"),
        "{error}"
    );
}

#[test]
fn a_padded_head_is_drawn_and_what_is_not_finite_costs_one_line() {
    let folder = Folder::new("padded");
    let padded = GptConfig {
        vocab_size: VOCABULARY.len() + 5,
        ..small()
    };
    save(&padded, &folder.checkpoint());
    report(&folder, "abc", &[]);
    let rows = folder.picture("next_tokens");
    let last = format!("#{}", padded.vocab_size - 1);
    assert!(pictures::texts(&rows).iter().any(|(_, text)| *text == last));

    let refused = |expected: &str| {
        let output = visualize(&folder.checkpoint(), "ab", &folder.0.join("none"), &[]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{expected}: {error}");
        assert!(
            error.starts_with("error: ") && error.lines().count() == 1,
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
        assert!(!folder.0.join("none").exists());
    };
    for (name, wrong) in [
        ("blocks.1.attention.qkv.weight", f32::NAN),
        ("token_embedding.weight", f32::INFINITY),
        ("position_embedding.weight", f32::NAN),
    ] {
        let change = |parameter: &str, weight| if parameter == name { wrong } else { weight };
        save_with(&small(), VOCABULARY, &folder.checkpoint(), change);
        refused(&format!("weights in {name} that are not finite numbers"));
    }
    let huge = |parameter: &str, weight: f32| match parameter {
        "norm.weight" => 3e38,
        _ => 4.0 * weight,
    };
    save_with(&small(), VOCABULARY, &folder.checkpoint(), huge);
    refused("beyond what finite numbers can say");
    let few = GptConfig {
        vocab_size: VOCABULARY.len() - 1,
        ..small()
    };
    save(&few, &folder.checkpoint());
    refused("its vocabulary has 7 characters, its model 6 tokens");
}
