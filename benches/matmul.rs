//! Matrix products: square ones, those of a training step, transposed operands, a single row.

use shadegrad::Tape;

use crate::harness::{Session, Size, random};

pub fn benches(session: &mut Session) {
    products(session);
    session.mixed(products);
}

fn products(session: &mut Session) {
    for n in [64, 128, 256, 512, 1024, 4096] {
        let size = match n {
            64 => Size::Tiny,
            4096 => Size::Large,
            _ => Size::Small,
        };
        product(session, size, &format!("square/{n}"), [n, n, n], [false; 2]);
    }
    for (transposed, name) in [
        ([true, false], "tn"),
        ([false, true], "nt"),
        ([true, true], "tt"),
    ] {
        let id = format!("transposed/{name}/512");
        product(session, Size::Small, &id, [512; 3], transposed);
    }
    for (inputs, outputs) in [(64, 192), (768, 2304), (3072, 768), (4096, 4096)] {
        let id = format!("row/1x{inputs}x{outputs}");
        product(session, Size::Small, &id, [1, inputs, outputs], [false; 2]);
    }
    product(
        session,
        Size::Small,
        "row/1x768x4096 transposed",
        [1, 768, 4096],
        [false, true],
    );
    for model in &MODELS {
        model.benches(session);
    }
}

/// The linear layers of a training step.
struct Model {
    d_model: usize,
    /// Inputs and outputs of the widest projection up and down.
    up: usize,
    down: usize,
    /// Tokens of a batch, on a GPU and on a software adapter.
    tokens: [usize; 2],
}

const MODELS: [Model; 4] = [
    // The series' model and its wider sister, with SwiGLU: gate and value are one projection up.
    Model {
        d_model: 32,
        up: 170,
        down: 85,
        tokens: [512, 512],
    },
    Model {
        d_model: 64,
        up: 340,
        down: 170,
        tokens: [512, 512],
    },
    // The 10 M-parameter character model, and GPT-2 small.
    Model {
        d_model: 384,
        up: 1536,
        down: 1536,
        tokens: [16384, 256],
    },
    Model {
        d_model: 768,
        up: 3072,
        down: 3072,
        tokens: [4096, 128],
    },
];

impl Model {
    fn benches(&self, session: &mut Session) {
        let Model {
            d_model,
            up,
            down,
            tokens,
        } = *self;
        let rows = if session.is_large() {
            tokens[0]
        } else {
            tokens[1]
        };
        let layers = [
            ("qkv", d_model, 3 * d_model),
            ("up", d_model, up),
            ("down", down, d_model),
        ];
        for (layer, inputs, outputs) in layers {
            let id = |pass| format!("d{d_model}/{layer}/{pass}");
            let mut pass = |name, shape, transposed| {
                product(session, Size::Small, &id(name), shape, transposed);
            };
            pass("forward", [rows, inputs, outputs], [false, false]);
            pass("input_gradient", [rows, outputs, inputs], [false, true]);
            pass("weight_gradient", [inputs, rows, outputs], [true, false]);
        }
    }
}

/// `[M, K]·[K, N]` for `shape = [M, K, N]`, either operand stored transposed or not.
fn product(session: &mut Session, size: Size, id: &str, shape: [usize; 3], transposed: [bool; 2]) {
    session.kernels(size, &format!("matmul/{id}"), |device| {
        let [m, k, n] = shape;
        let stored = |rows, columns, transposed| {
            if transposed {
                [columns, rows]
            } else {
                [rows, columns]
            }
        };
        let a = random(device, stored(m, k, transposed[0]), 1)?;
        let b = random(device, stored(k, n, transposed[1]), 2)?;
        let c = random(device, [m, n], 0)?;
        Ok(move |tape: &Tape| {
            let [a, b] = [(&a, transposed[0]), (&b, transposed[1])].map(|(tensor, transposed)| {
                let var = tape.tensor(tensor);
                if transposed { var.transpose() } else { var }
            });
            tape.assign(&c, a.matmul(b));
        })
    });
}
