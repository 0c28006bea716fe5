//! The keys that say which layers see a window only.

use serde_json::{Map, Value, json};

use super::fields::{Fields, Reason};
use super::rope::{FULL, SLIDING};
use crate::nn::{GptConfig, LocalAttention, Rotary};

/// Which they are, in a type of models.
#[derive(Clone, Copy, Debug)]
pub(super) enum Windows {
    /// None.
    None,
    /// All, where there is a `sliding_window`.
    AllLayers,
    /// Where `use_sliding_window` is set, those that `layer_types` lists, else those from `max_window_layers` on.
    LaterLayers,
    /// Those that `layer_types` lists, else all but each `sliding_window_pattern`-th.
    MostLayers,
}

const WINDOW: &str = "sliding_window";
const TYPES: &str = "layer_types";
const USED: &str = "use_sliding_window";

/// The library's own where a file has none.
const USUAL: usize = 4096;

impl Windows {
    /// The layers of a model, whose other settings are known, that see a window only.
    pub fn read(
        self,
        fields: &Fields<'_>,
        config: &GptConfig,
        rotary: Option<Rotary>,
    ) -> Result<Option<LocalAttention>, Reason> {
        let n_layers = config.n_layers;
        let window = match fields.has(WINDOW) {
            true => fields.get(WINDOW)?,
            false => Some(USUAL),
        };
        let (window, layers) = match self {
            Windows::None => {
                fields.only(WINDOW, &Value::Null)?;
                let layers = listed(fields, n_layers)?.unwrap_or_default();
                (None, layers)
            }
            Windows::AllLayers => {
                let all = vec![window.is_some(); n_layers];
                match listed(fields, n_layers)? {
                    Some(layers) if layers != all => {
                        return Err(format!("{TYPES} says other layers than {WINDOW}"));
                    }
                    _ => (window, all),
                }
            }
            Windows::LaterLayers => {
                let used = fields.get(USED)?.unwrap_or(false);
                let window = window.filter(|_| used);
                let first = fields.get("max_window_layers")?.unwrap_or(28);
                let later = (0..n_layers).map(|layer| window.is_some() && layer >= first);
                (window, listed(fields, n_layers)?.unwrap_or(later.collect()))
            }
            Windows::MostLayers => {
                let every = fields.get::<usize>("sliding_window_pattern")?.unwrap_or(6);
                if every == 0 {
                    return Err("sliding_window_pattern is 0".to_owned());
                }
                let most = (1..=n_layers).map(|layer| !layer.is_multiple_of(every));
                (window, listed(fields, n_layers)?.unwrap_or(most.collect()))
            }
        };
        match window {
            Some(0) => Err(format!("{WINDOW} is 0: expected 1 or more, or null")),
            _ if !layers.contains(&true) => Ok(None),
            Some(window) => Ok(Some(LocalAttention {
                window,
                layers,
                rotary,
            })),
            None => Err(format!("{TYPES} has a {SLIDING}, but there is no {WINDOW}")),
        }
    }

    /// The keys of a model of which nothing is left open.
    pub fn write(self, config: &GptConfig, json: &mut Map<String, Value>) {
        let local = config.local.as_ref();
        let window = local.map_or(Value::Null, |local| json!(local.window));
        let is_local = |layer: usize| local.is_some_and(|local| local.layers[layer]);
        let name = |layer| if is_local(layer) { SLIDING } else { FULL };
        let layers: Vec<&str> = (0..config.n_layers).map(name).collect();
        let mut add = |key: &str, value: Value| json.insert(key.to_owned(), value);
        match self {
            Windows::None => (),
            Windows::AllLayers => {
                add(WINDOW, window);
            }
            Windows::LaterLayers => {
                add(USED, json!(local.is_some()));
                add(WINDOW, window);
                add(TYPES, json!(layers));
                add("max_window_layers", json!(config.n_layers));
            }
            Windows::MostLayers => {
                // Without a window no layer has one; the number is of no use then.
                let usual = json!(USUAL);
                add(WINDOW, if local.is_some() { window } else { usual });
                add(TYPES, json!(layers));
            }
        }
    }
}

/// `layer_types`, if the file has such a list.
fn listed(fields: &Fields<'_>, n_layers: usize) -> Result<Option<Vec<bool>>, Reason> {
    let Some(names) = fields.get::<Vec<String>>(TYPES)? else {
        return Ok(None);
    };
    if names.len() != n_layers {
        return Err(format!(
            "{TYPES} has {} entries for {n_layers} layers",
            names.len()
        ));
    }
    let kinds = names.iter().map(|name| match name.as_str() {
        FULL | "attention" => Ok(false),
        SLIDING => Ok(true),
        other => Err(format!(
            "{TYPES} has `{other}`: expected {FULL} or {SLIDING}"
        )),
    });
    kinds.collect::<Result<_, _>>().map(Some)
}
