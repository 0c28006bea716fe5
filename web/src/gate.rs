//! Where a training waits: until it is told to go on, and while somebody needs its model to stay as it is.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// What a training is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Pause,
    /// Steps.
    Run,
    /// One step, and what follows it.
    Step,
    /// End.
    End,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    UnderWay,
    Ended,
}

/// The gate that a training passes before each step and each batch of an evaluation.
pub struct Gate {
    mode: Cell<Mode>,
    place: Cell<Place>,
    holds: Cell<usize>,
    wakers: RefCell<Vec<Waker>>,
}

impl Gate {
    /// The gate of a training that waits.
    pub fn new() -> Gate {
        Gate {
            mode: Cell::new(Mode::Pause),
            place: Cell::new(Place::Waiting),
            holds: Cell::new(0),
            wakers: RefCell::default(),
        }
    }

    /// What the training is to do.
    pub fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// Tells the training what to do; there is no way back from [`Mode::End`].
    pub fn set(&self, mode: Mode) {
        if self.mode.get() != Mode::End {
            self.mode.set(mode);
            self.wake();
        }
    }

    /// Whether the training would wait here, or end.
    pub fn is_closed(&self) -> bool {
        !matches!(self.mode.get(), Mode::Run | Mode::Step) || self.holds.get() > 0
    }

    /// Waits while the gate is closed; whether the training is to go on.
    pub async fn pass(&self) -> bool {
        if self.is_closed() && self.mode.get() != Mode::End {
            self.move_to(Place::Waiting);
            self.until(|| self.mode.get() == Mode::End || !self.is_closed())
                .await;
            self.move_to(Place::UnderWay);
        }
        self.mode.get() != Mode::End
    }

    /// The training has begun.
    pub fn begin(&self) {
        self.move_to(Place::UnderWay);
    }

    /// The training has ended.
    pub fn end(&self) {
        self.mode.set(Mode::End);
        self.move_to(Place::Ended);
    }

    /// Ends the training, and waits until it has.
    pub async fn close(&self) {
        self.set(Mode::End);
        self.until(|| self.place.get() == Place::Ended).await;
    }

    /// Lets the training make one step, and waits until it has.
    pub async fn step(&self) {
        self.set(Mode::Step);
        self.until(|| self.mode.get() != Mode::Step).await;
        self.rest().await;
    }

    /// Whether the training waits or has ended.
    pub fn is_at_rest(&self) -> bool {
        self.place.get() != Place::UnderWay
    }

    /// Waits until the training waits or has ended.
    pub async fn rest(&self) {
        self.until(|| self.is_at_rest()).await;
    }

    /// Closes the gate until what this gives is dropped, and waits until the training waits there or has ended.
    pub async fn hold(&self) -> Hold<'_> {
        self.holds.set(self.holds.get() + 1);
        let hold = Hold(self);
        self.rest().await;
        hold
    }

    fn move_to(&self, place: Place) {
        self.place.set(place);
        self.wake();
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        poll_fn(|context| {
            if holds() {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn wake(&self) {
        let wakers = self.wakers.take();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A gate that is kept closed.
pub struct Hold<'a>(&'a Gate);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.holds.set(self.0.holds.get() - 1);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use super::{Gate, Mode};

    fn is_done(future: Pin<&mut impl Future>) -> bool {
        let context = &mut Context::from_waker(Waker::noop());
        future.poll(context).is_ready()
    }

    #[test]
    fn a_training_waits_goes_on_and_ends() {
        let (gate, steps) = (Gate::new(), Cell::new(0));
        let mut training = pin!(async {
            while gate.pass().await {
                gate.begin();
                steps.set(steps.get() + 1);
                // Something that takes until the next poll.
                let mut is_over = false;
                std::future::poll_fn(|_| match std::mem::replace(&mut is_over, true) {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                })
                .await;
                if gate.mode() == Mode::Step {
                    gate.set(Mode::Pause);
                }
            }
            gate.end();
        });
        assert!(!is_done(training.as_mut()) && steps.get() == 0);

        let mut step = pin!(gate.step());
        assert!(!is_done(step.as_mut()));
        assert!(!is_done(training.as_mut()) && steps.get() == 1);
        assert!(!is_done(step.as_mut()), "it is under way");
        assert!(!is_done(training.as_mut()) && steps.get() == 1);
        assert!(is_done(step.as_mut()));

        gate.set(Mode::Run);
        assert!(!is_done(training.as_mut()) && steps.get() == 2);
        let mut hold = Box::pin(gate.hold());
        assert!(!is_done(hold.as_mut()), "a step is under way");
        assert!(!is_done(training.as_mut()) && steps.get() == 2);
        let context = &mut Context::from_waker(Waker::noop());
        let std::task::Poll::Ready(held) = hold.as_mut().poll(context) else {
            panic!("the training rests");
        };
        assert!(!is_done(training.as_mut()) && steps.get() == 2);
        drop(held);
        assert!(!is_done(training.as_mut()) && steps.get() == 3);

        let mut close = pin!(gate.close());
        assert!(!is_done(close.as_mut()));
        assert!(is_done(training.as_mut()) && steps.get() == 3);
        assert!(is_done(close.as_mut()));
        gate.set(Mode::Run);
        assert!(gate.mode() == Mode::End && gate.is_closed());
    }
}
