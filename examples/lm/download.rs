//! Fetching a model's directory.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use shadegrad::Error;
use ureq::Agent;

use crate::common::{Result, outputs};

/// All that a model needs but for its tokenizer.
const MODEL: [&str; 2] = ["config.json", "model.safetensors"];

/// The tokenizer, else what stands for it in older directories.
const TOKENIZER: [&str; 1] = ["tokenizer.json"];
const MERGES: [&str; 2] = ["vocab.json", "merges.txt"];

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
    let [config, weights] = MODEL;
    if !source.file(config, directory)? {
        return Err(format!("{site} has no model `{name}`, or shows it to nobody").into());
    }
    let missing = |file: &str| format!("the model `{name}` of {site} has no {file}");
    if !source.file(TOKENIZER[0], directory)? {
        for file in MERGES {
            if !source.file(file, directory)? {
                return Err(missing(file).into());
            }
        }
    }
    match source.file(weights, directory)? {
        true => Ok(()),
        false => Err(missing(weights).into()),
    }
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
                    MODEL.join(", "),
                    TOKENIZER[0]
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
