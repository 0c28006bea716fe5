//! Fetching a model's directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::Value;
use shadegrad::Error;
use shadegrad::data::read_text;
use ureq::Agent;

use crate::common::{Result, outputs};

/// What the model is, and its weights: all in a file, or in several that an index tells of.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tokenizer, else what stands for it in older directories.
const TOKENIZER: &str = "tokenizer.json";
const MERGES: [&str; 2] = ["vocab.json", "merges.txt"];

/// What not every model has.
const OTHERS: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// A site that has not answered by then will not.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fetches a model's files from a site into a directory, which is made if there is none. What is there already is
/// replaced, each file when it has arrived whole.
///
/// # Errors
///
/// One line: that the site cannot be reached, or has no such model, or a file cannot be written.
pub fn fetch(name: &str, site: &str, directory: &Path) -> Result<()> {
    let agent = Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .build()
        .new_agent();
    let source = Source { agent, name, site };
    fs::create_dir_all(directory).map_err(|source| Error::File {
        path: directory.to_owned(),
        source,
    })?;
    // The small files are first to tell what is wrong.
    if !source.file(CONFIG, directory)? {
        return Err(format!("{site} has no model `{name}`, or shows it to nobody").into());
    }
    let missing = |file: &str| format!("the model `{name}` of {site} has no {file}");
    if !source.file(TOKENIZER, directory)? {
        for file in MERGES {
            if !source.file(file, directory)? {
                return Err(missing(file).into());
            }
        }
    }
    for file in OTHERS {
        source.file(file, directory)?;
    }
    let in_the_way = |file: &str| match directory.join(file).exists() {
        false => Ok(()),
        true => Err(format!(
            "{} holds another model's {file}: name another directory, or remove that file",
            directory.display()
        )),
    };
    if source.file(WEIGHTS, directory)? {
        return Ok(in_the_way(INDEX)?);
    }
    in_the_way(WEIGHTS)?;
    if !source.file(INDEX, directory)? {
        return Err(missing(WEIGHTS).into());
    }
    for file in shards(&directory.join(INDEX))? {
        if !source.file(&file, directory)? {
            return Err(missing(&file).into());
        }
    }
    Ok(())
}

/// The files that an index names, each of which is to lie beside it.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let refuse = |reason: &str| format!("{}: {reason}", index.display());
    let text = read_text(index)?;
    let json: Value = serde_json::from_str(&text).map_err(|error| refuse(&error.to_string()))?;
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| refuse("it has no weight_map"))?;
    let names = map.values().map(|name| match name.as_str() {
        Some(name) if Path::new(name).file_name().is_some_and(|own| own == name) => {
            Ok(name.to_owned())
        }
        _ => Err(refuse(&format!(
            "its weight_map names {name}, which is no file's name"
        ))
        .into()),
    });
    names.collect()
}

struct Source<'a> {
    agent: Agent,
    name: &'a str,
    site: &'a str,
}

impl Source<'_> {
    /// Fetches one file; whether there is one.
    fn file(&self, file: &str, directory: &Path) -> Result<bool> {
        let url = format!("{}/{}/resolve/main/{file}", self.site, self.name);
        let mut response = match self.agent.get(&url).call() {
            Ok(response) => response,
            // Sites answer like this to who asks for what is not there, or not for everyone.
            Err(ureq::Error::StatusCode(401 | 403 | 404)) => return Ok(false),
            Err(ureq::Error::StatusCode(status)) => {
                return Err(format!("{url}: the site answers with status {status}").into());
            }
            Err(error) => {
                return Err(format!(
                    "cannot reach {url}: {error}. Without a network, get {} and {} elsewhere and name their directory",
                    [CONFIG, WEIGHTS].join(", "),
                    TOKENIZER
                )
                .into());
            }
        };
        let expected = response.body().content_length();
        let bar = match expected {
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::new_spinner(),
        };
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} · {bytes_per_sec} · {eta}";
        bar.set_style(ProgressStyle::with_template(style)?);
        bar.set_message(file.to_owned());
        let path = directory.join(file);
        outputs::replace(&path, |temporary| {
            let mut reader = bar.wrap_read(response.body_mut().as_reader());
            let copied = File::create(temporary).and_then(|mut to| {
                let copied = io::copy(&mut reader, &mut to)?;
                to.sync_all()?;
                Ok(copied)
            });
            let arrived = copied.map_err(|error| format!("{url}: {error}"))?;
            match expected.filter(|&all| all != arrived) {
                None => Ok(()),
                Some(all) => Err(format!(
                    "{url}: the connection broke after {arrived} of {all} bytes: try again"
                )
                .into()),
            }
        })?;
        let bytes = bar.position();
        bar.finish_and_clear();
        say!("{file}: {}", HumanBytes(bytes));
        Ok(true)
    }
}
