//! Every shader file and every generated kernel parses, validates, and stays within WebGPU's default limits and the rules
//! for kernels in `docs/adding-an-op.md`. The files are checked without a GPU.

use std::path::Path;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Expression, Handle, Module, TypeInner};
use shadegrad::ops::attention::{Attention, Mask, attention};
use shadegrad::ops::pointwise::TABLE;
use shadegrad::{AdapterClass, Device, Kernel, Tape, Var};

use crate::common::{Random, new_devices};

/// Files that need what the files have that import them.
const INCOMPLETE: &[&str] = &[
    "attention_squares",
    "attention_pairs",
    "attention_rows",
    "attention_rows_shuffles",
    "epilogue",
    "rows",
];

/// A file of sections, each of which declares the operands `a` and `b` of another file again.
const SECTIONS: (&str, &str) = ("matmul_operands", "matmul_subgroup8");

/// What a text uses beyond the portable core. Kernels that do are only made where the adapter has the feature.
///
/// # Panics
///
/// If it has both matrix units and subgroup operations: NVIDIA's driver crashes.
fn capabilities(source: &str) -> Capabilities {
    let code = source.lines().map(|line| line.split("//").next());
    let code: Vec<&str> = code.map(Option::unwrap_or_default).collect();
    let has = |word: &str| code.iter().any(|line| line.contains(word));
    assert!(
        !has("coop_mat") || !has("subgroup"),
        "matrix units and subgroups in one module"
    );
    [
        ("subgroup", Capabilities::SUBGROUP),
        ("f16", Capabilities::SHADER_FLOAT16),
        ("coop_mat", Capabilities::COOPERATIVE_MATRIX),
    ]
    .into_iter()
    .filter(|(word, _)| has(word))
    .map(|(_, capability)| capability)
    .collect()
}

/// Storage bindings that one entry point may use.
const MOST_STORAGE: usize = 7;
const MOST_INVOCATIONS: u32 = 256;
const MOST_WORKGROUP_BYTES: u32 = 16 << 10;
const MOST_UNIFORM_BYTES: u32 = 64 << 10;

fn read(name: &str) -> String {
    let path = format!("{}/shaders/{name}.wgsl", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// A file with what it imports. What is declared when a kernel is made has examples in `tests/shaders`.
fn composed(name: &'static str, entry: &'static str) -> Kernel {
    let kernel = Kernel::new(name, read(name), entry);
    let path = format!("{}/tests/shaders/{name}.wgsl", env!("CARGO_MANIFEST_DIR"));
    match std::fs::read_to_string(path) {
        Ok(example) => kernel.declare(&example),
        Err(_) => kernel,
    }
}

/// Parses and validates, or says what is wrong with the text.
fn validate(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(source, name)));
    let mut validator = Validator::new(ValidationFlags::all(), capabilities(source));
    let info = validator
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(source, name)));
    (module, info)
}

/// Holds a kernel's text to the limits and rules.
fn check(name: &str, source: &str) {
    let (module, info) = validate(name, source);
    for (index, entry) in module.entry_points.iter().enumerate() {
        let what = format!("{name}, entry point {}", entry.name);
        let invocations: u32 = entry.workgroup_size.iter().product();
        assert!(
            invocations <= MOST_INVOCATIONS,
            "{what}: {invocations} invocations"
        );
        let mut storage = 0;
        let mut workgroup_bytes = 0;
        for (handle, variable) in module.global_variables.iter() {
            if info.get_entry_point(index)[handle].is_empty() {
                continue;
            }
            let binding = variable
                .binding
                .map(|binding| (binding.group, binding.binding));
            match variable.space {
                AddressSpace::Storage { .. } => {
                    storage += 1;
                    assert!(
                        matches!(binding, Some((0, 1..))),
                        "{what}: storage is bound in group 0 from 1 on"
                    );
                }
                // The parameters.
                AddressSpace::Uniform if binding == Some((0, 0)) => {}
                // An operand that the planner has read from a uniform buffer.
                AddressSpace::Uniform => {
                    let ty = &module.types[variable.ty].inner;
                    let bytes = ty.size(module.to_ctx());
                    assert!(
                        matches!(binding, Some((0, 1..)))
                            && matches!(ty, TypeInner::Array { .. })
                            && bytes <= MOST_UNIFORM_BYTES,
                        "{what}: {bytes} bytes of {ty:?} at {binding:?}"
                    );
                }
                AddressSpace::WorkGroup => {
                    workgroup_bytes += module.types[variable.ty].inner.size(module.to_ctx());
                }
                _ => {}
            }
        }
        assert!(
            storage <= MOST_STORAGE,
            "{what}: {storage} storage bindings"
        );
        assert!(
            workgroup_bytes <= MOST_WORKGROUP_BYTES,
            "{what}: {workgroup_bytes} bytes of workgroup memory"
        );
    }
    let has_subgroups = capabilities(source).contains(Capabilities::SUBGROUP);
    if has_subgroups && UNROLLED_BY_THEIR_DRIVER.contains(&name) {
        return;
    }
    for (_, function) in module.functions.iter() {
        refuse_dynamic_local_arrays(name, &module, function);
    }
    for entry in &module.entry_points {
        refuse_dynamic_local_arrays(name, &module, &entry.function);
    }
}

/// Kernels that only ever run on software adapters with subgroups of eight lanes, whose driver unrolls their loops.
const UNROLLED_BY_THEIR_DRIVER: &[&str] = &[
    "norm_subgroup8",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
];

/// Arrays local to a function are indexed by constants only: some compilers refuse anything else, others move the array
/// to memory.
fn refuse_dynamic_local_arrays(name: &str, module: &Module, function: &naga::Function) {
    for (_, expression) in function.expressions.iter() {
        let Expression::Access { base, .. } = *expression else {
            continue;
        };
        if let Some(variable) = local_array(module, function, base) {
            panic!(
                "{name}: the local array `{variable}` is indexed by something that is not constant"
            );
        }
    }
}

/// The name of the local variable that `base` points at, if that is an array.
fn local_array(
    module: &Module,
    function: &naga::Function,
    base: Handle<Expression>,
) -> Option<String> {
    let Expression::LocalVariable(variable) = function.expressions[base] else {
        return None;
    };
    let variable = &function.local_variables[variable];
    let is_array = matches!(
        module.types[variable.ty].inner,
        naga::TypeInner::Array { .. }
    );
    is_array.then(|| variable.name.clone().unwrap_or_default())
}

/// The files' names; the few that there are may stay in memory.
fn files() -> Vec<&'static str> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<&str> = names
        .map(|name| &*name.strip_suffix(".wgsl").unwrap().to_owned().leak())
        .collect();
    names.sort_unstable();
    assert!(names.len() > 5, "{names:?}");
    names
}

#[test]
fn every_file_is_valid() {
    for name in files().into_iter().filter(|&name| name != SECTIONS.0) {
        // Every file can be imported.
        drop(Kernel::new(name, format!("import shadegrad::{name};"), ""));
        if INCOMPLETE.contains(&name) {
            continue;
        }
        let whole = composed(name, "").wgsl();
        check(name, &whole);
        for entry in validate(name, &whole).0.entry_points {
            check(name, &composed(name, entry.name.leak()).wgsl());
        }
    }
    let shuffled = composed("attention_tiled", "").declare(&read("attention_rows_shuffles"));
    check("attention_tiled with shuffles", &shuffled.wgsl());
}

#[test]
fn every_section_fits() {
    let (sections, host) = SECTIONS;
    let text = read(sections);
    let mut count = 0;
    for section in text.split("// section ").skip(1) {
        let (name, section) = section.split_once('\n').unwrap();
        for (operand, binding, outer) in [("a", "1", "p.m"), ("b", "2", "p.n")] {
            let section = section
                .replace("X_", &format!("{operand}_"))
                .replace("X[", &format!("{operand}["))
                .replace(" X:", &format!(" {operand}:"))
                .replace("LD", &format!("p.ld{operand}"))
                .replace("OUTER", outer)
                .replace("BINDING", binding);
            let kernel = composed(host, "matmul").declare(&section);
            check(&format!("{host} with {name}"), &kernel.wgsl());
            count += 1;
        }
    }
    assert_eq!(count, 8);
}

/// A step with kernels of many kinds, forward and backward, some fused and some not.
fn exercise(device: &Device, random: &mut Random) {
    for row in TABLE
        .iter()
        .filter(|row| !row.inputs.is_empty() && row.name != "to_float")
    {
        let tape = Tape::training(device);
        let shapes: [&[usize]; 3] = [&[3, 8], &[8], &[3, 1]];
        let inputs: Vec<Var<'_>> = (0..row.inputs.len())
            .map(|input| {
                let elements = shapes[input].iter().product();
                let (low, high) = row.domain[input];
                tape.variable(shapes[input], &random.values(elements, low, high))
            })
            .collect();
        let attributes: Vec<f32> = row.domain[row.inputs.len()..]
            .iter()
            .map(|&(low, _)| low as f32)
            .collect();
        let output = row.apply(&inputs, &attributes);
        let gradients = tape.backward((output * output).sum_all());
        for gradient in inputs.iter().filter_map(|&input| gradients.of(input)) {
            drop(tape.fetch::<f32>(gradient));
        }
        tape.run().unwrap();
    }

    for width in [6, 8] {
        let tape = Tape::training(device);
        let x = tape.variable([5, width], &random.values(5 * width, -1.0, 1.0));
        let w = tape.variable([width, width], &random.values(width * width, -1.0, 1.0));
        let b = tape.variable([width], &random.values(width, -1.0, 1.0));
        // Products with every operand transposed or not, with and without an epilogue.
        let hidden = (x.matmul(w) + b).gelu() + x;
        let products = hidden.transpose().matmul(x).matmul(w.transpose());
        // Gates at the end of products, and by themselves.
        let gated = hidden.matmul(w).swiglu() + w.swiglu().slice(0, 0..5);
        // Views that need copies, padding, sums over inner and outer axes.
        let views = products
            .transpose()
            .reshape([width * width])
            .slice(0, 3..width * width - 2);
        // Whole rows at once.
        let rows = x.layer_norm(b, Some(b), 1e-5).softmax() + x.rms_norm(b, 1e-5).log_softmax();
        let loss = rows.max(&[1]).sum_all()
            + views.sum_all()
            + products.sum(&[0]).pad(0, 1, 2).exp().sum_all()
            + hidden.sum(&[1]).sum_all()
            + gated.sum_all();
        let gradients = tape.backward(loss);
        for leaf in [x, w, b] {
            drop(tape.fetch::<f32>(gradients.of(leaf).unwrap()));
        }
        tape.run().unwrap();

        // Attention with every option, packed and not, with a head size of three or four.
        let tape = Tape::training(device);
        let values = random.values(4 * 3 * width, -1.0, 1.0);
        let x = tape.variable([2, 2, 3 * width], &values);
        let config = Attention::causal(2).with_dropout(0.5);
        let mask = Mask::Additive(tape.input([2, 2], &[0.0, 1.0, 2.0, 3.0]));
        let packed = x.masked_packed_attention(mask, &config);
        let q = packed.reshape([2, 2, 2, width / 2]);
        let mask = Mask::Boolean(tape.input([2], &[1u32, 0]));
        let separate = attention(q, q, q, Some(mask), &config);
        let gradient = tape.backward(separate.sum_all()).of(x).unwrap();
        drop(tape.fetch::<f32>(gradient));
        tape.run().unwrap();
    }
}

#[test]
fn every_generated_kernel_is_valid() {
    // What other tests have left is none of the planner's.
    for device in new_devices() {
        exercise(device, &mut Random::new(1));
        // Drivers do not take it well when the process ends while they compile.
        device.wait().unwrap();
        let kernels = device.kernels();
        assert!(
            kernels
                .iter()
                .filter(|(name, _)| *name == "pointwise")
                .count()
                > 40
        );
        // What was fused horizontally is there too.
        let pairs: &[&str] = match device.class() {
            AdapterClass::Software => &["matmul_pair"],
            AdapterClass::Gpu => &["matmul_pair", "attention_gradient", "norm_parameters"],
        };
        for pair in pairs {
            let is_pair =
                |(name, source): &(&str, String)| name == pair && source.contains("fn horizontal(");
            assert!(kernels.iter().any(is_pair), "{pair}");
        }
        for (name, source) in &kernels {
            check(name, source);
        }
    }
}

#[test]
#[should_panic(expected = "the local array `x` is indexed by something that is not constant")]
fn dynamic_indices_are_noticed() {
    let source = "@compute @workgroup_size(1) fn main(@builtin(local_invocation_index) i: u32) {
        var x: array<f32, 4>;
        x[i] = 1.0;
    }";
    check("test", source);
}

#[test]
#[should_panic(expected = "test, entry point main: 512 invocations")]
fn large_workgroups_are_noticed() {
    let source = "@compute @workgroup_size(32, 16) fn main() {}";
    check("test", source);
}
