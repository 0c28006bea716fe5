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

    /// Whether the training would wait here.
    pub fn is_closed(&self) -> bool {
        self.mode.get() == Mode::Pause || self.holds.get() > 0
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
