//! The engine on small graphs.
use shadegrad::{Device, Tape, Tensor};

#[test]
fn chain_and_gradient() {
    let device = Device::new().unwrap();
    println!("{}", device.description());
    for _ in 0..3 {
        let tape = Tape::training(&device);
        let x = tape.variable([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = tape.variable([3], &[0.5, -0.5, 1.0]);
        let y = ((x + b) * x).exp().log().transpose().reshape([6]) * 2.0;
        let loss = y.sum_all();
        let g = tape.backward(loss);
        let (gx, gb) = (g.of(x).unwrap(), g.of(b).unwrap());
        let (gx, gb, y) = (tape.fetch::<f32>(gx), tape.fetch::<f32>(gb), tape.fetch::<f32>(y));
        tape.run().unwrap();
        println!("{:?} {:?} {:?}", gx.get().unwrap(), gb.get().unwrap(), y.get().unwrap());
        println!("{:?}", device.stats());
    }
    let state = Tensor::zeros(&device, [3], shadegrad::DType::F32).unwrap();
    let tape = Tape::inference(&device);
    let s = tape.tensor(&state);
    tape.assign(&state, s + 1.5);
    tape.run().unwrap();
    assert_eq!(state.to_vec::<f32>().unwrap(), [1.5; 3]);
}
