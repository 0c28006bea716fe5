//! The keys that say by what angles rotary positions turn.

use serde_json::{Map, Value, json};

use super::fields::{Fields, Reason, shortest};
use crate::nn::{GptConfig, Rotary, RotaryScaling, Yarn};

/// Where a type of models has them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rope {
    /// Nowhere: its positions are others.
    None,
    /// `rope_theta` and `rope_scaling`, or since version 5 of the library both in `rope_parameters`.
    Flat,
    /// For layers with a window `rope_local_base_freq`, for the others `rope_theta` and `rope_scaling`; or
    /// `rope_parameters` by kind of layer.
    ByKindOfLayer,
}

const PARAMETERS: &str = "rope_parameters";
pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

impl Rope {
    /// Sets the angles of a model; gives those of layers that see a window only, if they have their own.
    pub fn read(
        self,
        fields: &Fields<'_>,
        config: &mut GptConfig,
    ) -> Result<Option<Rotary>, Reason> {
        match self {
            Rope::None => Ok(None),
            Rope::Flat => {
                let scaling = fields.object("rope_scaling")?;
                let parameters = match scaling {
                    Some(scaling) => Some(scaling),
                    None => fields.object(PARAMETERS)?,
                };
                let nested = parameters.as_ref();
                if nested.is_some_and(|nested| nested.has(FULL) || nested.has(SLIDING)) {
                    return Err(format!("{PARAMETERS} by kind of layer is not supported"));
                }
                let base = fields.get("rope_theta")?.unwrap_or(10_000.0);
                config.rotary = rotary(parameters.as_ref(), base, fields, config.context)?;
                Ok(None)
            }
            Rope::ByKindOfLayer => {
                let parameters = fields.object(PARAMETERS)?;
                let nested = parameters.as_ref();
                let of = |kind| nested.map_or(Ok(None), |nested| nested.object(kind));
                let (full, sliding) = (of(FULL)?, of(SLIDING)?);
                if parameters.is_some() && full.is_none() && sliding.is_none() {
                    return Err(format!("{PARAMETERS} has neither {FULL} nor {SLIDING}"));
                }
                let scaling = fields.object("rope_scaling")?;
                if scaling.is_some() && parameters.is_some() {
                    return Err(format!(
                        "rope_scaling stands beside {PARAMETERS}: leave out the one that doesn't hold"
                    ));
                }
                let base = fields.get("rope_theta")?.unwrap_or(1_000_000.0);
                let full = scaling.as_ref().or(full.as_ref());
                config.rotary = rotary(full, base, fields, config.context)?;
                let base = fields.get("rope_local_base_freq")?.unwrap_or(10_000.0);
                let local = rotary(sliding.as_ref(), base, fields, config.context)?;
                Ok(Some(local))
            }
        }
    }

    /// The keys of a model of which nothing is left open.
    pub fn write(self, config: &GptConfig, json: &mut Map<String, Value>) {
        let full = parameters(&config.rotary);
        match self {
            Rope::None => (),
            Rope::Flat => {
                // Version 4 of the library reads these.
                if config.rotary.scaling.is_some() {
                    json.insert("rope_scaling".to_owned(), full.clone());
                }
                json.insert("rope_theta".to_owned(), shortest(config.rotary.base));
                json.insert(PARAMETERS.to_owned(), full);
            }
            Rope::ByKindOfLayer => {
                let local = config.local.as_ref();
                let local = local.and_then(|local| local.rotary.as_ref());
                let sliding = parameters(local.unwrap_or(&Rotary::default()));
                json.insert(
                    PARAMETERS.to_owned(),
                    json!({ FULL: full, SLIDING: sliding }),
                );
            }
        }
    }
}

/// What an object says of angles; `whole` is the file, `base` what it says elsewhere.
fn rotary(
    fields: Option<&Fields<'_>>,
    base: f32,
    whole: &Fields<'_>,
    context: usize,
) -> Result<Rotary, Reason> {
    let Some(fields) = fields else {
        return Ok(Rotary {
            base,
            scaling: None,
        });
    };
    fields.only("partial_rotary_factor", &json!(1))?;
    let kind = match fields.get::<String>("rope_type")? {
        Some(kind) => kind,
        None => fields.get("type")?.unwrap_or_else(|| "default".to_owned()),
    };
    let key = "original_max_position_embeddings";
    let original = whole.get(key)?.or(fields.get(key)?).unwrap_or(context);
    let scaling = match kind.as_str() {
        "default" => None,
        "linear" => Some(RotaryScaling::Linear {
            factor: fields.need("factor")?,
        }),
        "llama3" => Some(RotaryScaling::Llama3 {
            factor: fields.need("factor")?,
            low_frequency_factor: fields.need("low_freq_factor")?,
            high_frequency_factor: fields.need("high_freq_factor")?,
            original_context: original,
        }),
        "yarn" => {
            fields.only("mscale", &Value::Null)?;
            let factor: f32 = fields.need("factor")?;
            let known = fields.get("attention_factor")?;
            Some(RotaryScaling::Yarn(Yarn {
                factor,
                attention_factor: known.unwrap_or(0.1 * factor.max(1.0).ln() + 1.0),
                beta_fast: fields.get("beta_fast")?.unwrap_or(32.0),
                beta_slow: fields.get("beta_slow")?.unwrap_or(1.0),
                truncate: fields.get("truncate")?.unwrap_or(true),
                original_context: original,
            }))
        }
        other => {
            return Err(format!(
                "rope_type `{other}` is not supported: expected one of default, linear, llama3, yarn"
            ));
        }
    };
    Ok(Rotary {
        base: fields.get("rope_theta")?.unwrap_or(base),
        scaling,
    })
}

/// Such an object.
fn parameters(rotary: &Rotary) -> Value {
    let mut json = match &rotary.scaling {
        None => json!({ "rope_type": "default" }),
        Some(RotaryScaling::Linear { factor }) => {
            json!({ "rope_type": "linear", "factor": shortest(*factor) })
        }
        Some(RotaryScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_context,
        }) => json!({
            "rope_type": "llama3",
            "factor": shortest(*factor),
            "low_freq_factor": shortest(*low_frequency_factor),
            "high_freq_factor": shortest(*high_frequency_factor),
            "original_max_position_embeddings": original_context,
        }),
        Some(RotaryScaling::Yarn(yarn)) => json!({
            "rope_type": "yarn",
            "factor": shortest(yarn.factor),
            "attention_factor": shortest(yarn.attention_factor),
            "beta_fast": shortest(yarn.beta_fast),
            "beta_slow": shortest(yarn.beta_slow),
            "truncate": yarn.truncate,
            "original_max_position_embeddings": yarn.original_context,
        }),
    };
    json["rope_theta"] = shortest(rotary.base);
    json
}
