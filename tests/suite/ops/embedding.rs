//! Embedding against plain loops, with every kernel of its gradient.

use shadegrad::tape::Fusion;
use shadegrad::{Device, Shape, Tape, check};

use crate::common::{Random, assert_close, device, portable_device, wide};

/// `out[p] = weight[ids[p]]`
pub fn rows(weight: &[f64], ids: &[u32], width: usize) -> Vec<f64> {
    ids.iter()
        .flat_map(|&id| &weight[id as usize * width..][..width])
        .copied()
        .collect()
}

/// The sum of `gradient` over the places of each index.
fn sums(gradient: &[f32], ids: &[u32], vocabulary: usize, width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; vocabulary * width];
    for (place, &id) in ids.iter().enumerate() {
        for column in 0..width {
            sums[id as usize * width + column] += f64::from(gradient[place * width + column]);
        }
    }
    sums
}

#[test]
fn gradients_over_drawn_shapes() {
    let mut random = Random::new(1);
    for device in [device(), portable_device()] {
        for _ in 0..6 {
            let (vocabulary, width) = (1 + random.below(9), 1 + random.below(11));
            let shape = random.shape(3, 4);
            let ids = random.indices(shape.elements(), vocabulary);
            let weight = random.values(vocabulary * width, -1.0, 1.0);
            let inputs = [([vocabulary, width].into(), weight)];
            let _ = check::gradient(
                device,
                &inputs,
                |x| x[0].embedding(x[0].tape().input(shape, &ids)),
                |x| rows(&x[0], &ids, width),
            )
            .unwrap();
            let _ = check::second_gradient(
                device,
                &inputs,
                |x| x[0].embedding(x[0].tape().input(shape, &ids)),
                |x| rows(&x[0], &ids, width),
            )
            .unwrap();
        }
    }
}

/// Value and gradient of `Σ w · (x·1.3 + 0.1)[ids]`; the gradient as bits, to compare runs.
fn run(device: &Device, ids: &[u32], vocabulary: usize, width: usize) -> Vec<u32> {
    let mut random = Random::new(7);
    let weight = random.values(vocabulary * width, -1.0, 1.0);
    let factors = random.values(ids.len() * width, -1.0, 1.0);
    let tape = Tape::training(device);
    let x = tape.variable([vocabulary, width], &weight);
    let out = (x * 1.3 + 0.1).embedding(tape.input([ids.len()], ids));
    let loss = (out * tape.input([ids.len(), width], &factors)).sum_all();
    let gradient = tape.backward(loss).of(x).unwrap();
    let (out, gradient) = (tape.fetch::<f32>(out), tape.fetch::<f32>(gradient));
    tape.run().unwrap();
    let what = format!("{} of {vocabulary} × {width}", ids.len());
    let expected: Vec<f64> = wide(&weight).iter().map(|x| x * 1.3 + 0.1).collect();
    let expected = rows(&expected, ids, width);
    assert_close(&what, &out.get().unwrap(), &expected, 1e-6, 1e-6);
    let mut expected = sums(&factors, ids, vocabulary, width);
    expected.iter_mut().for_each(|sum| *sum *= 1.3);
    let gradient = gradient.get().unwrap();
    // Serial sums round once for every place.
    let absolute = 1e-5 + 1e-8 * ids.len() as f64;
    assert_close(&what, &gradient, &expected, 1e-5, absolute);
    gradient.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn small_tables_and_large_ones() {
    let mut random = Random::new(2);
    // On GPUs: summed directly; sorted in one block; in several, of which the last is not full; an odd number of runs.
    // What is sorted there has many rows or very many places.
    for (places, vocabulary, width) in [
        (512, 27, 32),
        (511, 65, 33),
        (70, 1000, 5),
        (4099, 65, 34),
        (1, 3, 40),
        (1000, 8200, 3),
        (1025, 8193, 4),
        (4000, 50_257, 2),
        (5121, 3300, 7),
        (60_001, 5000, 1),
    ] {
        let mut ids = random.indices(places, vocabulary);
        // One index that is everywhere, as padding is.
        ids[places / 3..places / 2].fill(vocabulary as u32 - 1);
        let bits = run(device(), &ids, vocabulary, width);
        assert_eq!(bits, run(device(), &ids, vocabulary, width));
        run(portable_device(), &ids, vocabulary, width);
    }
}

#[test]
fn grids_beyond_65535_groups() {
    let ids = Random::new(3).indices(70_000, 11);
    // A row a group forward; 64 sums a group backward.
    run(portable_device(), &ids, 300, 5);
    run(portable_device(), &ids[..9], 70_000, 64);
    // Sixteen rows a group forward, and many columns of few rows.
    run(device(), &ids, 11, 5);
    run(device(), &[1, 0, 1], 2, 70_000 * 8);
}

#[test]
fn operands_through_strides() {
    let mut random = Random::new(4);
    let table = random.values(6 * 9, -1.0, 1.0);
    let ids = random.indices(2 * 3 * 4, 5);
    let tape = Tape::inference(device());
    // Columns 2..7 of the transposed table; indices with their axes in another order.
    let weight = tape.input([6, 9], &table).slice(0, 1..6).transpose();
    let places = tape.input([2, 3, 4], &ids).permute(&[2, 0, 1]);
    let out = tape.fetch::<f32>(weight.slice(0, 2..7).embedding(places));
    tape.run().unwrap();
    let mut expected = Vec::new();
    for k in 0..4 {
        for (i, j) in (0..2).flat_map(|i| (0..3).map(move |j| (i, j))) {
            let id = ids[(i * 3 + j) * 4 + k] as usize;
            expected.extend((1..6).map(|column| f64::from(table[column * 9 + id + 2])));
        }
    }
    assert_close("strided", &out.get().unwrap(), &expected, 0.0, 0.0);
}

#[test]
fn what_follows_is_part_of_the_kernel() {
    let mut random = Random::new(5);
    let (table, position) = (
        random.values(7 * 6, -1.0, 1.0),
        random.values(4 * 6, -1.0, 1.0),
    );
    let ids = random.indices(3 * 4, 7);
    let record = |tape: &Tape| {
        tape.set_fusion(Fusion::ON);
        let table = tape.input([7, 6], &table);
        let tokens = table.embedding(tape.input([3, 4], &ids));
        tape.fetch::<f32>(tokens + tape.input([4, 6], &position))
    };
    let [tape, counted] = [Tape::inference(device()), Tape::inference(device())];
    let sum = record(&tape);
    record(&counted);
    tape.run().unwrap();
    assert_eq!(counted.profile().unwrap().len(), 1);
    let mut expected = rows(&wide(&table), &ids, 6);
    for (index, value) in expected.iter_mut().enumerate() {
        *value += f64::from(position[index % 24]);
    }
    assert_close("with positions", &sum.get().unwrap(), &expected, 1e-6, 1e-6);
}

#[test]
#[should_panic(expected = "embedding: the table is F32 [6], expected F32 or F16 [vocabulary, d]")]
fn tables_are_matrices() {
    let tape = Tape::inference(device());
    let ids = tape.input(Shape::SCALAR, &[0u32]);
    tape.input([6], &[0.0f32; 6]).embedding(ids);
}

/// Rows from `first` on are what the table holds; elsewhere is zero.
pub fn part_rows(weight: &[f64], ids: &[u32], first: usize, width: usize) -> Vec<f64> {
    let held = first..first + weight.len() / width;
    let row = |&id: &u32| match held.contains(&(id as usize)) {
        true => weight[(id as usize - first) * width..][..width].to_vec(),
        false => vec![0.0; width],
    };
    ids.iter().flat_map(row).collect()
}

#[test]
fn parts_of_a_table() {
    let mut random = Random::new(6);
    for device in [device(), portable_device()] {
        for (rows, first, width) in [(5, 3, 4), (4, 0, 3), (1, 6, 8)] {
            let mut ids = random.indices(14, 12);
            ids.extend([0, 11]);
            let weight = random.values(rows * width, -1.0, 1.0);
            let inputs = [([rows, width].into(), weight)];
            let _ = check::gradient(
                device,
                &inputs,
                |x| x[0].embedding_part(x[0].tape().input([ids.len()], &ids), first, 12),
                |x| part_rows(&x[0], &ids, first, width),
            )
            .unwrap();
            let _ = check::second_gradient(
                device,
                &inputs,
                |x| x[0].embedding_part(x[0].tape().input([ids.len()], &ids), first, 12),
                |x| part_rows(&x[0], &ids, first, width),
            )
            .unwrap();
        }
    }
}

/// Parts together are the table, gradients included, also where the gradient clears first and where it sorts.
#[test]
fn parts_add_up_to_the_table() {
    let mut random = Random::new(8);
    for device in [device(), portable_device()] {
        for (places, vocabulary, width) in [(40, 30, 4), (1030, 5000, 2)] {
            let weight = random.values(vocabulary * width, -1.0, 1.0);
            let factors = random.values(places * width, -1.0, 1.0);
            let ids = random.indices(places, vocabulary);
            let cut = vocabulary / 3;
            let run = |is_split: bool| {
                let tape = Tape::training(device);
                let ids = tape.input([places], &ids);
                let (low, high) = weight.split_at(cut * width);
                let tables = match is_split {
                    true => vec![(0, low), (cut, high)],
                    false => vec![(0, weight.as_slice())],
                };
                let tables = tables.into_iter().map(|(first, values)| {
                    (first, tape.variable([values.len() / width, width], values))
                });
                let tables: Vec<_> = tables.collect();
                let out = match tables.as_slice() {
                    [(_, whole)] => whole.embedding(ids),
                    parts => {
                        let rows = parts
                            .iter()
                            .map(|(first, part)| part.embedding_part(ids, *first, vocabulary));
                        rows.reduce(|sum, rows| sum + rows).unwrap()
                    }
                };
                let loss = (out * tape.input([places, width], &factors)).sum_all();
                let gradients = tape.backward(loss);
                let fetched = tables
                    .iter()
                    .map(|(_, table)| gradients.of(*table).unwrap());
                let fetched: Vec<_> = fetched
                    .map(|gradient| tape.fetch::<f32>(gradient))
                    .collect();
                let out = tape.fetch::<f32>(out);
                tape.run().unwrap();
                let gradients: Vec<f32> = fetched
                    .iter()
                    .flat_map(|part| part.get().unwrap())
                    .collect();
                (out.get().unwrap(), gradients)
            };
            assert_eq!(run(true), run(false));
        }
    }
}
