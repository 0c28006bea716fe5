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
        let (gx, gb, y) = (
            tape.fetch::<f32>(gx),
            tape.fetch::<f32>(gb),
            tape.fetch::<f32>(y),
        );
        tape.run().unwrap();
        println!(
            "{:?} {:?} {:?}",
            gx.get().unwrap(),
            gb.get().unwrap(),
            y.get().unwrap()
        );
        println!("{:?}", device.stats());
    }
    let state = Tensor::zeros(&device, [3], shadegrad::DType::F32).unwrap();
    let tape = Tape::inference(&device);
    let s = tape.tensor(&state);
    tape.assign(&state, s + 1.5);
    tape.run().unwrap();
    assert_eq!(state.to_vec::<f32>().unwrap(), [1.5; 3]);
}

fn reference(m: usize, n: usize, k: usize, a: &[f32], b: &[f32]) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k)
                .map(|x| a[i * k + x] as f64 * b[x * n + j] as f64)
                .sum::<f64>() as f32;
        }
    }
    c
}

#[test]
fn matmuls() {
    let device = Device::new().unwrap();
    for (m, n, k) in [
        (512, 96, 32),
        (512, 170, 32),
        (32, 85, 512),
        (1, 1, 1),
        (33, 27, 85),
        (5, 3, 7),
        (64, 64, 64),
        (1, 40, 9),
        (40, 1, 9),
    ] {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let a: Vec<f32> = (0..m * k)
                .map(|i| ((i * 7919 % 1013) as f32) / 500.0 - 1.0)
                .collect();
            let b: Vec<f32> = (0..n * k)
                .map(|i| ((i * 104729 % 2017) as f32) / 1000.0 - 1.0)
                .collect();
            let expected = reference(m, n, k, &a, &b);
            let tape = Tape::training(&device);
            let at: Vec<f32> = if ta {
                (0..m * k).map(|i| a[(i % m) * k + i / m]).collect()
            } else {
                a.clone()
            };
            let bt: Vec<f32> = if tb {
                (0..n * k).map(|i| b[(i % k) * n + i / k]).collect()
            } else {
                b.clone()
            };
            let av = if ta {
                tape.input([k, m], &at).transpose()
            } else {
                tape.input([m, k], &at)
            };
            let bv = if tb {
                tape.input([n, k], &bt).transpose()
            } else {
                tape.input([k, n], &bt)
            };
            let bias = tape.input([n], &vec![1.0f32; n]);
            let c = av.matmul(bv);
            let d = tape.fetch::<f32>((c + bias) * 2.0);
            let c = tape.fetch::<f32>(c);
            tape.run().unwrap();
            let worst = c
                .get()
                .unwrap()
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            let worst2 = d
                .get()
                .unwrap()
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - 2.0 * b - 2.0).abs())
                .fold(0.0, f32::max);
            println!("{m} {n} {k} {ta} {tb}: {worst} {worst2}");
            assert!(worst < 1e-3 && worst2 < 2e-3);
        }
    }
    println!("{:?}", device.stats());
}
