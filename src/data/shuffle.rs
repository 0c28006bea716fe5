//! Batches in shuffled order.

use crate::rng;

/// Batches of indices into a data set, which in every epoch come in another order, each index at most once.
///
/// Batch number `step` is a function of the seed and the step, so that a run which is resumed goes on with the batches that it
/// would have had. Batches are of one size, for which there is one plan: what is left at the end of an epoch is left out of it.
///
/// ```
/// use shadegrad::data::Shuffle;
///
/// let mut shuffle = Shuffle::new(10, 4, 42);
/// assert_eq!(shuffle.batches_per_epoch(), 2);
/// let first = shuffle.batch(0).to_vec();
/// assert!(shuffle.batch(1).iter().all(|index| *index < 10 && !first.contains(index)));
/// assert_eq!(shuffle.batch(0), first);
/// ```
#[derive(Clone, Debug)]
pub struct Shuffle {
    batch_size: usize,
    seed: u64,
    /// The epoch whose order is at hand.
    epoch: Option<u64>,
    order: Vec<usize>,
}

impl Shuffle {
    /// Batches of `batch_size` out of `count`.
    ///
    /// # Panics
    ///
    /// If `batch_size` is not 1 to `count`.
    #[track_caller]
    pub fn new(count: usize, batch_size: usize, seed: u64) -> Shuffle {
        assert!(
            (1..=count).contains(&batch_size),
            "shuffle: batches of {batch_size} out of {count}, expected 1 to {count}"
        );
        Shuffle {
            batch_size,
            seed,
            epoch: None,
            order: vec![0; count],
        }
    }

    /// How many batches there are in an epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        (self.order.len() / self.batch_size) as u64
    }

    /// The indices of batch number `step`, counted from 0 over all epochs.
    pub fn batch(&mut self, step: u64) -> &[usize] {
        let epoch = step / self.batches_per_epoch();
        if self.epoch.replace(epoch) != Some(epoch) {
            self.order = (0..self.order.len()).collect();
            rng::shuffle(
                &mut self.order,
                &mut rng::keyed(self.seed, "shuffle", epoch),
            );
        }
        let start = (step % self.batches_per_epoch()) as usize * self.batch_size;
        &self.order[start..start + self.batch_size]
    }
}
