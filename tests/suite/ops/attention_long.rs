//! Attention over more positions than scores would fit in memory for, against the same from single operations in slices.

use shadegrad::Tape;
use shadegrad::ops::attention::{Attention, attention};

use crate::common::{Random, assert_close_f32, device};

const POSITIONS: usize = 16_384;
const HEAD_DIM: usize = 8;
/// Queries of a slice, and where slices begin: at the start, in between, at a place of no tile's, and at the end.
const SLICE: usize = 128;
const STARTS: [usize; 4] = [0, 5_000, 8_191, POSITIONS - SLICE];

/// Output rows of the slices, then the gradients of queries, keys and values.
type Results = [Vec<f32>; 4];

/// The upstream gradient is zero but for the slices, so that these are all that gradients come from.
struct Problem {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    upstream: Vec<f32>,
}

fn fused(problem: &Problem) -> Results {
    let tape = Tape::training(device());
    let shape = [1, 1, POSITIONS, HEAD_DIM];
    let [q, k, v] = [&problem.q, &problem.k, &problem.v].map(|x| tape.variable(shape, x));
    let out = attention(q, k, v, None, &Attention::causal(1));
    let gradients = tape.backward_from(out, tape.input(shape, &problem.upstream));
    let [dq, dk, dv] = [q, k, v].map(|x| tape.fetch::<f32>(gradients.of(x).unwrap()));
    let out = tape.fetch::<f32>(out);
    tape.run().unwrap();
    let out = out.get().unwrap();
    let rows = STARTS
        .iter()
        .flat_map(|start| out[start * HEAD_DIM..(start + SLICE) * HEAD_DIM].to_vec());
    let [dq, dk, dv] = [dq, dk, dv].map(|x| x.get().unwrap());
    [rows.collect(), dq, dk, dv]
}

/// Scores, softmax and product, for the queries of one slice and the keys that they see.
fn in_slices(problem: &Problem) -> Results {
    let all = POSITIONS * HEAD_DIM;
    let mut results = [Vec::new(), vec![0.0; all], vec![0.0; all], vec![0.0; all]];
    for start in STARTS {
        let end = start + SLICE;
        let rows = start * HEAD_DIM..end * HEAD_DIM;
        let tape = Tape::training(device());
        let q = tape.variable([SLICE, HEAD_DIM], &problem.q[rows.clone()]);
        let [k, v] =
            [&problem.k, &problem.v].map(|x| tape.variable([end, HEAD_DIM], &x[..end * HEAD_DIM]));
        let mask: Vec<f32> = (0..SLICE * end)
            .map(|i| f32::from(i % end <= start + i / end))
            .collect();
        let scores = q.matmul(k.transpose()) * (HEAD_DIM as f32).sqrt().recip();
        let unseen = tape.full(scores.shape(), -1e30);
        let weights = tape
            .input([SLICE, end], &mask)
            .select(scores, unseen)
            .softmax();
        let out = weights.matmul(v);
        let upstream = tape.input([SLICE, HEAD_DIM], &problem.upstream[rows.clone()]);
        let gradients = tape.backward_from(out, upstream);
        let fetched = [q, k, v].map(|x| tape.fetch::<f32>(gradients.of(x).unwrap()));
        let out = tape.fetch::<f32>(out);
        tape.run().unwrap();
        results[0].extend(out.get().unwrap());
        let places = [rows, 0..end * HEAD_DIM, 0..end * HEAD_DIM];
        for ((sum, place), part) in results[1..].iter_mut().zip(places).zip(fetched) {
            for (sum, part) in sum[place].iter_mut().zip(part.get().unwrap()) {
                *sum += part;
            }
        }
    }
    results
}

#[test]
fn sixteen_thousand_positions_in_memory_that_grows_with_their_number() {
    let mut random = Random::new(16);
    let all = POSITIONS * HEAD_DIM;
    let [q, k, v] = [2.0, 2.0, 1.0].map(|most| random.values(all, -most, most));
    let mut upstream = vec![0.0; all];
    for start in STARTS {
        let values = random.values(SLICE * HEAD_DIM, -1.0, 1.0);
        upstream[start * HEAD_DIM..(start + SLICE) * HEAD_DIM].copy_from_slice(&values);
    }
    let problem = Problem { q, k, v, upstream };
    let (actual, expected) = (fused(&problem), in_slices(&problem));
    for (what, (actual, expected)) in ["output", "queries", "keys", "values"]
        .iter()
        .zip(actual.iter().zip(&expected))
    {
        assert_close_f32(what, actual, expected, 1e-4, 2e-6);
    }

    // A score for every query and key would take a gigabyte.
    let tape = Tape::training(device());
    let shape = [1, 1, POSITIONS, HEAD_DIM];
    let [q, k, v] = [&problem.q, &problem.k, &problem.v].map(|x| tape.variable(shape, x));
    let out = attention(q, k, v, None, &Attention::causal(1));
    let gradients = tape.backward_from(out, tape.input(shape, &problem.upstream));
    for x in [q, k, v] {
        tape.fetch::<f32>(gradients.of(x).unwrap());
    }
    let bytes = tape.memory().unwrap().intermediate;
    let linear = (4 * all) as u64;
    assert!(bytes <= 8 * linear, "{bytes} bytes, {linear} a tensor");
}
