//! Looking inside a model: values that get names while a model records, and what is between its layers can be fetched.

use std::fmt;

use super::names::Names;
use super::record::{Tape, Var};

/// Named values that a part of a tape recorded, in the order of recording: see [`Tape::trace`].
///
/// A name that was given several times is there several times.
#[derive(Clone, Debug)]
pub struct Trace<'t> {
    taps: Vec<(String, Var<'t>)>,
}

impl Tape {
    /// Runs `record` and gives, beside its answer, every value that it named: by [`Var::tap`] or as the result of a
    /// [scope](Tape::scope). Models of this crate name what lies between their layers; [`Gpt`](crate::nn::Gpt) lists
    /// the names.
    ///
    /// Tracing adds operations to the tape only where a value would not exist otherwise (the scores of fused attention,
    /// say), and those run only if they are fetched. Without it `tap` and `scope` record nothing, so the same model code
    /// gives the same plan as without them.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder};
    /// use shadegrad::{Device, Tape};
    ///
    /// let device = Device::new()?;
    /// let mut builder = ParameterBuilder::new(42);
    /// let gpt = Gpt::new(&GptConfig { n_layers: 1, ..GptConfig::new(27) }, &mut builder)?;
    /// builder.build(&device)?;
    ///
    /// let tape = Tape::inference(&device);
    /// let tokens = tape.input([1, 3], &[5u32, 13, 13]);
    /// let (_logits, trace) = tape.trace(|| gpt.logits(tokens));
    /// let weights = trace.get("blocks.0.attention.weights").expect("every block attends");
    /// let weights = tape.fetch::<f32>(weights); // [1, 4, 3, 3]: batch, heads, queries, keys
    /// tape.run()?;
    /// assert_eq!(weights.get()?[..3], [1.0, 0.0, 0.0]); // The first token sees itself alone.
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If a trace is being taken already.
    #[track_caller]
    pub fn trace<'t, R>(&'t self, record: impl FnOnce() -> R) -> (R, Trace<'t>) {
        let before = self.names.replace(Some(Names::default()));
        assert!(before.is_none(), "trace: one is being taken already");
        let result = record();
        let names = self.names.take().expect("nobody else takes it");
        let named = names.taps.into_iter();
        let taps = named.map(|(name, id)| (name, self.var(id))).collect();
        (result, Trace { taps })
    }

    /// Whether a [trace](Tape::trace) is being taken.
    pub fn is_tracing(&self) -> bool {
        self.names.borrow().is_some()
    }

    /// Runs `record` and names its result. Names that are given within get `name` and a dot in front, so that models
    /// built of models have names like `blocks.0.attention.weights`. Does nothing else unless a trace is being taken.
    ///
    /// # Panics
    ///
    /// If another tape recorded the result.
    #[track_caller]
    pub fn scope<'t>(
        &'t self,
        name: impl fmt::Display,
        record: impl FnOnce() -> Var<'t>,
    ) -> Var<'t> {
        let mut names = self.names.borrow_mut();
        let outside = names.as_mut().map(|names| names.enter(&name));
        drop(names);
        let result = record();
        self.require_own("scope", result);
        let Some(outside) = outside else {
            return result;
        };
        if let Some(names) = self.names.borrow_mut().as_mut() {
            names.scope.truncate(outside);
        }
        result.tap(name)
    }
}

impl<'t> Var<'t> {
    /// Gives this value a name in the [trace](Tape::trace) that is being taken, if one is. Returns the value as it is.
    pub fn tap(self, name: impl fmt::Display) -> Var<'t> {
        if let Some(names) = self.tape.names.borrow_mut().as_mut() {
            names.taps.push((format!("{}{name}", names.scope), self.id));
        }
        self
    }
}

impl<'t> Trace<'t> {
    /// The value of that name; the last one, if there are several.
    pub fn get(&self, name: &str) -> Option<Var<'t>> {
        let mut latest = self.taps.iter().rev();
        latest.find(|(tap, _)| tap == name).map(|&(_, var)| var)
    }

    /// All names and values, in the order of recording.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Var<'t>)> {
        self.taps.iter().map(|(name, var)| (name.as_str(), *var))
    }
}
