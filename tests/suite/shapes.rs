//! Shapes, and where elements lie.

use shadegrad::{Device, Layout, Shape, Tape};

#[test]
fn broadcast_follows_numpy() {
    type Case = (&'static [usize], &'static [usize], Option<&'static [usize]>);
    let cases: [Case; 5] = [
        (&[3, 1], &[4], Some(&[3, 4])),
        (&[], &[2, 5], Some(&[2, 5])),
        (&[2, 3], &[2, 3], Some(&[2, 3])),
        (&[2, 3], &[3, 2], None),
        (&[8, 1, 6, 1], &[7, 1, 5], Some(&[8, 7, 6, 5])),
    ];
    for (left, right, expected) in cases {
        let (left, right) = (Shape::new(left), Shape::new(right));
        assert_eq!(left.broadcast(&right), expected.map(Shape::new));
        assert_eq!(right.broadcast(&left), expected.map(Shape::new));
    }
}

#[test]
fn reshape_keeps_views_where_strides_allow() {
    let dense = Layout::contiguous([4, 6].into(), 3);
    let split = dense.reshape([2, 2, 6].into()).unwrap();
    assert_eq!(split.strides(), &[12, 6, 1]);
    let transposed = dense.permute(&[1, 0]);
    assert_eq!(transposed.reshape([24].into()), None);
    assert_eq!(
        transposed.reshape([6, 2, 2].into()).unwrap().strides(),
        &[1, 12, 6]
    );
    let heads = Layout::contiguous([2, 5, 12].into(), 0).slice(2, 4, 4);
    assert_eq!(
        heads.reshape([10, 2, 2].into()).unwrap().strides(),
        &[12, 2, 1]
    );
}

/// Kernels go through as few axes as all operands let them.
#[test]
fn axes_that_nest_in_every_layout_are_one() {
    let axes = |of_bias: &[usize]| {
        let device = Device::new().unwrap();
        let tape = Tape::inference(&device);
        let x = tape.input([2, 3, 4], &[1f32; 24]);
        let bias = tape.input(of_bias, &vec![2f32; of_bias.iter().product()]);
        let sum = tape.fetch::<f32>(x + bias);
        tape.run().unwrap();
        assert_eq!(sum.get().unwrap(), [3.0; 24]);
        let mut kernels = device.kernels().into_iter();
        let (_, text) = kernels.find(|(name, _)| *name == "pointwise").unwrap();
        (0..3)
            .filter(|axis| text.contains(&format!("let i{axis} = ")))
            .count()
    };
    assert_eq!(axes(&[2, 3, 4]), 1);
    assert_eq!(axes(&[4]), 2);
    assert_eq!(axes(&[2, 1, 1]), 2);
    assert_eq!(axes(&[3, 1]), 3);
    assert_eq!(axes(&[2, 1, 4]), 3);
}

#[test]
#[should_panic(expected = "extent of zero")]
fn zero_extents_are_refused() {
    Shape::new(&[2, 0]);
}
