//! Which types may cross threads, as docs/from-pytorch.md says.

use std::thread;

use shadegrad::gpu::Fetch;
use shadegrad::nn::{Gpt, GptConfig, Linear, Parameter, ParameterBuilder, Parameters};
use shadegrad::optim::{AdamW, Report, Sgd};
use shadegrad::tape::Var;
use shadegrad::{Device, Kernel, Tape, Tensor};

use crate::common::device;

#[test]
fn what_lasts_may_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Device>();
    shared::<Tensor>();
    shared::<Kernel>();
    shared::<Parameter>();
    shared::<Parameters>();
    shared::<Linear>();
    shared::<Gpt>();
    shared::<AdamW>();
    shared::<Sgd>();
    shared::<shadegrad::Error>();
}

/// Compiles only while a type is not `Send`: otherwise it could not tell which of the two is meant.
macro_rules! assert_not_send {
    ($($ty:ty),*) => {$({
        trait Ambiguous<A> {
            fn which() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        impl<T: ?Sized + Send> Ambiguous<u8> for T {}
        <$ty as Ambiguous<_>>::which();
    })*};
}

#[test]
fn what_a_tape_gives_stays_on_its_thread() {
    assert_not_send!(Tape, Var<'static>, Fetch<f32>, Report);
}

/// Two threads run tapes on one device and one model, and each gets what it would get alone.
#[test]
fn threads_share_a_device_and_a_model() {
    let mut builder = ParameterBuilder::new(7);
    let config = GptConfig {
        n_layers: 1,
        ..GptConfig::new(11)
    };
    let gpt = Gpt::new(&config, &mut builder).unwrap();
    // The device of the tests is each thread's own.
    let device = device();
    builder.build(device).unwrap();
    let logits = |first: u32| {
        let tape = Tape::inference(device);
        let logits = tape.fetch::<f32>(gpt.logits(tape.input([1, 3], &[first, 2, 3])));
        tape.run().unwrap();
        logits.get().unwrap()
    };
    let alone = [logits(1), logits(4)];
    let together = thread::scope(|scope| {
        let other = scope.spawn(|| (0..3000).map(|_| logits(4)).collect::<Vec<_>>());
        let own: Vec<_> = (0..3000).map(|_| logits(1)).collect();
        [own, other.join().unwrap()]
    });
    for (expected, all) in alone.iter().zip(&together) {
        assert!(all.iter().all(|logits| logits == expected));
    }
}
