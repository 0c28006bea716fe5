//! Operations on halves: value and gradient, in the middle of a graph, with `f16` in kernels and with pairs in words.

mod operations;

use shadegrad::tape::Precision;
use shadegrad::{DType, Tape, f16};

use crate::common::{assert_close, devices};

#[test]
fn tensors_come_and_go() {
    for device in devices() {
        for count in [1, 2, 3, 7, 64, 1001] {
            let values: Vec<f16> = (0..count)
                .map(|i| f16::from_f32(i as f32 / 7.0 - 3.0))
                .collect();
            let tensor = shadegrad::Tensor::new(device, [count], &values).unwrap();
            assert_eq!(tensor.to_vec::<f16>().unwrap(), values);
            let tape = Tape::inference(device);
            let x = tape.tensor(&tensor);
            let same = tape.fetch::<f16>(x);
            let wide = tape.fetch::<f32>(x.cast(DType::F32));
            let doubled = tape.fetch::<f16>(x + x);
            let from_host = tape.fetch::<f16>(tape.input([count], &values) * 1.0);
            let last = tape.fetch::<f16>(x.slice(0, count - 1..count));
            tape.run().unwrap();
            assert_eq!(same.get().unwrap(), values);
            assert_eq!(from_host.get().unwrap(), values);
            assert_eq!(last.get().unwrap(), values[count - 1..]);
            let widened: Vec<f32> = values.iter().map(|x| x.to_f32()).collect();
            assert_eq!(wide.get().unwrap(), widened);
            let twice: Vec<f16> = widened.iter().map(|x| f16::from_f32(2.0 * x)).collect();
            assert_eq!(doubled.get().unwrap(), twice);
        }
    }
}

#[test]
fn mixed_tapes_take_and_give_halves() {
    for device in devices() {
        let tape = Tape::training(device);
        tape.set_precision(Precision::Mixed);
        let x = tape.variable([4, 4], &[0.5; 16]);
        let w = tape.variable([4, 4], &[0.25; 16]);
        let y = x.matmul(w).gelu();
        assert_eq!(y.dtype(), DType::F16);
        let z = y.matmul(w) + x;
        assert_eq!(z.dtype(), DType::F32);
        let gradients = tape.backward(z.mean_all());
        let gradient = gradients.of(w).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        let gradient = tape.fetch::<f32>(gradient);
        tape.run().unwrap();
        // All elements are equal: with `g` for GELU at ½, `4·g/16` from the second product and `4·½·g′/16` from the first.
        let (g, slope) = (0.345_731, 0.867_495);
        let expected = [g / 4.0 + slope / 8.0; 16];
        assert_close("gradient", &gradient.get().unwrap(), &expected, 1e-3, 0.0);
    }
}
