//! Batches in shuffled order.

use shadegrad::data::Shuffle;

#[test]
fn every_epoch_has_all_indices_in_another_order() {
    let mut shuffle = Shuffle::new(12, 3, 7);
    let mut epoch = |number: u64| {
        let steps = 4 * number..4 * number + 4;
        let batches = steps.map(|step| shuffle.batch(step).to_vec());
        batches.collect::<Vec<_>>().concat()
    };
    let (first, second) = (epoch(0), epoch(1));
    assert_ne!(first, second);
    assert_eq!(first, epoch(0));
    for mut order in [first, second] {
        order.sort_unstable();
        assert_eq!(order, (0..12).collect::<Vec<_>>());
    }
}

#[test]
#[should_panic(expected = "batches of 4 out of 3, expected 1 to 3")]
fn batches_larger_than_the_data_are_a_bug() {
    Shuffle::new(3, 4, 0);
}
