//! The training loop. It is that of `examples/common/training.rs`, but for where it waits, and for whom it tells.

use std::rc::Rc;

use serde_json::{Value, json};
use shadegrad::optim::Metrics;

use crate::common::Result;
use crate::common::course::{Options, Pace};
use crate::common::steps::{OUTSTANDING, Recorder, UnderWay, rounded};
use crate::gate::Mode;
use crate::messages::{self, post};
use crate::session::Session;

/// Results may arrive several at once. So those of so many milliseconds are told together, and each gets the mean time.
const STRETCH_MS: f64 = 100.0;

/// Trains to the end, telling the page about it. Nothing happens before the gate is opened.
pub async fn train(session: Rc<Session>) {
    let outcome = steps(&session).await;
    let step = session.step();
    session.gate.end();
    match outcome {
        Ok(true) => {
            post(&json!({ "event": "finished", "step": step }));
            tell_state(&session);
        }
        // Another model has been opened.
        Ok(false) => {}
        Err(error) => messages::failed(&*error),
    }
}

/// Tells whether steps are made.
pub fn tell_state(session: &Session) {
    let is_running = matches!(session.gate.mode(), Mode::Run | Mode::Step);
    post(&json!({ "event": "state", "running": is_running, "step": session.step() }));
}

/// What the loop keeps from step to step.
struct State {
    under_way: UnderWay,
    /// Steps whose results have arrived, but not their time.
    landed: Vec<Metrics>,
    /// In a step.
    tokens: usize,
    /// When the stretch of steps began that have not been told about.
    began: f64,
}

/// Whether it came to the end.
async fn steps(session: &Session) -> Result<bool> {
    let gate = &session.gate;
    if !gate.pass().await {
        return Ok(false);
    }
    gate.begin();
    let start = session.step();
    let model = session.model();
    let recorder = session.recorder(&model);
    let Options {
        total,
        eval_interval,
        eval_iters,
        final_eval_iters,
        ..
    } = recorder.options;
    let mut state = State {
        under_way: UnderWay::default(),
        landed: Vec::new(),
        tokens: 0,
        began: 0.0,
    };
    // What can't be evaluated is found before the training, not after it.
    recorder.sound_loss(start).await?;
    state.began = messages::now();
    for step in start..total {
        // The first step of `Mode::Step` is the one before this.
        if step > start && gate.mode() == Mode::Step {
            gate.set(Mode::Pause);
        }
        if gate.is_closed() {
            state.land(&recorder.options, 0).await?;
            if !gate.pass().await {
                return Ok(false);
            }
            state.began = messages::now();
        }
        let launched = recorder.launch(
            &mut *session.optimizer.borrow_mut(),
            &mut state.under_way,
            step,
        );
        state.tokens = launched?;
        // Waiting for the first one, which compiles the kernels, keeps its time apart from the others'.
        let most = if step == start { 0 } else { OUTSTANDING };
        state.land(&recorder.options, most).await?;
        let done = step + 1;
        if eval_interval > 0 && done.is_multiple_of(eval_interval) && done < total {
            state.land(&recorder.options, 0).await?;
            if !evaluate(session, &recorder, eval_iters).await? {
                return Ok(false);
            }
            state.began = messages::now();
        }
    }
    state.land(&recorder.options, 0).await?;
    evaluate(session, &recorder, final_eval_iters).await
}

/// Tells the losses over both splits, and samples; whether that was wanted to the end.
async fn evaluate(session: &Session, recorder: &Recorder<'_>, batches: usize) -> Result<bool> {
    let step = session.step();
    let goes_on = async |_, _, _| session.gate.pass().await;
    let Some(losses) = recorder.evaluate(step, batches, goes_on).await? else {
        return Ok(false);
    };
    let samples = session.samples().await?;
    post(&json!({
        "event": "evaluation",
        "step": step,
        "train": losses.train,
        "test": losses.test,
        "samples": samples,
    }));
    Ok(session.gate.mode() != Mode::End)
}

impl State {
    /// Takes in the results that have arrived, waits until no more than `most` are outstanding, and tells about them if it
    /// is time.
    async fn land(&mut self, options: &Options, most: usize) -> Result<()> {
        let outcome = loop {
            match self.under_way.take(most).await {
                Ok(Some(results)) => self.landed.push(results),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let now = messages::now();
        let is_due = most == 0 || outcome.is_err() || now - self.began > STRETCH_MS;
        if is_due && !self.landed.is_empty() {
            self.tell(options, now);
        }
        outcome
    }

    /// Tells about the steps whose results have arrived. The time since the last ones is theirs together.
    fn tell(&mut self, options: &Options, now: f64) {
        let pace = Pace {
            steps: self.landed.len(),
            ms: now - self.began,
            tokens: self.landed.len() * self.tokens,
        };
        self.began = now;
        let records = self.landed.drain(..).map(|results| {
            json!({
                "step": results.step,
                "loss": results.loss,
                "gradNorm": results.grad_norm,
                "lr": options.lr(results.step - 1),
                "stepMs": rounded(pace.step_ms()),
                "lossScale": results.loss_scale,
                "skipped": results.skipped,
            })
        });
        post(&json!({
            "event": "steps",
            "records": records.collect::<Vec<Value>>(),
            "tokensPerSecond": rounded(pace.tokens_per_second()),
        }));
    }
}
