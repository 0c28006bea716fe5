//! Kernels of other crates on halves: written for `f32`, they are changed where they are bound to halves.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shadegrad::ops::{Operation, TensorType};
use shadegrad::tape::{Backward, Dispatch, Lowering, Takes};
use shadegrad::{DType, Device, Kernel, Result, Shape, Tape, f16};

use super::halves;
use crate::common::devices;

const COUNT: usize = 5;

/// Elements by way of others, whole vectors, components, and what is added to what is there.
const SOURCE: &str = "
alias T = vec4<f32>;
@group(0) @binding(0) var<uniform> p: vec4<u32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> b: array<T>;
@group(0) @binding(4) var<storage, read_write> c: array<f32>;
@compute @workgroup_size(1)
fn halves_at_work(@builtin(workgroup_id) group: vec3<u32>) {
    let i = group.x;
    if (a[p.x + i] >= 0.0) { b[i] = T(a[p.x + u32(a[p.x + i])]); }
    b[i] = b[i] * 2.0 + b[i].x;
    c[i] = 1.0;
    c[i] += a[p.x + ids[p.y + i]] * 2.0;
}
";

#[derive(Debug, Hash)]
struct AtWork(&'static str);

impl Operation for AtWork {
    fn name(&self) -> &'static str {
        "halves_at_work"
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        let of = |dims: &[usize]| TensorType {
            shape: Shape::new(dims),
            dtype: DType::F16,
        };
        vec![of(&[COUNT, 4]), of(&[COUNT])]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<shadegrad::Var<'t>>> {
        node.not_differentiable("it is only a test")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let [a, ids] = [0, 1].map(|index| cx.input(index));
        let [b, c] = [0, 1].map(|index| cx.output(index));
        assert_eq!((b.offset(), c.offset()), (0, 0));
        cx.dispatch(
            Dispatch::new(Kernel::new("halves_at_work", self.0, "halves_at_work"))
                .read(&a)
                .read(&ids)
                .write(&b)
                .write(&c)
                .params(&[a.offset(), ids.offset(), 0, 0])
                .groups(COUNT),
        );
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }
}

/// What the kernel makes of `a`, with other indices in it if there are some, else with halves in their place.
fn run(device: &Device, source: &'static str, ids: Option<[u32; COUNT]>) -> Result<[Vec<f16>; 2]> {
    let tape = Tape::inference(device);
    let a = tape.input([COUNT], &halves(&[2.0, 0.0, 1.0, 4.0, 3.0]));
    let ids = ids.map_or(a, |ids| tape.input([COUNT], &ids));
    let outputs = tape.record_all(AtWork(source), &[a, ids]);
    let [b, c] = [0, 1].map(|index| tape.fetch::<f16>(outputs[index]));
    tape.run()?;
    Ok([b.get()?, c.get()?])
}

#[test]
fn elements_are_widened_and_rounded() {
    for device in devices() {
        let [b, c] = run(device, SOURCE, Some([4, 3, 2, 1, 0])).unwrap();
        let rows = [1.0, 2.0, 0.0, 3.0, 4.0].map(|x: f32| [3.0 * x; 4]);
        assert_eq!(b, halves(rows.as_flattened()));
        assert_eq!(c, halves(&[7.0, 9.0, 3.0, 1.0, 5.0]));
        let mut texts = device.kernels();
        texts.retain(|(name, _)| *name == "halves_at_work");
        assert!(!texts.is_empty());
        // Single elements share a word with their neighbours, if there are words.
        let expected: &[&str] = match device.has_f16() {
            true => &["array<f16>", "array<vec4<f16>>"],
            false => &["array<u32>", "array<vec2<u32>>", "array<atomic<u32>>"],
        };
        for (_, text) in texts {
            let holds = |ty: &&str| text.contains(*ty);
            assert!(expected.iter().all(holds), "{expected:?}\n{text}");
        }
    }
}

#[test]
fn what_declares_halves_is_left_as_it_is() {
    for device in devices().into_iter().filter(|device| device.has_f16()) {
        let own = SOURCE.replace("c: array<f32>", "c: array<f16>");
        let own = own.replace("c[i] = 1.0;", "c[i] = f16(1.0);");
        let own = own
            .replace("* 2.0;\n}", "* 2.0h;\n}")
            .replace("c[i] += a[", "c[i] += f16(a[");
        let own = own.replace("+ i]] *", "+ i]]) *").leak();
        let [_, c] = run(device, own, Some([4, 3, 2, 1, 0])).unwrap();
        assert_eq!(c, halves(&[7.0, 9.0, 3.0, 1.0, 5.0]));
    }
}

#[test]
fn what_else_kernels_do_is_refused() {
    let [device, ..] = devices();
    let refused = |body: &str, ids| {
        let source = SOURCE.replace("c[i] = 1.0;", body).leak();
        let caught = catch_unwind(AssertUnwindSafe(|| run(device, source, ids).map(|_| ())));
        let message = caught.unwrap_err();
        message.downcast::<String>().unwrap()
    };
    let ids = Some([0; COUNT]);
    assert!(refused("b[i].x = 1.0;", ids).contains("`b` is written a component at a time"));
    let pointed = refused("c[i] = f32(arrayLength(&a));", ids);
    assert!(pointed.contains("`a` is pointed at"), "{pointed}");
    let words = refused("c[i] = 1.0;", None);
    assert!(words.contains("`ids` is no array of floats"), "{words}");
}
