//! Reshape, permute, slice, broadcast, pad and detach, alone and in chains, against loops on the host.

use shadegrad::gpu::Element;
use shadegrad::{Shape, Tape, Tensor, Var};

use crate::common::host::Host;
use crate::common::{Random, assert_close, device};

/// One step of a chain.
#[derive(Clone, Debug)]
enum View {
    Reshape(Shape),
    Permute(Vec<usize>),
    Slice(usize, std::ops::Range<usize>),
    Broadcast(Shape),
    Pad(usize, usize, usize),
}

impl View {
    /// A step that a tensor of this shape allows.
    fn draw(shape: Shape, may_pad: bool, random: &mut Random) -> View {
        let rank = shape.rank();
        match random.below(if may_pad { 6 } else { 5 }) {
            0 => View::Reshape(regrouped(shape, random)),
            1 => {
                let mut extents = shape.dims().to_vec();
                let position = random.below(rank + 1);
                if rank < 6 {
                    extents.insert(position, 1);
                }
                View::Reshape(Shape::from(&extents))
            }
            2 if rank > 0 => {
                let axis = random.below(rank);
                let start = random.below(shape.dim(axis));
                let end = start + 1 + random.below(shape.dim(axis) - start);
                View::Slice(axis, start..end)
            }
            3 if shape.elements() < 200 => {
                let stretch = 1 + random.below(3);
                let stretched = |&extent: &usize| if extent == 1 { stretch } else { extent };
                let mut extents: Vec<usize> = shape.dims().iter().map(stretched).collect();
                if rank < 6 {
                    extents.insert(0, 1 + random.below(3));
                }
                View::Broadcast(Shape::from(&extents))
            }
            5 if rank > 0 => View::Pad(random.below(rank), random.below(3), random.below(3)),
            _ => {
                let mut axes: Vec<usize> = (0..rank).collect();
                for last in (1..rank).rev() {
                    axes.swap(last, random.below(last + 1));
                }
                View::Permute(axes)
            }
        }
    }

    fn record<'t>(&self, var: Var<'t>) -> Var<'t> {
        match self {
            View::Reshape(shape) => var.reshape(*shape),
            View::Permute(axes) => var.permute(axes),
            View::Slice(axis, range) => var.slice(*axis, range.clone()),
            View::Broadcast(shape) => var.broadcast_to(*shape),
            View::Pad(axis, before, after) => var.pad(*axis, *before, *after),
        }
    }

    fn compute<E: Copy + Default>(&self, host: &Host<E>) -> Host<E> {
        match self {
            View::Reshape(shape) => host.reshape(*shape),
            View::Permute(axes) => host.permute(axes),
            View::Slice(axis, range) => host.slice(*axis, range.clone()),
            View::Broadcast(shape) => host.broadcast_to(*shape),
            View::Pad(axis, before, after) => host.pad(*axis, *before, *after),
        }
    }
}

/// Another shape with as many elements: the prime factors of the extents, dealt out again.
fn regrouped(shape: Shape, random: &mut Random) -> Shape {
    let mut extents = vec![1; 1 + random.below(5)];
    let mut left = shape.elements();
    let mut factor = 2;
    while left > 1 {
        if left.is_multiple_of(factor) {
            left /= factor;
            let place = random.below(extents.len());
            extents[place] *= factor;
        } else {
            factor += 1;
        }
    }
    Shape::from(&extents)
}

fn chain(start: Shape, length: usize, may_pad: bool, random: &mut Random) -> Vec<View> {
    let mut shape = start;
    (0..length)
        .map(|_| {
            let view = View::draw(shape, may_pad, random);
            shape = view
                .compute(&Host::new(shape, vec![0u32; shape.elements()]))
                .shape;
            view
        })
        .collect()
}

#[test]
fn chains_and_their_gradients() {
    let mut random = Random::new(1);
    for _ in 0..60 {
        let shape = random.shape(5, 5);
        let length = 1 + random.below(6);
        let views = chain(shape, length, true, &mut random);
        let values = random.values(shape.elements(), -2.0, 2.0);
        // Which element of the input each result comes from, counted from one; zero for padding.
        let numbers = (1..=shape.elements() as u32).collect();
        let sources = views
            .iter()
            .fold(Host::new(shape, numbers), |host, view| view.compute(&host));
        let weights = random.values(sources.values.len(), -2.0, 2.0);

        let tape = Tape::training(device());
        let x = tape.variable(shape, &values);
        // Through a kernel on either side, and directly from the upload.
        let y = views.iter().fold(x * 2.0, |var, view| view.record(var));
        let direct = views.iter().fold(x, |var, view| view.record(var));
        assert_eq!(y.shape(), sources.shape, "{views:?}");
        let loss = (y * tape.input(y.shape(), &weights)).sum_all();
        let gradient = tape.fetch::<f32>(tape.backward(loss).of(x).expect("depends on x"));
        let (y, direct) = (tape.fetch::<f32>(y), tape.fetch::<f32>(direct));
        tape.run().unwrap();

        let read = |scale: f32| -> Vec<f32> {
            let value = |&source: &u32| match source {
                0 => 0.0,
                _ => scale * values[source as usize - 1],
            };
            sources.values.iter().map(value).collect()
        };
        assert_eq!(y.get().unwrap(), read(2.0), "{views:?} of {shape}");
        assert_eq!(direct.get().unwrap(), read(1.0), "{views:?} of {shape}");
        let mut expected = vec![0.0; shape.elements()];
        for (&source, &weight) in sources.values.iter().zip(&weights) {
            if source > 0 {
                expected[source as usize - 1] += 2.0 * f64::from(weight);
            }
        }
        let what = format!("gradient of {views:?} of {shape}");
        assert_close(&what, &gradient.get().unwrap(), &expected, 1e-5, 1e-5);
    }
}

#[test]
fn chains_on_integers() {
    let mut random = Random::new(2);
    for _ in 0..20 {
        let shape = random.shape(4, 5);
        let views = chain(shape, 4, false, &mut random);
        // Also what would be a subnormal or not a number if it were taken for floating point.
        let mut values = random.indices(shape.elements(), 1 << 20);
        values[0] = 0xffff_ffff;
        let host = views
            .iter()
            .fold(Host::new(shape, values.clone()), |host, view| {
                view.compute(&host)
            });
        let tape = Tape::inference(device());
        let x = tape.input(shape, &values);
        let y = views.iter().fold(x, |var, view| view.record(var));
        let (copy, float) = (tape.fetch::<u32>(y), tape.fetch::<f32>(y.to_f32()));
        tape.run().unwrap();
        assert_eq!(copy.get().unwrap(), host.values, "{views:?} of {shape}");
        let expected: Vec<f32> = host.values.iter().map(|&value| value as f32).collect();
        assert_eq!(float.get().unwrap(), expected, "{views:?} of {shape}");
    }
}

#[test]
fn a_reshape_that_strides_cannot_express_copies() {
    let host = Host::new([3, 4], (0..12).map(|x| x as f32).collect());
    let expected = host.permute(&[1, 0]).values;
    let tape = Tape::inference(device());
    let x = tape.input([3, 4], &host.values);
    let y = x.transpose().reshape([12]);
    // The copy is read again, as a view and by a kernel.
    let z = y.reshape([4, 3]).transpose() + 1.0;
    let (y, z) = (tape.fetch::<f32>(y), tape.fetch::<f32>(z));
    tape.run().unwrap();
    assert_eq!(y.get().unwrap(), expected);
    let expected: Vec<f32> = host.values.iter().map(|value| value + 1.0).collect();
    assert_eq!(z.get().unwrap(), expected);
}

/// What is fetched without any operation: an input, a tensor, a part of one, views of them, one value twice.
fn fetched_as_it_is<E: Element + PartialEq + std::fmt::Debug>(values: &[E; 150]) {
    let tensor = Tensor::new(device(), [10, 15], values).unwrap();
    // A part whose offset no binding may start at.
    let part = tensor.part(37, [3, 7]);
    let host = Host::new([10, 15], values.to_vec());
    let middle = Host::new([3, 7], values[37..58].to_vec());
    for _ in 0..2 {
        let tape = Tape::inference(device());
        let input = tape.input([10, 15], values);
        let (whole, inner) = (tape.tensor(&tensor), tape.tensor(&part));
        let fetches = [
            input,
            input.slice(0, 4..6),
            input.transpose(),
            whole,
            whole.slice(1, 3..9),
            inner,
            inner.transpose(),
            inner.slice(0, 1..2),
            inner,
        ];
        let fetches = fetches.map(|var| tape.fetch::<E>(var));
        tape.run().unwrap();
        let expected = [
            host.clone(),
            host.slice(0, 4..6),
            host.permute(&[1, 0]),
            host.clone(),
            host.slice(1, 3..9),
            middle.clone(),
            middle.permute(&[1, 0]),
            middle.slice(0, 1..2),
            middle.clone(),
        ];
        for (index, (fetch, expected)) in fetches.iter().zip(expected).enumerate() {
            assert_eq!(fetch.get().unwrap(), expected.values, "fetch {index}");
        }
    }
}

#[test]
fn inputs_tensors_and_their_views_are_fetched_as_they_are() {
    fetched_as_it_is(&std::array::from_fn::<f32, 150, _>(|index| {
        index as f32 - 70.5
    }));
    fetched_as_it_is(&std::array::from_fn::<u32, 150, _>(|index| {
        index as u32 * 0x0101_0101
    }));
}

#[test]
fn detached_values_are_constants() {
    let tape = Tape::training(device());
    let x = tape.variable([3], &[1.0, 2.0, 3.0]);
    let squared = x * x;
    let constant = squared.detach();
    assert!(squared.needs_gradient() && !constant.needs_gradient());
    // d/dx Σ x·c, with c = x² held.
    let gradients = tape.backward((x * constant).sum_all());
    assert!(gradients.of(constant).is_none() && gradients.of(squared).is_none());
    let gradient = tape.fetch::<f32>(gradients.of(x).unwrap());
    assert!(tape.backward(constant.sum_all()).of(x).is_none());
    tape.run().unwrap();
    assert_eq!(gradient.get().unwrap(), [1.0, 4.0, 9.0]);
}

#[test]
fn views_read_values_that_are_used_in_other_ways_too() {
    let mut random = Random::new(3);
    let host = Host::new([6, 8], random.values(48, -1.0, 1.0));
    let tape = Tape::training(device());
    let x = tape.variable([6, 8], &host.values);
    let y = x.exp();
    // The halves of a kernel's result, multiplied, beside the result itself.
    let product = y.slice(1, 0..4) * y.slice(1, 4..8);
    let loss = product.sum_all() + (y.transpose().reshape([48]) * 0.5).sum_all();
    let gradient = tape.fetch::<f32>(tape.backward(loss).of(x).unwrap());
    let (product, whole) = (tape.fetch::<f32>(product), tape.fetch::<f32>(y));
    tape.run().unwrap();
    let exp: Vec<f64> = host.values.iter().map(|&x| f64::from(x).exp()).collect();
    let other = |index: usize| exp[index / 8 * 8 + (index % 8 + 4) % 8];
    let expected: Vec<f64> = (0..48)
        .map(|index| exp[index] * other(index) + 0.5 * exp[index])
        .collect();
    assert_close("gradient", &gradient.get().unwrap(), &expected, 1e-5, 1e-5);
    assert_close("whole", &whole.get().unwrap(), &exp, 1e-5, 1e-5);
    let halves: Vec<f64> = (0..24)
        .map(|i| exp[i / 4 * 8 + i % 4] * exp[i / 4 * 8 + i % 4 + 4])
        .collect();
    assert_close("product", &product.get().unwrap(), &halves, 1e-5, 1e-5);
}

#[test]
#[should_panic(expected = "reshape: [2, 3] and [7] have different numbers of elements")]
fn reshape_keeps_the_number_of_elements() {
    Tape::inference(device())
        .input([2, 3], &[0.0f32; 6])
        .reshape([7]);
}

#[test]
#[should_panic(expected = "permute: [0, 0] does not name each axis of [2, 3] once")]
fn permute_names_each_axis_once() {
    Tape::inference(device())
        .input([2, 3], &[0.0f32; 6])
        .permute(&[0, 0]);
}

#[test]
#[should_panic(expected = "slice: 2..5 of axis 1 is not within [2, 3]")]
fn slice_stays_within_its_axis() {
    Tape::inference(device())
        .input([2, 3], &[0.0f32; 6])
        .slice(1, 2..5);
}

#[test]
#[should_panic(expected = "broadcast_to: [2, 3] does not broadcast to [3, 2]")]
fn broadcast_follows_the_rule() {
    Tape::inference(device())
        .input([2, 3], &[0.0f32; 6])
        .broadcast_to([3, 2]);
}

#[test]
#[should_panic(expected = "pad: [2, 3] has no axis 2")]
fn pad_needs_its_axis() {
    Tape::inference(device())
        .input([2, 3], &[0.0f32; 6])
        .pad(2, 1, 1);
}

#[test]
#[should_panic(expected = "pad: [2, 3] holds U32, only floats are padded")]
fn pad_takes_floating_point() {
    Tape::inference(device())
        .input([2, 3], &[0u32; 6])
        .pad(1, 1, 1);
}

#[test]
#[should_panic(expected = "transpose: shape [3] has no two axes")]
fn transpose_needs_two_axes() {
    Tape::inference(device())
        .input([3], &[0.0f32; 3])
        .transpose();
}
