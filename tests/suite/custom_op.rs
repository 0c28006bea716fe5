//! Operations from outside the crate: the example runs, and its gradients are right; what kernels may import; errors.

use crate::common::device;
use shadegrad::ops::{Operation, TensorType};
use shadegrad::tape::{Backward, Dispatch, Lowering};
use shadegrad::{Kernel, Result, Shape, Tape, Var};

#[expect(dead_code, reason = "its `main` reads the arguments of a program")]
#[path = "../../examples/custom_op.rs"]
mod example;

#[test]
fn the_example_checks_itself() {
    example::run().unwrap_or_else(|error| panic!("{error}"));
}

/// `Σⱼ xᵢⱼ · sᵢⱼ` for every row, with signs at random: a kernel that imports rows' teams and random words.
#[derive(Debug, Hash)]
struct SignedSums {
    source: &'static str,
    /// Declared on top.
    more: &'static str,
}

/// Team t of a workgroup has row t; its lanes go through the columns together.
const SIGNED_SUMS: &str = "
import shadegrad::philox;
import shadegrad::team;

struct Params { rows: u32, columns: u32, input: u32, output: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(LANES * TEAMS)
fn signed_sums(@builtin(workgroup_id) group: vec3<u32>, place: Place) {
    let row = group.x * TEAMS + team_of(place);
    var sum = 0.0;
    for (var column = lane_of(place); column < p.columns; column += LANES) {
        let words = random_words(vec4<u32>(7u), 0u, row * p.columns + column);
        let value = x[p.input + min(row, p.rows - 1u) * p.columns + column];
        sum += select(value, -value, (words.x & 1u) == 1u);
    }
    sum = sums_over_team(vec2<f32>(sum, 0.0), place).x;
    if (row < p.rows && lane_of(place) == 0u) { sums[p.output + row] = sum; }
}
";

impl Operation for SignedSums {
    fn name(&self) -> &'static str {
        "signed_sums"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let shape = Shape::new(&[inputs[0].shape.dim(0)]);
        vec![TensorType { shape, ..inputs[0] }]
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        node.not_differentiable("it is only a test")
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let (x, sums) = (cx.contiguous(&cx.input(0)), cx.output(0));
        let [rows, columns] = [0, 1].map(|axis| x.shape().dim(axis));
        let kernel = Kernel::new("signed_sums", self.source, "signed_sums")
            .constant("LANES", 8)
            .constant("TEAMS", 4)
            .declare(self.more);
        cx.dispatch(
            Dispatch::new(kernel)
                .read(&x)
                .write(&sums)
                .params(&[rows as u32, columns as u32, x.offset(), sums.offset()])
                .groups(rows.div_ceil(4))
                .iterations(columns.div_ceil(8) + 64),
        );
    }
}

fn signed_sums(source: &'static str, more: &'static str) -> Result<Vec<f32>> {
    let (rows, columns) = (5, 37);
    let tape = Tape::inference(device());
    let x = tape.input([rows, columns], &vec![1f32; rows * columns]);
    let sums = tape.fetch::<f32>(tape.record(SignedSums { source, more }, &[x]));
    tape.run()?;
    sums.get()
}

#[test]
fn kernels_may_import_the_crates() {
    let sums = signed_sums(SIGNED_SUMS, "").unwrap();
    // Sums of 37 signs: odd, not all the same, and the same again.
    assert!(sums.iter().all(|sum| sum.abs() <= 37.0 && sum % 2.0 != 0.0));
    assert!(sums.iter().any(|sum| *sum != sums[0]));
    // Imported once more, which changes no constant.
    assert_eq!(
        signed_sums(SIGNED_SUMS, "import shadegrad::team;").unwrap(),
        sums
    );
    // Other declarations of the same names come instead.
    let words =
        "fn random_words(key: vec4<u32>, stream: u32, block: u32) -> vec4<u32> { return key; }";
    assert_eq!(signed_sums(SIGNED_SUMS, words).unwrap(), [-37.0; 5]);
}

#[test]
fn errors_name_the_place() {
    let place = |source: &str, more| {
        let error = signed_sums(source.to_owned().leak(), more)
            .unwrap_err()
            .to_string();
        let (_, reason) = error.split_once("does not compile: ").unwrap();
        println!("{reason}");
        let mut words = reason.splitn(4, ':').map(str::to_owned);
        [(); 4].map(|()| words.next().unwrap())
    };
    // In the source itself, at the line that begins with `var sum`, the sixth word.
    let line = 1 + SIGNED_SUMS
        .lines()
        .position(|line| line.contains("var sum"))
        .unwrap();
    let [file, at, column, what] = place(&SIGNED_SUMS.replace("sum = 0.0", "sum = nothing"), "");
    assert_eq!([file, at, column], ["signed_sums", &line.to_string(), "15"]);
    assert!(
        what.contains("`nothing`") && what.contains("^^^^^^^"),
        "{what}"
    );
    // Where it doesn't parse.
    let [file, at, ..] = place(&SIGNED_SUMS.replace("var sum = 0.0", "var sum 0.0"), "");
    assert_eq!([file, at], ["signed_sums", &line.to_string()]);
    // In a file that is imported, which this makes wrong.
    let team = include_str!("../../shaders/team.wgsl");
    let line = 1 + team
        .lines()
        .position(|line| line.contains("fn lane_of"))
        .unwrap();
    let [file, at, ..] = place(SIGNED_SUMS, "const LANES: vec2<u32> = vec2<u32>(8u);");
    assert!(
        file == "team.wgsl" && at.parse::<usize>().is_ok(),
        "{file}:{at}, {line}"
    );
}

#[test]
#[should_panic(expected = "kernel `x`: x:2: there is no `shadegrad::teams` to import")]
fn imports_have_to_exist() {
    drop(Kernel::new("x", "\nimport shadegrad::teams;", "x"));
}

#[test]
#[should_panic(expected = "kernel `x`: x:3: `team_of` is declared in team.wgsl:")]
fn nothing_is_declared_twice() {
    let source = "\nimport shadegrad::team;\nfn team_of() {}";
    drop(Kernel::new("x", source, "x"));
}

/// Naga would not see it, where nothing uses them.
#[test]
#[should_panic(expected = "kernel `x`: x:3: `f` is declared in line 2, too")]
fn names_are_declared_once() {
    let source = "import shadegrad::grid;\nfn f() {}\nfn f() { return; }";
    drop(Kernel::new("x", source, "main"));
}
