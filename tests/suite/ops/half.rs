//! Operations on halves: value and gradient, in the middle of a graph, with `f16` in kernels and with pairs in words.

use shadegrad::check::Check;
use shadegrad::tape::Precision;
use shadegrad::{DType, Tape, f16};

use crate::common::{Random, devices};

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
fn products_and_norms() {
    let mut random = Random::new(3);
    for device in devices() {
        let [m, k, n] = [5, 12, 7];
        let inputs = [
            ([m, k].into(), random.values(m * k, -1.0, 1.0)),
            ([k, n].into(), random.values(k * n, -1.0, 1.0)),
        ];
        let product = |v: &[Vec<f64>]| -> Vec<f64> {
            let at = |i: usize| {
                (0..k)
                    .map(|d| v[0][i / n * k + d] * v[1][d * n + i % n])
                    .sum()
            };
            (0..m * n).map(at).collect()
        };
        Check::HALF
            .gradient(device, &inputs, |v| v[0].matmul(v[1]), product)
            .unwrap();
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
        let fetched = tape.fetch::<f32>(gradient);
        println!("{}", tape.explain().unwrap());
        drop(fetched);
    }
}
