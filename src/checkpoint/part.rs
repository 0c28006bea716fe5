//! Loading a part of a file by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::tensors::{TensorsFile, number_size};
use crate::error::Result;
use crate::nn::Parameters;

/// What [`load_part`] has and has not loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "says which parameters kept their values"]
pub struct LoadedPart {
    /// Parameters that have the file's values now.
    pub loaded: Vec<String>,
    /// Parameters that kept their values: no tensor of the file is theirs.
    pub missing: Vec<String>,
    /// Tensors of the file that belong to no parameter.
    pub unused: Vec<String>,
}

impl fmt::Display for LoadedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameters loaded", self.loaded.len())?;
        for (names, what) in [
            (&self.missing, "not loaded"),
            (&self.unused, "of the file not used"),
        ] {
            if !names.is_empty() {
                write!(f, "; {} {what}: {}", names.len(), names.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Puts those tensors of a safetensors file into a model's parameters for which `name_of` gives the name of one: the encoder
/// of a larger model, or everything but the head. The file may be a [checkpoint](super), whose parameters are called
/// `param.<name>`, or come from elsewhere, with numbers of F32, F16 or BF16. They are rounded to the parameters' type. All
/// or nothing: on error, nothing has been changed.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::Device;
/// use shadegrad::checkpoint::{self, Metadata};
/// use shadegrad::nn::{Linear, ParameterBuilder};
///
/// let device = Device::new()?;
/// let model = |seed, classes| {
///     let mut builder = ParameterBuilder::new(seed);
///     Linear::new(&mut builder.enter("body"), 8, 4, true);
///     Linear::new(&mut builder.enter("head"), 4, classes, false);
///     builder.build(&device)
/// };
/// let path = std::env::temp_dir().join("shadegrad-doc-part.safetensors");
/// checkpoint::save(&path, &model(1, 10)?, None, &Metadata::default())?;
///
/// // Another head: only the body is taken over.
/// let part = checkpoint::load_part(&path, &model(2, 3)?, |name| {
///     let name = name.strip_prefix("param.")?;
///     name.starts_with("body.").then(|| name.to_owned())
/// })?;
/// assert_eq!(part.loaded, ["body.weight", "body.bias"]);
/// assert_eq!(part.missing, ["head.weight"]);
/// assert_eq!(part.unused, ["param.head.weight"]);
/// # std::fs::remove_file(path).unwrap();
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Error::File`](crate::Error::File) if the file cannot be read; [`Error::Checkpoint`](crate::Error::Checkpoint) if it is
/// damaged, if a tensor that is to be loaded has another shape than its parameter, another type, or a number that is too
/// large for the parameter's, or if two have one parameter's name. [`Error::DeviceLost`](crate::Error::DeviceLost).
pub fn load_part(
    path: impl AsRef<Path>,
    parameters: &Parameters,
    name_of: impl Fn(&str) -> Option<String>,
) -> Result<LoadedPart> {
    let file = TensorsFile::open(path.as_ref())?;
    let mut found = BTreeMap::new();
    let mut part = LoadedPart::default();
    let mut names = file.metadata.offset_keys();
    names.sort_unstable();
    for theirs in names {
        let ours = name_of(&theirs);
        let Some(parameter) = ours.and_then(|name| parameters.get(&name)) else {
            part.unused.push(theirs);
            continue;
        };
        let info = file.metadata.info(&theirs).expect("it is one of the names");
        let (name, shape) = (parameter.name(), parameter.shape());
        if info.shape != shape.dims() {
            return Err(file.refuse(format!(
                "tensor `{theirs}` has shape {:?}, the parameter `{name}` has shape {shape}",
                info.shape
            )));
        }
        if number_size(info.dtype).is_none() {
            return Err(file.refuse(format!(
                "tensor `{theirs}` has type {}, expected one of F32, F16, BF16",
                info.dtype
            )));
        }
        let values = file.numbers(info, 0..shape.elements())?;
        let fits = parameter.tensor().dtype().require_range(&values);
        fits.map_err(|reason| file.refuse(format!("tensor `{theirs}`: {reason}")))?;
        if let Some((other, _)) = found.insert(name, (theirs.clone(), values)) {
            return Err(file.refuse(format!(
                "tensors `{other}` and `{theirs}` are both to be the parameter `{name}`"
            )));
        }
    }
    for parameter in parameters {
        let name = parameter.name();
        match found.get(name) {
            Some((_, values)) => {
                parameter.tensor().write_floats(values)?;
                part.loaded.push(name.to_owned());
            }
            None => part.missing.push(name.to_owned()),
        }
    }
    Ok(part)
}
