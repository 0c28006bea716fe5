//! SwiGLU at the end of the projection whose rows it reads: one kernel where the epilogue has whole rows, and the same
//! values as from two.

use shadegrad::tape::Fusion;
use shadegrad::{DType, Tape, Var, f16};

use crate::common::{Random, assert_close, assert_close_f32, devices, run_counted};
use crate::ops::gates::gelu_tanh64;

/// Everything but gates.
const APART: Fusion = Fusion {
    gate: false,
    ..Fusion::ON
};

/// `x·w` with `w` of two halves.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    depth: usize,
    half: usize,
    is_transposed: bool,
    has_bias: bool,
}

impl Case {
    const fn new(rows: usize, depth: usize, half: usize) -> Case {
        Case {
            rows,
            depth,
            half,
            is_transposed: false,
            has_bias: false,
        }
    }

    fn x(&self) -> Vec<f32> {
        Random::new(1).values(self.rows * self.depth, -1.0, 1.0)
    }

    /// `[depth, 2·half]`, or `[2·half, depth]` if transposed.
    fn w(&self) -> Vec<f32> {
        let most = 2.0 / (self.depth as f64).sqrt();
        Random::new(2).values(self.depth * 2 * self.half, -most, most)
    }

    fn bias(&self) -> Vec<f32> {
        Random::new(3).values(2 * self.half, -1.0, 1.0)
    }

    /// The leaves `x`, `w` and the bias, and the rows.
    fn record<'t>(&self, tape: &'t Tape) -> (Vec<Var<'t>>, Var<'t>) {
        let x = tape.variable([self.rows, self.depth], &self.x());
        let mut leaves = vec![x];
        let mut rows = if self.is_transposed {
            leaves.push(tape.variable([2 * self.half, self.depth], &self.w()));
            x.matmul(leaves[1].transpose())
        } else {
            leaves.push(tape.variable([self.depth, 2 * self.half], &self.w()));
            x.matmul(leaves[1])
        };
        if self.has_bias {
            leaves.push(tape.variable([2 * self.half], &self.bias()));
            rows = rows + leaves[2];
        }
        (leaves, rows)
    }

    fn expected(&self, kind: Kind) -> Vec<f64> {
        let &Case {
            depth, half, rows, ..
        } = self;
        let (x, w, bias) = (self.x(), self.w(), self.bias());
        let column = |row: usize, column: usize| -> f64 {
            let product: f64 = (0..depth)
                .map(|k| {
                    let at = if self.is_transposed {
                        column * depth + k
                    } else {
                        k * 2 * half + column
                    };
                    f64::from(x[row * depth + k]) * f64::from(w[at])
                })
                .sum();
            product
                + if self.has_bias {
                    f64::from(bias[column])
                } else {
                    0.0
                }
        };
        let places = (0..rows).flat_map(|row| (0..half).map(move |i| (row, i)));
        places
            .map(|(row, i)| kind.oracle(column(row, i)) * column(row, half + i))
            .collect()
    }
}

/// What a gate goes through.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Swiglu,
    GegluTanh,
}

impl Kind {
    fn on(self, rows: Var<'_>) -> Var<'_> {
        match self {
            Kind::Swiglu => rows.swiglu(),
            Kind::GegluTanh => rows.geglu_tanh(),
        }
    }

    fn oracle(self, x: f64) -> f64 {
        match self {
            Kind::Swiglu => x / (1.0 + (-x).exp()),
            Kind::GegluTanh => gelu_tanh64(x),
        }
    }
}

/// Sums are added up in the same order, so the bits are the same.
fn assert_same_bits(what: &str, fused: &[Vec<f32>], apart: &[Vec<f32>]) {
    let bits = |values: &[Vec<f32>]| -> Vec<Vec<u32>> {
        let each = values.iter();
        each.map(|x| x.iter().map(|x| x.to_bits()).collect())
            .collect()
    };
    assert!(bits(fused) == bits(apart), "{what}");
}

/// The values, on all devices, and that fusing takes a dispatch off and changes no bit.
fn check(case: Case) {
    check_kind(case, Kind::Swiglu);
}

fn check_kind(case: Case, kind: Kind) {
    let expected = case.expected(kind);
    for (index, device) in devices().into_iter().enumerate() {
        let what = format!("{case:?}, device {index}");
        let hidden =
            |fusion| run_counted(device, fusion, |tape| vec![kind.on(case.record(tape).1)]);
        let (fused, dispatches) = hidden(Fusion::ON);
        let (apart, more) = hidden(APART);
        assert_eq!(dispatches + 1, more, "{what}");
        assert_close(&what, &fused[0], &expected, 1e-5, 1e-5);
        assert_same_bits(&what, &fused, &apart);
    }
}

#[test]
fn halves_of_any_width() {
    for (rows, half) in [(5, 3), (33, 85), (70, 88), (9, 46)] {
        check(Case::new(rows, 24, half));
    }
}

/// As in decoding; the depth is shared on GPUs.
#[test]
fn few_rows() {
    for (rows, depth, half) in [
        (1, 200, 40),
        (1, 30, 21),
        (1, 16, 544),
        (1, 16, 516),
        (3, 70, 13),
        (4, 16, 8),
    ] {
        for kind in [Kind::Swiglu, Kind::GegluTanh] {
            check_kind(Case::new(rows, depth, half), kind);
        }
    }
    check(Case {
        is_transposed: true,
        has_bias: true,
        ..Case::new(1, 72, 19)
    });
}

#[test]
fn geglu() {
    check_kind(Case::new(33, 24, 40), Kind::GegluTanh);
    check_kind(Case::new(9, 24, 21), Kind::GegluTanh);
}

#[test]
fn transposed_weights() {
    for half in [20, 21] {
        check(Case {
            is_transposed: true,
            ..Case::new(40, 18, half)
        });
    }
}

#[test]
fn biases_come_before_the_gate() {
    for half in [16, 19] {
        check(Case {
            has_bias: true,
            ..Case::new(33, 20, half)
        });
    }
}

/// Enough for the larger tiles on GPUs, square and wide, and so deep that workgroups share the depth there.
#[test]
fn all_tiles() {
    check(Case::new(1024, 8, 512));
    check(Case::new(1024, 8, 511));
    check(Case::new(27, 8, 8192));
    check(Case::new(8, 16_384, 8));
}

/// Every matrix has weights of its own.
#[test]
fn batches() {
    let (batch, depth, half) = (3, 12, 20);
    let case = Case::new(10, depth, half);
    let (x, w) = (
        case.x(),
        Random::new(5).values(batch * depth * 2 * half, -0.5, 0.5),
    );
    for device in devices() {
        let hidden = |fusion| {
            run_counted(device, fusion, |tape| {
                let x = tape.variable([1, 10, depth], &x);
                let w = tape.variable([batch, depth, 2 * half], &w);
                vec![x.matmul(w).swiglu()]
            })
        };
        let ((fused, dispatches), (apart, more)) = (hidden(Fusion::ON), hidden(APART));
        assert_eq!(dispatches + 1, more);
        assert_same_bits("batch", &fused, &apart);
    }
}

/// Other kernels with an epilogue compute the gradient of what a gate made, too: those of norms, of one row and more.
#[test]
fn gradients_behind_norms() {
    for (rows, half) in [(1, 8), (1, 5), (9, 8), (9, 300)] {
        let packed = Random::new(6).values(rows * 2 * half, -2.0, 2.0);
        let weight = Random::new(7).values(half, 0.5, 1.5);
        for device in devices() {
            let gradient = |fusion| {
                run_counted(device, fusion, |tape| {
                    let x = tape.variable([rows, 2 * half], &packed);
                    let weight = tape.variable([half], &weight);
                    let y = x.swiglu().rms_norm(weight, 1e-5);
                    let gradients = tape.backward((y * y * y).sum_all());
                    vec![gradients.of(x).expect("the loss depends on it")]
                })
            };
            let what = format!("{rows} rows of two times {half}");
            let ((fused, _), (apart, _)) = (gradient(Fusion::ON), gradient(APART));
            assert_same_bits(&what, &fused, &apart);
        }
    }
}

/// The rows are stored as well where the gradient needs them, and the gradient of what was made of them is not. The
/// product that computes that has many columns, or few.
#[test]
fn gradients_are_those_of_more_kernels() {
    for (rows, half, has_bias) in [
        (37, 24, false),
        (37, 13, true),
        (3, 24, false),
        (70, 3, true),
    ] {
        let case = Case {
            has_bias,
            ..Case::new(rows, 16, half)
        };
        let kind = [Kind::GegluTanh, Kind::Swiglu][rows % 2];
        let down = Random::new(4).values(half * 20, -0.5, 0.5);
        for device in devices() {
            let gradients = |fusion| {
                run_counted(device, fusion, |tape| {
                    let (mut leaves, rows) = case.record(tape);
                    leaves.push(tape.variable([half, 20], &down));
                    let hidden = kind.on(rows);
                    let result = hidden.matmul(leaves[leaves.len() - 1]);
                    let gradients = tape.backward((result * result).sum_all());
                    let of = |leaf| gradients.of(leaf).expect("it depends on all");
                    let mut results: Vec<_> = leaves.into_iter().map(of).collect();
                    results.extend([rows, hidden]);
                    results
                })
            };
            let (fused, dispatches) = gradients(Fusion::ON);
            let (apart, more) = gradients(APART);
            assert_eq!(dispatches + 2, more, "{case:?}");
            assert_same_bits(&format!("{case:?}"), &fused, &apart);
        }
    }
}

/// What cannot be one kernel is still right: few columns, rows that are a view, a second gate.
#[test]
fn gates_of_their_own() {
    let few = Case::new(9, 16, 2);
    let case = Case::new(24, 16, 12);
    for device in devices() {
        let (hidden, dispatches) =
            run_counted(device, Fusion::ON, |tape| vec![few.record(tape).1.swiglu()]);
        assert_eq!(dispatches, 2);
        assert_close(
            "few columns",
            &hidden[0],
            &few.expected(Kind::Swiglu),
            1e-5,
            1e-5,
        );

        let (hidden, dispatches) = run_counted(device, Fusion::ON, |tape| {
            let rows = case.record(tape).1;
            let reshaped = rows.reshape([2, 12, 24]).swiglu();
            vec![rows.swiglu(), reshaped, rows.slice(1, 6..18).swiglu()]
        });
        // The product with the first gate; the second; the third, of a part of the rows.
        assert_eq!(dispatches, 3);
        let expected = case.expected(Kind::Swiglu);
        assert_close("rows", &hidden[0], &expected, 1e-5, 1e-5);
        assert_close("reshaped", &hidden[1], &expected, 1e-5, 1e-5);
        let (narrow, _) = run_counted(device, Fusion::OFF, |tape| {
            vec![case.record(tape).1.slice(1, 6..18).swiglu()]
        });
        assert_close_f32("part of the rows", &hidden[2], &narrow[0], 1e-5, 1e-5);
    }
}

/// Weights of halves say what the same numbers in `f32` say, of few rows and many, also where the halves of a row begin within
/// a word.
#[test]
fn gates_of_halves() {
    for device in devices() {
        for half in [11, 20] {
            for rows in 1..7 {
                let case = Case::new(rows, 16, half);
                let x = case.x();
                let weights = Random::new(5).values(16 * 2 * half, -1.0, 1.0);
                let weights: Vec<f16> = weights.into_iter().map(f16::from_f32).collect();
                let (hidden, _) = run_counted(device, Fusion::ON, |tape| {
                    let weights = tape.input([16, 2 * half], &weights);
                    let product = |weights| tape.input([rows, 16], &x).matmul(weights);
                    let wide = product(weights.cast(DType::F32));
                    vec![product(weights).swiglu(), wide.swiglu()]
                });
                let what = format!("{rows} rows of {half}");
                assert_close_f32(&what, &hidden[0], &hidden[1], 1e-6, 1e-6);
            }
        }
    }
}
