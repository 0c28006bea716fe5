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
    let mut builder = ParameterBuilder::new(7);
    let gpt = Gpt::new(config, &mut builder).unwrap();
    let parameters = builder.build(device()).unwrap();
    let mut random = Random::new(8);
    let values = parameters.iter().map(|parameter| {
        let shape = parameter.shape();
        let drawn = random.values(shape.elements(), -0.8, 0.8);
        (parameter.name(), shape, drawn)
    });
    let values: Vec<_> = values.collect();
    parameters.load(values).unwrap();
    let metadata = Metadata {
        config: serde_json::to_value(config).unwrap(),
        vocabulary: VOCABULARY.chars().collect(),
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
    }
    page
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
    refused("abcabcab", &[], "the model reads 1 to 7");
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
