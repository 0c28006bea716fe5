//! Into how many dispatches a problem is cut, so that no invocation's loops go round more often than the device lets them.

use super::problem::Problem;

/// Iterations of an invocation's loops over its own rows: loads and stores.
const OWN_ITERATIONS: usize = 64;

/// Steps of a dispatch, of as many as are allowed: tests make do with fewer.
#[cfg(not(test))]
fn steps_of(allowed: usize) -> usize {
    allowed
}

#[cfg(test)]
use tests::steps_of;

/// Rows of the other side that a dispatch visits, and whether it is the first and the last to do so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub begin: usize,
    pub end: usize,
    pub is_first: bool,
    pub is_last: bool,
    /// The most iterations of an invocation's loops.
    pub iterations: usize,
}

/// How an invocation visits rows of the other side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visits {
    /// Rows that it owns, together with its workgroup.
    pub own: usize,
    /// Rows of the other side.
    pub others: usize,
    /// How many of them come at once, and the iterations that takes.
    pub step: usize,
    pub iterations: usize,
    /// How often it goes through all of them.
    pub times: usize,
}

impl Visits {
    /// The dispatches: usually one. An invocation's loops may go round `most` times.
    pub fn parts(&self, problem: &Problem, most: usize) -> Vec<Part> {
        // A window hides all but as many.
        let seen = problem.span() as usize + self.own + self.step;
        let visited = self.others.min(seen);
        let allowed = ((most - OWN_ITERATIONS - 1) / self.times).saturating_sub(2);
        // Where not even one is allowed, the planner says so.
        let steps = steps_of(allowed / self.iterations).max(1);
        let length = match steps.saturating_mul(self.step) {
            fewer if fewer < visited => fewer,
            _ => self.others,
        };
        let steps = visited.min(length).div_ceil(self.step);
        let iterations = OWN_ITERATIONS + 1 + self.times * (2 + steps * self.iterations);
        let part = |begin: usize| Part {
            begin,
            end: begin + length,
            is_first: begin == 0,
            is_last: begin + length >= self.others,
            iterations,
        };
        (0..self.others).step_by(length).map(part).collect()
    }
}

#[cfg(test)]
#[path = "../../../tests/unit/ops/attention/parts.rs"]
mod tests;
