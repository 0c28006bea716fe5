//! What only a bug in the calling code can cause panics with the operation's name and the shapes, at the caller's line.

mod layers;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Once;

use shadegrad::data::Shuffle;
use shadegrad::nn::{Init, InitKind, Linear, ParameterBuilder};
use shadegrad::ops::attention::Attention;
use shadegrad::ops::pointwise::TABLE;
use shadegrad::ops::{CrossEntropy, Operation, TensorType, rotary_table};
use shadegrad::tape::{Backward, Lowering};
use shadegrad::{DType, Kernel, Shape, Tape, Tensor, Var, f16, metrics};

use crate::common::{device, portable_device};

thread_local! {
    /// Message, file and line of this thread's last panic; `None` while nobody listens.
    static HEARD: RefCell<Option<(String, String, u32)>> = const { RefCell::new(None) };
}

/// What a panic says.
fn text_of(payload: &dyn std::any::Any) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_default()
}

/// Runs something that must panic, and gives its message, and the file and the line that the panic points at.
fn panic_of(misuse: impl FnOnce()) -> (String, String, u32) {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let listening = HEARD.with_borrow_mut(|heard| {
                let Some(heard) = heard else { return false };
                let at = info.location().expect("panics have a place");
                *heard = (text_of(info.payload()), at.file().to_owned(), at.line());
                true
            });
            if !listening {
                usual(info);
            }
        }));
    });
    HEARD.set(Some(Default::default()));
    let outcome = catch_unwind(AssertUnwindSafe(misuse));
    let heard = HEARD.take().expect("set above");
    assert!(outcome.is_err(), "misuse went unnoticed");
    heard
}

/// Checks that something panics with this text, and at the caller's line.
#[track_caller]
fn misuse<T>(text: &str, misuse: impl FnOnce() -> T) {
    let caller = Location::caller();
    let first = caller.line();
    let (message, file, line) = panic_of(|| drop(misuse()));
    assert!(message.contains(text), "`{text}` is not in: {message}");
    assert!(
        file == caller.file() && (first..first + 4).contains(&line),
        "points at {file}:{line}, not at {caller}: {message}"
    );
}

#[test]
fn checkpointed_parts_neither_write_nor_read_what_changes() {
    let tensor = Tensor::new(device(), [2], &[1.0f32, 2.0]).unwrap();
    let tape = Tape::training(device());
    misuse("checkpoint: the part overwrites a tensor", || {
        tape.checkpoint(|tape| tape.assign(&tensor, tape.full([2], 1.0)))
    });
    let tape = Tape::training(device());
    let x = tape.variable([2], &[1.0, 2.0]);
    let loss = tape.checkpoint(|tape| (x * tape.tensor(&tensor)).sin().sum_all());
    let _before = tape.backward(loss);
    tape.assign(&tensor, tape.full([2], 1.0));
    misuse("backward: a tensor that a checkpointed part reads", || {
        tape.backward(loss)
    });
    // A view that was recorded outside.
    let matrix = Tensor::new(device(), [2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let tape = Tape::training(device());
    let (x, view) = (
        tape.full([1, 2], 1.0),
        tape.tensor_variable(&matrix).transpose(),
    );
    let loss = tape.checkpoint(|_| x.matmul(view).tanh().sum_all());
    tape.assign(&matrix, tape.full([2, 2], 1.0));
    misuse("backward: a tensor that a checkpointed part reads", || {
        tape.backward(loss)
    });
}

#[test]
fn misuse_panics_at_the_callers_line() {
    let device = device();
    let (tape, other) = (Tape::training(device), Tape::inference(device));
    let x = tape.variable([2, 3], &[0.0; 6]);
    let y = tape.variable([4], &[0.0; 4]);
    let ids = tape.input([2], &[0u32, 1]);
    let tensor = Tensor::zeros(device, [2], DType::F32).unwrap();
    let stranger = Tensor::zeros(portable_device(), [2], DType::F32).unwrap();
    misuse("add: shapes [[2, 3], [4]] do not broadcast", || x + y);
    misuse("sub: shapes [[4], [2, 3]] do not broadcast", || y - x);
    let column = tape.variable([4, 1], &[0.0; 4]);
    let expected = "shape [4] and targets of shape [4, 1], expected equal ones";
    misuse(expected, || y.mse(column));
    misuse(expected, || y.binary_cross_entropy(column));
    let scalar = tape.full([], 0.0);
    let expected = "accuracy: logits are a scalar";
    misuse(expected, || metrics::accuracy(scalar, ids));
    let expected = "accuracy: logits of shape [2, 3] and targets of shape [4], expected [2]";
    misuse(expected, || metrics::accuracy(x, y));
    misuse("mul: shapes [[2, 3], [4]] do not broadcast", || x * y);
    misuse("div: shapes [[2, 3], [4]] do not broadcast", || x / y);
    misuse("maximum: shapes [[2, 3], [4]] do not broadcast", || {
        x.maximum(y)
    });
    misuse(
        "select: shapes [[2, 3], [2, 3], [4]] do not broadcast",
        || x.select(x, y),
    );
    misuse("scale: attributes must be finite", || x * f32::NAN);
    misuse("shift: attributes must be finite", || x + f32::INFINITY);
    misuse("shift: attributes must be finite", || f32::INFINITY - x);
    misuse("div_by: attributes must be finite", || x / f32::NAN);
    misuse("constants must be finite", || tape.full([2], f32::NAN));
    misuse("reshape: [2, 3] and [5]", || x.reshape([5]));
    misuse("permute: [0, 2] does not name", || x.permute(&[0, 2]));
    misuse("transpose: shape [4] has no two axes", || y.transpose());
    misuse("slice: 2..9 of axis 1", || x.slice(1, 2..9));
    misuse("slice: 1..1 of axis 0", || x.slice(0, 1..1));
    misuse("broadcast_to: [2, 3] does not broadcast to [3]", || {
        x.broadcast_to([3])
    });
    misuse("pad: [4] has no axis 3", || y.pad(3, 1, 1));
    misuse("matmul: [2, 3] and [4] do not multiply", || x.matmul(y));
    misuse("matmul: [2, 3] and [2, 3] do not multiply", || x.matmul(x));
    misuse(
        "matmul: the leading axes of [2, 1, 3] and [5, 3, 2]",
        || x.reshape([2, 1, 3]).matmul(tape.full([5, 3, 2], 1.0)),
    );
    misuse("shape [2, 0] has an extent of zero", || Shape::new(&[2, 0]));
    misuse("the largest supported rank is 6", || {
        x.reshape([1, 1, 1, 1, 1, 2, 3])
    });
    misuse("input: shape [2, 3] is not filled by 5 values", || {
        tape.input([2, 3], &[0.0f32; 5])
    });
    misuse("input: shape [2] is not filled by 3 values", || {
        tape.variable([2], &[0.0; 3])
    });
    misuse("add: an input was recorded on another tape", || {
        other.full([4], 2.0) + y
    });
    let theirs = other.full([1], 1.0);
    misuse("fetch: an input was recorded on another tape", || {
        tape.fetch::<f32>(theirs)
    });
    misuse("backward: an input was recorded on another tape", || {
        tape.backward(theirs)
    });
    misuse("backward: an input was recorded on another tape", || {
        tape.backward_from(y, theirs)
    });
    misuse("assign: an input was recorded on another tape", || {
        tape.assign(&tensor, other.full([2], 1.0))
    });
    let third = Tape::training(device);
    let gradients = tape.backward(y.sum_all());
    misuse(
        "Gradients::of: an input was recorded on another tape",
        || gradients.of(third.variable([4], &[0.0; 4])),
    );
    misuse("backward: only scalars", || {
        tape.backward(ids.slice(0, 0..1))
    });
    misuse("powi: the exponent 2.5 is no whole number", || x.powi(2.5));
    misuse(
        "powi: the exponent 100000000 is no whole number from",
        || x.powi(1e8),
    );
    misuse("rotary_table: a head of 3 has no pairs", || {
        rotary_table(2, 3, 1e4)
    });
    for base in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        misuse("rotary_table: the base", || rotary_table(2, 4, base));
    }
    misuse("scope: an input was recorded on another tape", || {
        tape.scope("part", || theirs)
    });
    misuse("stack: [2, 3] and [4] differ", || Var::stack(&[x, y], 0));
    misuse("shape [2, 0] has an extent of zero", || {
        tape.random_uniform([2, 0])
    });
    misuse("powi: attributes must be finite", || x.powi(f32::NAN));
    misuse("clamp: nothing lies between 1 and -1", || {
        x.clamp(1.0, -1.0)
    });
    misuse("backward: only scalars", || tape.backward(x));
    misuse("backward: an inference tape", || {
        other.backward(other.full([1], 1.0))
    });
    misuse("backward: value and seed differ in shape", || {
        tape.backward_from(x, y)
    });
    misuse("fetch: the value has another element type", || {
        tape.fetch::<u32>(x)
    });
    misuse("fetch: the value has another element type", || {
        tape.fetch::<f32>(ids)
    });
    misuse("assign: value and destination differ", || {
        tape.assign(&tensor, x)
    });
    misuse("tensor: it is held by another device", || {
        tape.tensor(&stranger)
    });
    misuse("tensor: it is held by another device", || {
        tape.assign(&stranger, y.slice(0, 0..2))
    });
    misuse("part [3] at element 0 reaches beyond", || {
        tensor.part(0, [3])
    });
    misuse("reaches beyond", || tensor.part(usize::MAX, [2]));
    misuse("is not filled by 3 values", || tensor.write(&[0.0f32; 3]));
    misuse("the tensor holds another type", || tensor.write(&[0u32; 2]));
    misuse("the tensor holds another type", || tensor.to_vec::<u32>());
    misuse("is not filled by 1 values", || {
        Tensor::new(device, [2], &[0.0f32])
    });
}

/// Overwrites what it is given.
#[derive(Debug, Hash)]
struct Overwrite;

impl Operation for Overwrite {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        Vec::new()
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it overwrites a tensor")
    }

    fn mutates(&self) -> &[usize] {
        &[0]
    }

    fn lower(&self, _cx: &mut Lowering<'_>) {}
}

#[test]
fn what_needs_no_tape_points_at_the_callers_line_too() {
    for factor in [1.0, -0.5, f64::NAN] {
        misuse("smoothed: a factor of ", || metrics::Smoothed::new(factor));
    }
    for init in [
        Init::kaiming_uniform(0, 1.0),
        Init::kaiming_normal(4, f32::NAN),
        Init::xavier_uniform(0, 0, 1.0),
        Init::xavier_normal(2, 3, f32::INFINITY),
        Init::Constant(f32::NAN),
    ] {
        let mut builder = ParameterBuilder::new(1);
        let expected = "parameter `x`: initial values ";
        misuse(expected, || builder.parameter("x", [2], init));
    }
    for kind in InitKind::ALL.iter().copied() {
        let mut builder = ParameterBuilder::new(1).with_init(kind);
        misuse("extent of zero", || Linear::new(&mut builder, 0, 3, true));
    }
    misuse("mean: a value of shape [2], expected a scalar", || {
        metrics::mean(device(), [()], |tape, ()| (tape.full([2], 1.0), 2))
    });
    let nothing = "import shadegrad::nothing;";
    let expected = "there is no `shadegrad::nothing` to import";
    misuse(expected, || Kernel::new("x", nothing, "x"));
    misuse(expected, || Kernel::new("x", "", "x").declare(nothing));
    misuse("shuffle: batches of 3 out of 2", || Shuffle::new(2, 3, 1));
    misuse("shuffle: batches of 0 out of 2", || Shuffle::new(2, 0, 1));
}

#[test]
fn only_tensors_are_overwritten() {
    let tensor = Tensor::new(device(), [2, 1], &[1.0f32, 2.0]).unwrap();
    let tape = Tape::training(device());
    let text = "overwrite: input 0 is to be overwritten, but it is no persistent tensor";
    for value in [tape.full([2], 1.0), tape.tensor(&tensor).transpose()] {
        misuse(text, || tape.record_all(Overwrite, &[value]));
    }
    misuse(text, || tape.record_all(Overwrite, &[]));
    tape.record_all(Overwrite, &[tape.tensor(&tensor)]);
}

#[test]
fn parts_of_tables_lie_within() {
    let tape = Tape::training(device());
    let (part, ids) = (tape.full([3, 2], 1.0), tape.input([1], &[0u32]));
    misuse(
        "embedding: 3 rows from index 2 on are no part of a table of 4",
        || part.embedding_part(ids, 2, 4),
    );
    misuse(
        "embedding: 3 rows from index 5 on are no part of a table of 4",
        || part.embedding_part(ids, 5, 4),
    );
}

#[test]
fn misuse_of_larger_operations_points_at_the_callers_line_too() {
    let device = device();
    let tape = Tape::training(device);
    let scalar = tape.variable(Shape::SCALAR, &[1.0]);
    let x = tape.variable([2, 3], &[0.0; 6]);
    let y = tape.variable([4], &[0.0; 4]);
    let ids = tape.input([2], &[0u32, 1]);
    misuse("sum: ", || x.sum(&[2]));
    misuse("sum: ", || x.sum_keep(&[0, 0]));
    misuse("mean: ", || x.mean(&[2]));
    misuse("mean: ", || x.mean_keep(&[2]));
    misuse("max: ", || x.max(&[5]));
    misuse("min: ", || x.min_keep(&[5]));
    misuse("var: ", || x.var(&[2]));
    misuse("var_unbiased: ", || x.var_unbiased(&[2]));
    misuse("argmax: ", || x.argmax(2));
    misuse("softmax: ", || scalar.softmax());
    misuse("log_softmax: ", || scalar.log_softmax());
    misuse("layer_norm: ", || x.layer_norm(y, None, 1e-5));
    misuse("layer_norm: ", || y.layer_norm(y, Some(x), 1e-5));
    misuse("rms_norm: ", || x.rms_norm(y, 1e-5));
    misuse("embedding: ", || y.embedding(ids));
    misuse("embedding: ", || x.embedding(y));
    misuse("gather along axis 2: ", || x.gather(2, ids));
    misuse("index_select along axis 0: ", || x.index_select(0, y));
    misuse("cross_entropy: ", || {
        y.cross_entropy(ids, CrossEntropy::default())
    });
    misuse("cross_entropy: ", || {
        x.cross_entropy_rows(y, CrossEntropy::default())
    });
    misuse("dropout: ", || x.dropout(1.0));
    misuse("rotary: ", || x.rotary(y, 2));
    misuse("swiglu: ", || x.swiglu());
    misuse("attention: ", || y.packed_attention(&Attention::causal(2)));
    misuse("layer_norm: ε is NaN", || {
        x.layer_norm(x.slice(0, 0..1).reshape([3]), None, f32::NAN)
    });
    misuse("rms_norm: ε is -1", || {
        x.rms_norm(x.slice(0, 0..1).reshape([3]), -1.0)
    });
}

/// Checks that an operation refuses integers.
fn integers<'t>(name: &str, record: &dyn Fn() -> Var<'t>) {
    let (message, file, _) = panic_of(|| {
        record();
    });
    let expected = message.starts_with(&format!("{name}: ")) && message.contains("U32");
    assert!(expected, "{name}: {message}");
    assert!(
        file == file!(),
        "{name}: not at the caller's line but in {file}: {message}"
    );
}

/// Integers where floats belong: every operation that reads numbers names itself and says what to do.
#[test]
fn integers_are_not_read_as_floats() {
    let tape = Tape::training(device());
    let ids = tape.input([2, 4], &[1u32; 8]);
    let (x, row) = (
        tape.variable([2, 4], &[0.5; 8]),
        tape.variable([4], &[1.0; 4]),
    );
    for row in TABLE {
        let count = row.inputs.len();
        if count == 0 || row.name == "to_float" {
            continue;
        }
        for odd in 0..count {
            let inputs: Vec<_> = (0..count).map(|i| if i == odd { ids } else { x }).collect();
            let attributes: Vec<f32> = (0..row.attributes.len()).map(|i| 1.0 + i as f32).collect();
            integers(row.name, &|| row.apply(&inputs, &attributes));
        }
    }
    integers("matmul", &|| ids.matmul(x.transpose()));
    integers("matmul", &|| x.matmul(ids.transpose()));
    integers("softmax", &|| ids.softmax());
    integers("log_softmax", &|| ids.log_softmax());
    integers("layer_norm", &|| ids.layer_norm(row, None, 1e-5));
    integers("layer_norm", &|| {
        x.layer_norm(row, Some(ids.slice(0, 0..1).reshape([4])), 1e-5)
    });
    integers("rms_norm", &|| {
        x.rms_norm(ids.slice(0, 0..1).reshape([4]), 1e-5)
    });
    integers("swiglu", &|| ids.swiglu());
    integers("rotary", &|| ids.rotary(x, 1));
    integers("rotary", &|| x.rotary(ids, 1));
    integers("dropout", &|| ids.dropout(0.5));
    integers("pad", &|| ids.pad(0, 1, 1));
    integers("embedding", &|| ids.embedding(ids));
    integers("gather along axis 0", &|| ids.gather(0, ids));
    integers("index_select along axis 0", &|| {
        ids.index_select(0, ids.slice(0, 0..1).reshape([4]))
    });
    integers("cross_entropy", &|| {
        ids.cross_entropy(ids.slice(1, 0..1).reshape([2]), CrossEntropy::default())
    });
    integers("sum", &|| ids.sum(&[0]));
    integers("mean", &|| ids.mean_all());
    integers("max", &|| ids.max(&[1]));
    integers("min", &|| ids.min(&[1]));
    integers("var", &|| ids.var(&[1]));
    integers("argmax", &|| ids.argmax(1));
    integers("backward", &|| {
        tape.backward(ids.slice(0, 0..1).slice(1, 0..1))
            .of(x)
            .unwrap()
    });
}

/// Halves where something else belongs, or the other way round, and parts of them that share a word.
#[test]
fn halves_are_not_taken_for_others() {
    let device = device();
    let tape = Tape::training(device);
    let tensor = Tensor::zeros(device, [7], DType::F16).unwrap();
    let half = tape.tensor(&tensor);
    misuse("the tensor holds another type: F16 [7], not F32", || {
        tensor.write(&[0.0f32; 7])
    });
    misuse("the tensor holds another type: F16 [7], not F32", || {
        tensor.to_vec::<f32>()
    });
    misuse("cuts a word in two", || tensor.part(1, [2]));
    misuse("cuts a word in two", || tensor.part(2, [3]));
    misuse("reaches beyond a tensor of 7 elements", || {
        tensor.part(6, [2])
    });
    let end = tensor.part(4, [3]);
    misuse("cuts a word in two", || end.part(1, [2]));
    assert_eq!(end.part(2, [1]).shape(), [1].into());
    misuse("fetch: ", || tape.fetch::<f32>(half));
    misuse("fetch: ", || tape.fetch::<f16>(half.cast(DType::F32)));
    misuse(
        "assign: value and destination differ: F32 [7] and F16 [7]",
        || tape.assign(&tensor, tape.full([7], 1.0)),
    );
    misuse("cast: F16 [7] to U32", || half.cast(DType::U32));
    misuse("cast: U32 [] to F16", || tape.scalar(1u32).cast(DType::F16));
    misuse("backward: value and seed differ", || {
        tape.backward_from(half, tape.full([7], 1.0))
    });
    misuse("input: shape [2] is not filled by 3 values", || {
        tape.input([2], &[f16::ONE; 3])
    });
    let ids = tape.input([2], &[f16::ONE; 2]);
    misuse("embedding", || tape.full([3, 2], 1.0).embedding(ids));
}
