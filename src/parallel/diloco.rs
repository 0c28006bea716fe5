//! Averages of what ranks have learnt, every so many steps of their own: for slow networks.

use serde_json::{Value, json};

use super::world::World;
use crate::error::{Error, Result, require};
use crate::gpu::{DType, Tensor};
use crate::nn::{FlatTensors, Parameter, Parameters};
use crate::optim::{Optimizer, Update};
use crate::tape::{Tape, Var};

/// Settings of the outer step of [`DiLoCo`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiLoCoConfig {
    /// `η`, the outer learning rate.
    pub learning_rate: f32,
    /// `μ`, how much of the outer momentum is kept.
    pub momentum: f32,
}

impl Default for DiLoCoConfig {
    /// As the paper: 0.7 and 0.9.
    fn default() -> DiLoCoConfig {
        DiLoCoConfig {
            learning_rate: 0.7,
            momentum: 0.9,
        }
    }
}

impl DiLoCoConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the learning rate is no positive number, or the momentum
    /// outside 0 ≤ μ < 1.
    pub fn validate(&self) -> Result<()> {
        let (rate, momentum) = (self.learning_rate, self.momentum);
        let sound = rate.is_finite() && rate > 0.0;
        require(sound, "learning_rate", rate, "a positive number")?;
        let sound = (0.0..1.0).contains(&momentum);
        require(sound, "momentum", momentum, "0 ≤ momentum < 1")
    }
}

/// Local steps of an inner optimizer `O` on each of `N` ranks, which [`DiLoCo::synchronise`] averages by an outer step with
/// Nesterov momentum: Douillard et al., *DiLoCo: Distributed Low-Communication Training of Language Models* (2023),
/// [arXiv 2311.08105](https://arxiv.org/abs/2311.08105), computed as PyTorch's SGD does.
///
/// ```text
/// Δ ← (1/N) · Σ (a − pᵣ)              over the ranks r, in their order; a is the anchor
/// u ← μ · u + Δ
/// a ← a − η · (Δ + μ · u)
/// pᵣ ← a                              on all ranks
/// ```
///
/// The anchor is what the parameters were after the last synchronisation. The inner optimizer's moments are averaged, too, where
/// the paper leaves each rank its own: so all ranks hold the same bits after a synchronisation, one checkpoint holds all that
/// there is, and any number of ranks can go on from it. The [loss scale](crate::optim::LossScale) becomes that of the rank
/// which scales least. All ranks count alike, whatever their shares of the batches.
///
/// Between synchronisations it is the inner optimizer, and the ranks don't know of one another. Anchor and outer momentum
/// take 8 bytes a parameter, and a synchronisation, for its time, as much as the largest of the
/// [flat tensors](crate::nn::Parameters::segments). A checkpoint holds the outer momentum as a further moment,
/// `outer_momentum`; it is to be written after a synchronisation, when anchor and parameters are the same.
///
/// ```no_run
/// # fn main() -> shadegrad::Result<()> {
/// # use shadegrad::nn::{Init, ParameterBuilder};
/// use shadegrad::optim::{AdamW, AdamWConfig, Optimizer};
/// use shadegrad::parallel::{DiLoCo, DiLoCoConfig, World};
/// use shadegrad::{Device, Tape};
///
/// let world = World::new();
/// let device = Device::new()?;
/// # let mut builder = ParameterBuilder::new(1);
/// # let x = builder.parameter("x", [2], Init::Ones);
/// # let parameters = builder.build(&device)?;
/// let inner = AdamW::new(&parameters, AdamWConfig::default())?;
/// let mut optimizer = DiLoCo::new(inner, DiLoCoConfig::default())?;
/// for step in 0..1000 {
///     let tape = Tape::training(&device);
///     // The mean loss of the rank's own rows.
///     # let loss = x.on(&tape).powi(2.0).sum_all();
///     optimizer.step(&tape, loss, 1e-3);
///     tape.run()?;
///     if (step + 1) % 50 == 0 {
///         optimizer.synchronise(&world)?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DiLoCo<O> {
    inner: O,
    config: DiLoCoConfig,
    anchor: FlatTensors,
    momentum: FlatTensors,
    /// Whether there has been a step since the last synchronisation: before the first, the anchor is taken.
    has_anchor: bool,
}

impl<O: Optimizer> DiLoCo<O> {
    /// Begins from the inner optimizer's parameters, which are the same on all ranks, with an outer momentum of zero.
    ///
    /// # Errors
    ///
    /// Those of [`DiLoCoConfig::validate`]; [`Error::InvalidArgument`] if
    /// [groups](crate::optim::ParameterGroups) freeze a parameter, [`Error::OutOfMemory`].
    pub fn new(inner: O, config: DiLoCoConfig) -> Result<DiLoCo<O>> {
        config.validate()?;
        // There are no moments for it, and there would be an outer one.
        let groups = &inner.settings()["groups"];
        let mut names = inner.parameters().iter().map(Parameter::name);
        if let Some(name) = names.find(|name| groups[name][0] == 0.0) {
            let expected = "parameters that are all trained: describe the others to a ParameterBuilder that is frozen";
            return Err(Error::invalid(
                format!("`{name}`"),
                "frozen by its group",
                expected,
            ));
        }
        Ok(DiLoCo {
            anchor: inner.parameters().mirror()?,
            momentum: inner.parameters().mirror()?,
            inner,
            config,
            has_anchor: false,
        })
    }

    /// The settings of the outer step.
    pub fn config(&self) -> DiLoCoConfig {
        self.config
    }

    /// What makes the local steps.
    pub fn inner(&self) -> &O {
        &self.inner
    }

    /// The outer step. Collective, as the methods of [`World`]; the tapes of the local steps have run. Afterwards the state of
    /// all ranks is the same, to the bit. Where there has been no step since the last one, it does nothing.
    ///
    /// # Errors
    ///
    /// Those of [`World::sum`]; then there is nothing to go on from but a checkpoint.
    ///
    /// # Panics
    ///
    /// If gradients have been [accumulated](Optimizer::accumulate) for an unfinished step.
    #[track_caller]
    pub fn synchronise(&mut self, world: &World) -> Result<()> {
        assert!(
            self.inner.accumulated().is_none(),
            "synchronise: a step is unfinished: make it by Optimizer::step or step_accumulated before"
        );
        if !self.has_anchor {
            return Ok(());
        }
        let parameters = self.inner.parameters().segments();
        let moments: Vec<&Tensor> = self
            .inner
            .state()
            .into_iter()
            .flat_map(|(_, flat)| flat.segments())
            .collect();
        let device = parameters[0].device();

        // In the parameters' place. Sums of differences round less than those of parameters.
        let tape = Tape::inference(device);
        for (parameter, anchor) in parameters.iter().zip(self.anchor.segments()) {
            tape.assign(parameter, tape.tensor(anchor) - tape.tensor(parameter));
        }
        tape.run()?;
        world.sum(parameters.iter().chain(moments.iter().copied()), DType::F32)?;

        let tape = Tape::inference(device);
        let share = tape.scalar(1.0 / world.size() as f32);
        let (rate, mu) = (
            tape.scalar(self.config.learning_rate),
            tape.scalar(self.config.momentum),
        );
        let outer = self.anchor.segments().iter().zip(self.momentum.segments());
        for (parameter, (anchor, momentum)) in parameters.iter().zip(outer) {
            // In place, one after the other: no further copies are needed.
            let mean = || tape.tensor(parameter) * share;
            tape.assign(momentum, tape.tensor(momentum) * mu + mean());
            let step = mean() + tape.tensor(momentum) * mu;
            tape.assign(parameter, tape.tensor(anchor) - step * rate);
        }
        for moment in moments {
            tape.assign(moment, tape.tensor(moment) * share);
        }
        tape.run()?;
        self.has_anchor = false;
        self.settle_loss_scale(world)
    }

    /// The smallest scale of all ranks, to be kept for longest, and the most skipped steps.
    fn settle_loss_scale(&self, world: &World) -> Result<()> {
        let Some((state, first)) = self.inner.loss_scale() else {
            return Ok(());
        };
        let all = world.gathered("the loss scales", &state.to_vec::<f32>()?);
        let of_ranks = |index: usize| all[index..].iter().copied().step_by(4);
        let least = |index| of_ranks(index).fold(f32::INFINITY, f32::min);
        state.write(&[least(0), least(1), of_ranks(2).fold(0.0, f32::max), first])
    }

    /// Keeps the parameters as they are before the first step.
    fn keep_anchor(&mut self, tape: &Tape) {
        if self.has_anchor || tape.is_refused() {
            return;
        }
        let parameters = self.inner.parameters().segments();
        for (anchor, parameter) in self.anchor.segments().iter().zip(parameters) {
            tape.assign(anchor, tape.tensor(parameter));
        }
        self.has_anchor = true;
    }
}

impl<O: Optimizer> Optimizer for DiLoCo<O> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    /// Those of the inner optimizer, and of the outer step under `outer`.
    fn settings(&self) -> Value {
        let (rate, momentum) = (self.config.learning_rate, self.config.momentum);
        let mut settings = self.inner.settings();
        settings["outer"] = json!({ "learning_rate": rate, "momentum": momentum });
        settings
    }

    fn parameters(&self) -> &Parameters {
        self.inner.parameters()
    }

    #[track_caller]
    fn step<'t>(&mut self, tape: &'t Tape, loss: Var<'t>, learning_rate: f32) -> Update<'t> {
        self.keep_anchor(tape);
        self.inner.step(tape, loss, learning_rate)
    }

    #[track_caller]
    fn accumulate<'t>(&mut self, tape: &'t Tape, loss: Var<'t>) -> Result<()> {
        self.inner.accumulate(tape, loss)
    }

    fn accumulated(&self) -> Option<&FlatTensors> {
        self.inner.accumulated()
    }

    #[track_caller]
    fn step_accumulated<'t>(
        &mut self,
        tape: &'t Tape,
        loss: Var<'t>,
        learning_rate: f32,
    ) -> Update<'t> {
        self.keep_anchor(tape);
        self.inner.step_accumulated(tape, loss, learning_rate)
    }

    fn steps(&self) -> u64 {
        self.inner.steps()
    }

    fn state(&self) -> Vec<(&'static str, &FlatTensors)> {
        let mut state = self.inner.state();
        state.push(("outer_momentum", &self.momentum));
        state
    }

    fn loss_scale(&self) -> Option<(&Tensor, f32)> {
        self.inner.loss_scale()
    }

    fn memory(&self) -> u64 {
        self.inner.memory() + self.anchor.bytes() + self.momentum.bytes()
    }

    /// Also forgets the local steps since the last synchronisation: the next one begins at what the parameters are now.
    fn resume(&mut self, steps: u64) {
        self.inner.resume(steps);
        self.has_anchor = false;
    }
}
