//! What depends on the outside world fails with an error that names the thing. Devices are opened with odd options and
//! lost on purpose here, so each test has its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shadegrad::ops::{Operation, TensorType};
use shadegrad::tape::{Backward, Dispatch, Lowering};
use shadegrad::{DType, Device, DeviceOptions, Error, Kernel, Tape, Tensor, Var};

/// Some drivers do not like several devices being opened at once.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(limits: wgpu::Limits) -> Device {
    let options = DeviceOptions {
        limits: Some(limits),
        ..DeviceOptions::default()
    };
    Device::with_options(&options).unwrap_or_else(|error| panic!("{error}"))
}

fn device() -> Device {
    open(wgpu::Limits::default())
}

#[track_caller]
fn assert_lost<T>(what: &str, result: Result<T, Error>) {
    match result {
        Err(Error::DeviceLost { .. }) => {}
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: succeeded on a lost device"),
    }
}

#[test]
fn a_lost_device_is_an_error_everywhere() {
    let _alone = alone();
    let device = device();
    let state = Tensor::new(&device, [3], &[1.0f32, 2.0, 3.0]).unwrap();
    let step = || {
        let tape = Tape::training(&device);
        let x = tape.tensor_variable(&state);
        let gradient = tape.backward((x * x).sum_all()).of(x).unwrap();
        tape.assign(&state, x - gradient * 0.1);
        let result = tape.fetch::<f32>(gradient);
        tape.run().map(|()| result)
    };
    step().unwrap().get().unwrap();
    let on_its_way = step().unwrap();

    device.destroy();
    assert_lost("a result on its way", on_its_way.get());
    assert_lost("replay", step());
    assert_lost("is_ready", step().and_then(|result| result.is_ready()));
    assert_lost("wait", device.wait());
    assert_lost("write", state.write(&[0.0f32; 3]));
    assert_lost("to_vec", state.to_vec::<f32>());
    assert_lost("a new tensor", Tensor::new(&device, [2], &[0.0f32; 2]));
    let tape = Tape::inference(&device);
    drop(tape.fetch::<f32>(tape.full([2], 1.0).exp()));
    assert_lost("a new plan", tape.run());
    // Everything is dropped now, without a panic. The adapter is still there.
    let error = device.wait().unwrap_err().to_string();
    assert!(
        error.contains("lost") && error.contains("make a new Device"),
        "{error}"
    );
    drop((on_its_way, state, device));
    let device = self::device();
    assert_eq!(
        Tensor::new(&device, [1], &[4.0f32])
            .unwrap()
            .to_vec::<f32>()
            .unwrap(),
        [4.0]
    );
}

#[track_caller]
fn assert_limit<T>(result: Result<T, Error>, what: &str, numbers: [u64; 2], sizes: [&str; 2]) {
    let error = match result {
        Err(error) => error,
        Ok(_) => panic!("{what}: succeeded beyond the limit"),
    };
    let text = error.to_string();
    assert!(
        matches!(error, Error::Limit { needed, limit, .. } if [needed, limit] == numbers),
        "{error:?}"
    );
    for part in [what, sizes[0], sizes[1], "use a smaller batch"] {
        assert!(text.contains(part), "`{text}` does not name `{part}`");
    }
}

#[test]
fn buffers_beyond_the_limits() {
    let _alone = alone();
    let limit = 1 << 16;
    let device = open(wgpu::Limits {
        max_storage_buffer_binding_size: limit,
        ..wgpu::Limits::default()
    });
    let within = limit as usize / 4;
    Tensor::zeros(&device, [within], DType::F32).unwrap();
    let too_large = Tensor::zeros(&device, [within + 1], DType::F32);
    assert_limit(
        too_large,
        "tensor",
        [limit + 4, limit],
        ["needs 64.0 KiB", "limit is 64.0 KiB"],
    );

    let row = vec![1.0f32; 200];
    let tape = Tape::inference(&device);
    let x = tape.input([200], &row);
    // The product of a row and a column is too large to be kept, as a sum's input must be.
    let table = x.reshape([200, 1]) * x;
    drop(tape.fetch::<f32>(table.sum_all()));
    let sizes = ["needs 156.2 KiB", "limit is 64.0 KiB"];
    assert_limit(tape.run(), "intermediate", [160_000, limit], sizes);

    let tape = Tape::inference(&device);
    let x = tape.input([20_000], &vec![1.0f32; 20_000]);
    drop(tape.fetch::<f32>(x.sum_all()));
    let sizes = ["needs 78.1 KiB", "limit is 64.0 KiB"];
    assert_limit(tape.run(), "inputs", [80_000, limit], sizes);

    // What fits still runs.
    let tape = Tape::inference(&device);
    let sum = tape.fetch::<f32>(tape.input([200], &row).sum_all());
    tape.run().unwrap();
    assert_eq!(sum.item().unwrap(), 200.0);
}

#[test]
fn kernels_beyond_the_limits() {
    let _alone = alone();
    let device = open(wgpu::Limits {
        max_compute_invocations_per_workgroup: 16,
        max_compute_workgroup_size_x: 16,
        ..wgpu::Limits::default()
    });
    let tape = Tape::inference(&device);
    drop(tape.fetch::<f32>(tape.full([2], 1.0).exp()));
    let error = tape.run().unwrap_err();
    assert!(
        matches!(&error, Error::Kernel { kernel, .. } if kernel == "pointwise"),
        "{error}"
    );
}

#[test]
fn limits_that_the_adapter_has_not() {
    let _alone = alone();
    let options = DeviceOptions {
        limits: Some(wgpu::Limits {
            max_compute_workgroup_storage_size: 1 << 30,
            ..wgpu::Limits::default()
        }),
        ..DeviceOptions::default()
    };
    let error = Device::with_options(&options).unwrap_err();
    assert!(matches!(error, Error::DeviceRequest { .. }), "{error}");
    let name = &Device::list_adapters()[0].name;
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn an_adapter_that_is_not_there() {
    let _alone = alone();
    let options = DeviceOptions {
        adapter: Some("Voodoo 2".to_owned()),
        ..DeviceOptions::default()
    };
    let error = Device::with_options(&options).unwrap_err();
    assert!(matches!(&error, Error::NoSuchAdapter { wanted, .. } if wanted == "Voodoo 2"));
    // There are others, so no driver is missing.
    let text = error.to_string();
    let first = format!("0: {}", Device::list_adapters()[0].name);
    assert!(
        text.contains("`Voodoo 2`") && text.contains(&first) && !text.contains("install"),
        "{text}"
    );
    for wanted in ["", " ", "1000", "-1"] {
        let options = DeviceOptions {
            adapter: Some(wanted.to_owned()),
            ..DeviceOptions::default()
        };
        let error = Device::with_options(&options).unwrap_err();
        assert!(matches!(error, Error::NoSuchAdapter { .. }), "{error}");
    }
}

#[test]
fn adapters_are_chosen_by_index_name_and_backend() {
    let _alone = alone();
    let first = Device::list_adapters().remove(0);
    for wanted in ["0", &first.name.to_uppercase(), &first.backend] {
        let options = DeviceOptions {
            adapter: Some(wanted.to_owned()),
            ..DeviceOptions::default()
        };
        let device = Device::with_options(&options).unwrap();
        assert_eq!(device.description().backend, first.backend);
    }
}

/// An operation that runs whatever kernel it is given, with two inputs and one output.
#[derive(Debug, Hash)]
struct Custom {
    source: &'static str,
    entry: &'static str,
    /// Binds the first input for writing as well.
    overwrites: bool,
}

impl Operation for Custom {
    fn name(&self) -> &'static str {
        "custom"
    }
    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![inputs[0]]
    }
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is a test; use something else")
    }
    fn lower(&self, cx: &mut Lowering<'_>) {
        let kernel = Kernel::new("my_kernel", self.source, self.entry);
        let (x, y) = (cx.input(0), cx.input(1));
        let last = if self.overwrites { x } else { cx.output(0) };
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&x)
                .read(&y)
                .write(&last)
                .params(&[3]),
        );
    }
}

const GOOD: &str = "
@group(0) @binding(0) var<uniform> count: vec4<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> z: array<f32>;
@compute @workgroup_size(4) fn main(@builtin(local_invocation_index) i: u32) {
    if (i < count.x) { z[i] = 10.0 * x[i] + y[i + 4u]; }
}";

fn run_custom(
    device: &Device,
    source: &'static str,
    entry: &'static str,
) -> Result<Vec<f32>, Error> {
    let tape = Tape::inference(device);
    let x = tape.input([3], &[1.0f32, 2.0, 3.0]);
    let y = tape.input([3], &[4.0f32, 5.0, 6.0]);
    let custom = Custom {
        source,
        entry,
        overwrites: false,
    };
    let z = tape.fetch::<f32>(tape.record(custom, &[x, y]));
    tape.run()?;
    z.get()
}

#[test]
fn kernels_that_do_not_compile() {
    let _alone = alone();
    let device = device();
    let wrong = [
        // What is wrong, and a word that the message must have.
        ("fn main( {", "main", "expected"),
        (
            "@compute @workgroup_size(4) fn main() { let x: u32 = 1.0; }",
            "main",
            "type",
        ),
        (GOOD, "mian", "mian"),
        // A binding that the dispatch does not have, and one that it has for reading only.
        (
            "@group(0) @binding(9) var<storage, read_write> z: array<f32>;
          @compute @workgroup_size(4) fn main() { z[0] = 1.0; }",
            "main",
            "binding",
        ),
        (
            "@group(0) @binding(1) var<storage, read_write> x: array<f32>;
          @compute @workgroup_size(4) fn main() { x[0] = 1.0; }",
            "main",
            "binding",
        ),
        (
            "@compute @workgroup_size(1024) fn main() {}",
            "main",
            "1024",
        ),
    ];
    for (source, entry, word) in wrong {
        let error = run_custom(&device, source, entry).unwrap_err();
        assert!(
            matches!(&error, Error::Kernel { kernel, .. } if kernel == "my_kernel"),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.to_lowercase().contains(word),
            "`{word}` is not in: {text}"
        );
    }
    // The device is none the worse. (Inputs lie 16 bytes apart in the upload, so `y` starts at its element 4.)
    assert_eq!(
        run_custom(&device, GOOD, "main").unwrap(),
        [14.0, 25.0, 36.0]
    );
}

#[test]
fn results_before_the_tape_has_run() {
    let _alone = alone();
    let device = device();
    let tape = Tape::inference(&device);
    let y = tape.fetch::<f32>(tape.full([2, 3], 1.0));
    assert!(!y.is_ready().unwrap());
    let error = y.get().unwrap_err();
    assert!(matches!(error, Error::Readback { .. }));
    assert_eq!(
        error.to_string(),
        "cannot read `value of shape [2, 3]` back: the tape has not run yet: call Tape::run first"
    );
    // A tape that is dropped never runs.
    drop(tape);
    assert!(y.get().is_err());
}

/// The message of something that must panic.
fn panic_of(misuse: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(misuse)).expect_err("misuse went unnoticed");
    *payload
        .downcast::<String>()
        .expect("the message is formatted")
}

#[test]
fn gradients_that_do_not_exist_say_what_to_do() {
    let _alone = alone();
    let device = device();
    let tape = Tape::training(&device);
    let x = tape.variable([3], &[0.0; 3]);
    let custom = Custom {
        source: GOOD,
        entry: "main",
        overwrites: false,
    };
    let loss = tape.record(custom, &[x, x]).sum_all();
    let message = panic_of(|| drop(tape.backward(loss)));
    assert_eq!(
        message,
        "custom: no gradient: it is a test; use something else"
    );
}

#[test]
fn one_buffer_bound_both_ways_is_refused() {
    let _alone = alone();
    let device = device();
    let tensor = Tensor::new(&device, [3], &[1.0f32, 2.0, 3.0]).unwrap();
    let tape = Tape::inference(&device);
    let x = tape.tensor(&tensor);
    let custom = Custom {
        source: GOOD,
        entry: "main",
        overwrites: true,
    };
    drop(tape.fetch::<f32>(tape.record(custom, &[x, x])));
    let message = panic_of(|| drop(tape.run()));
    assert!(
        message.contains("kernel `my_kernel` binds one buffer both for reading and for writing"),
        "{message}"
    );
    // Nothing is left locked.
    assert_eq!(tensor.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    run_custom(&device, GOOD, "main").unwrap();
}

/// Writes four elements to its first input, and twice as much to its second, as an array of other elements if these are named.
#[derive(Debug, Hash)]
struct Neighbours {
    elements: &'static str,
}

impl Operation for Neighbours {
    fn name(&self) -> &'static str {
        "neighbours"
    }
    fn outputs(&self, _inputs: &[TensorType]) -> Vec<TensorType> {
        Vec::new()
    }
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is a test; use something else")
    }
    fn mutates(&self) -> &[usize] {
        &[0, 1]
    }
    fn lower(&self, cx: &mut Lowering<'_>) {
        let elements = self.elements;
        let source = format!(
            "
@group(0) @binding(0) var<uniform> at: vec4<u32>;
@group(0) @binding(1) var<storage, read_write> one: array<f32>;
@group(0) @binding(2) var<storage, read_write> other: array<{elements}>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@compute @workgroup_size(4) fn main(@builtin(local_invocation_index) i: u32) {{
    one[at.x + i] = x[at.z + i];
    other[at.y + i] = {elements}(2.0 * x[at.z + i]);
}}"
        );
        let [one, other, x] = [0, 1, 2].map(|index| cx.input(index));
        cx.dispatch(
            Dispatch::new(Kernel::new("two_parts", source, "main"))
                .write(&one)
                .write(&other)
                .read(&x)
                .params(&[one.offset(), other.offset(), x.offset(), 0]),
        );
    }
}

#[test]
fn neighbours_are_bound_once() {
    let _alone = alone();
    let device = device();
    // Of tensors that begin with the buffer or 256 bytes later, and overlap or not.
    for (one, other) in [(0, 4), (60, 64), (64, 60), (62, 70), (4, 100), (68, 4)] {
        let tensor = Tensor::zeros(&device, [200], DType::F32).unwrap();
        let tape = Tape::inference(&device);
        let parts = [one, other].map(|at| tape.tensor(&tensor.part(at, [4])));
        let x = tape.input([4], &[1.0f32, 2.0, 3.0, 4.0]);
        let neighbours = Neighbours { elements: "f32" };
        tape.record_all(neighbours, &[parts[0], parts[1], x]);
        tape.run().unwrap();
        let mut expected = vec![0.0; 200];
        for i in 0..4 {
            expected[one + i] = 1.0 + i as f32;
            expected[other + i] = 2.0 + 2.0 * i as f32;
        }
        assert_eq!(tensor.to_vec::<f32>().unwrap(), expected, "{one}, {other}");
    }
    let texts = device.kernels();
    let texts: Vec<&String> = texts.iter().map(|(_, text)| text).collect();
    let has = |what: &str| texts.iter().any(|text| text.contains(what));
    assert!(
        has("one[64u + (at.y + i)]") && has("one[0u + (at.x + i)]"),
        "{texts:?}"
    );
    assert!(
        has("@binding(2) var<storage, read> x")
            && has("@binding(2) var<storage, read_write> other")
    );
}

#[test]
fn overlapping_bindings_for_writing_are_refused() {
    let _alone = alone();
    let device = device();
    let tensor = Tensor::zeros(&device, [200], DType::F32).unwrap();
    let tape = Tape::inference(&device);
    let parts = [0, 4].map(|at| tape.tensor(&tensor.part(at, [4])));
    let x = tape.input([4], &[1.0f32; 4]);
    let neighbours = Neighbours {
        elements: "vec4<f32>",
    };
    tape.record_all(neighbours, &[parts[0], parts[1], x]);
    let message = panic_of(|| drop(tape.run()));
    assert!(
        message.contains("kernel `two_parts` binds overlapping parts of one buffer for writing, as bindings 1 and 2"),
        "{message}"
    );
}
