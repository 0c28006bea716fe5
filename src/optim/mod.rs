//! Optimizers and learning-rate schedules.

mod schedule;

pub use schedule::Schedule;
