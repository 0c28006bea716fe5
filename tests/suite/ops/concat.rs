//! Concatenation, stacking, and reading by index along an axis.

use shadegrad::{Shape, Tape, Var, check};

use crate::common::{Random, device, portable_device, positions};

/// Row-major index of a position.
pub fn index(shape: Shape, position: &[usize]) -> usize {
    (0..shape.rank()).fold(0, |index, axis| index * shape.dim(axis) + position[axis])
}

/// The inputs, of shapes that differ in `axis` alone, one after the other.
pub fn concatenated<T: Copy>(inputs: &[(Shape, Vec<T>)], axis: usize) -> Vec<T> {
    let extent = inputs.iter().map(|(shape, _)| shape.dim(axis)).sum();
    let output = inputs[0].0.with_dim(axis, extent);
    positions(output)
        .map(|mut position| {
            let mut input = 0;
            while position[axis] >= inputs[input].0.dim(axis) {
                position[axis] -= inputs[input].0.dim(axis);
                input += 1;
            }
            let (shape, values) = &inputs[input];
            values[index(*shape, &position)]
        })
        .collect()
}

#[test]
fn concat_over_drawn_shapes() {
    let mut random = Random::new(1);
    for device in [device(), portable_device()] {
        for count in 1..=4 {
            let rank = 1 + random.below(3);
            let shape = random.shape_of_rank(rank, 5);
            let axis = random.below(shape.rank());
            let inputs: Vec<(Shape, Vec<f32>)> = (0..count)
                .map(|_| {
                    let shape = shape.with_dim(axis, 1 + random.below(4));
                    (shape, random.values(shape.elements(), -1.0, 1.0))
                })
                .collect();
            let oracle = |x: &[Vec<f64>]| {
                let x = x.iter().zip(&inputs);
                let x: Vec<_> = x.map(|(x, (shape, _))| (*shape, x.clone())).collect();
                concatenated(&x, axis)
            };
            let _ = check::gradient(device, &inputs, |x| Var::concat(x, axis), oracle).unwrap();
            let _ =
                check::second_gradient(device, &inputs, |x| Var::concat(x, axis), oracle).unwrap();
        }
    }
}

#[test]
fn stack_adds_an_axis() {
    let mut random = Random::new(2);
    for axis in 0..=2 {
        let inputs = [0, 1, 2].map(|_| (Shape::from([2, 3]), random.values(6, -1.0, 1.0)));
        let _ = check::gradient(
            device(),
            &inputs,
            |x| Var::stack(x, axis),
            |x| {
                let mut dims = vec![2, 3];
                dims.insert(axis, 1);
                let x: Vec<_> = x.iter().map(|x| (Shape::from(&dims), x.clone())).collect();
                concatenated(&x, axis)
            },
        )
        .unwrap();
    }
}

#[test]
fn one_tensor_many_times_and_integers() {
    let tape = Tape::training(device());
    let x = tape.variable([2], &[1.0, 2.0]);
    let y = Var::concat(&[x, x.detach(), x], 0);
    let weights = tape.input([6], &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0f32]);
    let gradient = tape.backward((y * weights).sum_all()).of(x).unwrap();
    let ids = tape.input([2, 2], &[1, 2, 3, 4u32]);
    let joined = Var::concat(&[ids, ids.transpose()], 1);
    let (gradient, joined) = (tape.fetch::<f32>(gradient), tape.fetch::<u32>(joined));
    tape.run().unwrap();
    assert_eq!(gradient.get().unwrap(), [17.0, 34.0]);
    assert_eq!(joined.get().unwrap(), [1, 2, 1, 3, 3, 4, 2, 4]);
}

#[test]
fn gather_over_drawn_shapes() {
    let mut random = Random::new(3);
    for device in [device(), portable_device()] {
        for _ in 0..6 {
            let rank = 1 + random.below(3);
            let shape = random.shape_of_rank(rank, 5);
            let axis = random.below(rank);
            // Other axes may be shorter in the indices.
            let extents: Vec<usize> = (0..rank)
                .map(|a| match a == axis {
                    true => 1 + random.below(6),
                    false => 1 + random.below(shape.dim(a)),
                })
                .collect();
            let picked = Shape::from(&extents);
            let ids = random.indices(picked.elements(), shape.dim(axis));
            let inputs = [(shape, random.values(shape.elements(), -1.0, 1.0))];
            let oracle = |x: &[Vec<f64>]| {
                positions(picked)
                    .zip(&ids)
                    .map(|(mut position, &id)| {
                        position[axis] = id as usize;
                        x[0][index(shape, &position)]
                    })
                    .collect()
            };
            let _ = check::gradient(
                device,
                &inputs,
                |x| x[0].gather(axis, x[0].tape().input(picked, &ids)),
                oracle,
            )
            .unwrap();
            let _ = check::second_gradient(
                device,
                &inputs,
                |x| x[0].gather(axis, x[0].tape().input(picked, &ids)),
                oracle,
            )
            .unwrap();
        }
    }
}

#[test]
fn index_select_over_drawn_shapes() {
    let mut random = Random::new(4);
    for _ in 0..6 {
        let rank = 1 + random.below(3);
        let shape = random.shape_of_rank(rank, 5);
        let axis = random.below(rank);
        let n = 1 + random.below(7);
        let ids = random.indices(n, shape.dim(axis));
        let inputs = [(shape, random.values(shape.elements(), -1.0, 1.0))];
        let _ = check::gradient(
            device(),
            &inputs,
            |x| x[0].index_select(axis, x[0].tape().input([n], &ids)),
            |x| {
                positions(shape.with_dim(axis, n))
                    .map(|mut position| {
                        position[axis] = ids[position[axis]] as usize;
                        x[0][index(shape, &position)]
                    })
                    .collect()
            },
        )
        .unwrap();
    }
}

#[test]
fn more_groups_than_one_dimension_holds() {
    let n = 65_536 * 64 + 5;
    let tape = Tape::training(device());
    let x = tape.input([n], &vec![1.0f32; n]);
    let y = tape.variable([3], &[2.0, 3.0, 4.0]);
    let joined = Var::concat(&[y, x, y], 0);
    let last = tape.fetch::<f32>(joined.slice(0, n + 2..n + 6));
    let ids: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
    let picked = y.gather(0, tape.input([n], &ids));
    let tail = tape.fetch::<f32>(picked.slice(0, n - 3..n));
    // The gradient is summed in several parts: how often each of 150,000 places was read.
    let few = y.gather(0, tape.input([150_000], &ids[..150_000]));
    let counts = tape.backward(few.sum_all()).of(y).unwrap();
    let counts = tape.fetch::<f32>(counts);
    tape.run().unwrap();
    assert_eq!(counts.get().unwrap(), [50_000.0; 3]);
    assert_eq!(last.get().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    let expected = [n - 3, n - 2, n - 1].map(|i| [2.0, 3.0, 4.0][i % 3]);
    assert_eq!(tail.get().unwrap(), expected);
}

#[test]
#[should_panic(expected = "concat along axis 0: F32 [2, 3] and F32 [2, 4] do not fit together")]
fn other_extents_must_agree() {
    let tape = Tape::inference(device());
    let [x, y] = [3, 4].map(|n| tape.input([2, n], &vec![0.0f32; 2 * n]));
    Var::concat(&[x, y], 0);
}

#[test]
#[should_panic(expected = "gather along axis 1: F32 [2, 3] and indices U32 [3, 1] do not fit")]
fn gathered_shapes_must_fit() {
    let tape = Tape::inference(device());
    let x = tape.input([2, 3], &[0.0f32; 6]);
    x.gather(1, tape.input([3, 1], &[0u32; 3]));
}
