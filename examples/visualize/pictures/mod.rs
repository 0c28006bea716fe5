//! The pictures, in the order in which a model computes what they show.

mod attention;
mod embeddings;
mod feed_forward;
mod functions;
mod stream;

use crate::common::Result;
use crate::common::canvas::Picture;
use crate::subject::Subject;

/// Draws all of them.
///
/// # Errors
///
/// What the device and the drawing report.
pub fn all(subject: &Subject) -> Result<Vec<Picture>> {
    Ok(vec![
        functions::tokens(subject)?,
        embeddings::positions(subject)?,
        embeddings::norms(subject)?,
        embeddings::projections(subject)?,
        functions::norm(subject)?,
        functions::softmax(subject)?,
        functions::dropout(subject)?,
        functions::activations(subject)?,
        attention::mask(subject)?,
        attention::heads(subject)?,
        attention::distributions(subject)?,
        attention::update(subject)?,
        attention::variance_of_update(subject)?,
        feed_forward::histograms(subject)?,
        feed_forward::sparsity(subject)?,
        feed_forward::scatter(subject)?,
        stream::norms(subject)?,
        stream::updates(subject)?,
        stream::evolution(subject)?,
        stream::next_tokens(subject)?,
    ])
}

/// `12 %`
fn percent(share: f64) -> String {
    match share.is_finite() {
        true => format!("{:.0} %", 100.0 * share),
        false => NO_SHARE.to_owned(),
    }
}

/// How many times as large one number is as another, with two decimals.
fn times(number: f64, other: f64) -> String {
    match other == 0.0 {
        true => NO_SHARE.to_owned(),
        false => format!("{:.2}", number / other),
    }
}

/// Instead of a share of nothing.
const NO_SHARE: &str = "—";

/// `n` numbers from `low` to `high`.
fn steps(low: f64, high: f64, n: usize) -> Vec<f64> {
    let step = (high - low) / (n - 1) as f64;
    (0..n).map(|i| low + step * i as f64).collect()
}
