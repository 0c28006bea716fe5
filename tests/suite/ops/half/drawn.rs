//! Drawn programs on halves and on what is wide, in one: of whole numbers so small that neither type rounds them, so that
//! every element, and every gradient, is what plain loops on the host and the same program in `F32` make of it.

use shadegrad::tape::{Fusion, Precision};
use shadegrad::{DType, Device, Shape, Tape, Tensor, Var, f16};

use super::halves;
use crate::common::host::Host;
use crate::common::{FUSIONS, Random, broadcast_index, devices, positions};

/// No larger whole number is drawn or kept, so that products of two are exact in halves.
const MOST: f32 = 40.0;

/// Nor are there tensors of more elements.
const MOST_ELEMENTS: usize = 3000;

#[derive(Clone, Copy)]
struct Known<'t> {
    var: Var<'t>,
    host: usize,
}

struct Program<'t> {
    tape: &'t Tape,
    random: Random,
    /// Whether there are halves at all.
    has_halves: bool,
    hosts: Vec<Host<f64>>,
    pool: Vec<Known<'t>>,
    leaves: Vec<Var<'t>>,
    tensors: Vec<(Tensor, Vec<f64>)>,
    log: Vec<String>,
}

impl<'t> Program<'t> {
    fn type_drawn(&mut self) -> DType {
        match self.random.below(3) > 0 && self.has_halves {
            true => DType::F16,
            false => DType::F32,
        }
    }

    fn push(&mut self, what: &str, var: Var<'t>, host: Host<f64>) {
        assert_eq!(var.shape(), host.shape, "{what}");
        self.log.push(format!(
            "%{} = {what} {:?}",
            self.pool.len(),
            var.tensor_type()
        ));
        self.hosts.push(host);
        self.pool.push(Known {
            var,
            host: self.hosts.len() - 1,
        });
    }

    fn pick(&mut self) -> (Var<'t>, Host<f64>, usize) {
        // The latest more often.
        let n = self.pool.len();
        let i = match self.random.below(2) {
            0 => n - 1 - self.random.below(n.min(4)),
            _ => self.random.below(n),
        };
        let known = self.pool[i];
        (known.var, self.hosts[known.host].clone(), i)
    }

    fn ints(&mut self, n: usize, most: usize) -> Vec<f32> {
        (0..n)
            .map(|_| self.random.below(2 * most + 1) as f32 - most as f32)
            .collect()
    }

    fn leaf(&mut self) {
        let shape = match self.random.below(6) {
            0 => Shape::new(&[200 + self.random.below(800), 1 + self.random.below(3)]),
            _ => self.random.shape(3, 9),
        };
        let values = self.ints(shape.elements(), 6);
        let host = Host::new(shape, values.iter().map(|&x| f64::from(x)).collect());
        let dtype = self.type_drawn();
        match self.random.below(3) {
            0 => {
                let var = self.tape.variable(shape, &values);
                self.leaves.push(var);
                self.push("variable", var.cast(dtype), host);
            }
            1 => {
                let var = match dtype {
                    DType::F16 => self.tape.input(shape, &halves(&values)),
                    _ => self.tape.input(shape, &values),
                };
                self.push("input", var, host);
            }
            _ => {
                let tensor = match dtype {
                    DType::F16 => Tensor::new(self.tape.device(), shape, &halves(&values)),
                    _ => Tensor::new(self.tape.device(), shape, &values),
                }
                .unwrap();
                let var = self.tape.tensor_variable(&tensor);
                self.leaves.push(var);
                self.push("tensor", var, host);
            }
        }
    }

    fn bounded(&mut self, what: &str, var: Var<'t>, host: Host<f64>) {
        let most = f64::from(MOST);
        let values = host.values.iter().map(|x| x.clamp(-most, most)).collect();
        let dtype = self.type_drawn();
        let mut var = var.clamp(-MOST, MOST);
        if self.random.below(3) == 0 {
            var = var.cast(dtype);
        }
        self.push(what, var, Host::new(host.shape, values));
    }

    fn step(&mut self) {
        let (x, a, i) = self.pick();
        let rank = a.shape.rank();
        match self.random.below(22) {
            0 => self.leaf(),
            1 => self.push(&format!("neg %{i}"), -x, map(&a, |x| -x)),
            2 => self.push(&format!("abs %{i}"), x.abs(), map(&a, f64::abs)),
            3 => self.push(&format!("relu %{i}"), x.relu(), map(&a, |x| x.max(0.0))),
            4 => self.bounded(&format!("scale %{i}"), x * 3.0, map(&a, |x| 3.0 * x)),
            5 => self.bounded(&format!("shift %{i}"), x + 5.0, map(&a, |x| 5.0 + x)),
            6 => {
                let dtype = self.type_drawn();
                self.push(&format!("cast %{i}"), x.cast(dtype), a);
            }
            7..=10 => {
                let (y, b, j) = self.pick();
                let Some(shape) = a
                    .shape
                    .broadcast(&b.shape)
                    .filter(|s| s.elements() <= MOST_ELEMENTS)
                else {
                    return;
                };
                let zip = |f: fn(f64, f64) -> f64| {
                    let values = positions(shape).map(|at| {
                        f(
                            a.values[broadcast_index(a.shape, &at)],
                            b.values[broadcast_index(b.shape, &at)],
                        )
                    });
                    Host::new(shape, values.collect())
                };
                let (what, var, host): (_, _, Host<f64>) = match self.random.below(7) {
                    0 => ("add", x + y, zip(|x, y| x + y)),
                    1 => ("sub", x - y, zip(|x, y| x - y)),
                    2 => ("mul", x * y, zip(|x, y| x * y)),
                    3 => ("max", x.maximum(y), zip(f64::max)),
                    4 => ("less", x.less(y), zip(|x, y| f64::from(u8::from(x < y)))),
                    5 => (
                        "select",
                        x.select(y, x),
                        zip(|x, y| if x != 0.0 { y } else { x }),
                    ),
                    _ => ("equal", x.equal(y), zip(|x, y| f64::from(u8::from(x == y)))),
                };
                self.bounded(&format!("{what} %{i} %{j}"), var, host);
            }
            11 if rank > 1 => {
                let mut axes: Vec<usize> = (0..rank).collect();
                (1..rank).for_each(|k| axes.swap(k, self.random.below(k + 1)));
                self.push(
                    &format!("permute %{i} {axes:?}"),
                    x.permute(&axes),
                    a.permute(&axes),
                );
            }
            12 | 13 if rank > 0 => {
                let axis = self.random.below(rank);
                let extent = a.shape.dim(axis);
                let start = self.random.below(extent);
                let end = start + 1 + self.random.below(extent - start);
                self.push(
                    &format!("slice %{i} {axis} {start}..{end}"),
                    x.slice(axis, start..end),
                    a.slice(axis, start..end),
                );
            }
            14 => {
                let n = a.shape.elements();
                let divisors: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
                let first = *self.random.pick(&divisors);
                let shape = Shape::new(&[first, n / first]);
                self.push(
                    &format!("reshape %{i} {shape}"),
                    x.reshape(shape),
                    a.reshape(shape),
                );
            }
            15 if rank < 4 => {
                let more = 1 + self.random.below(5);
                let mut dims = vec![more];
                dims.extend(a.shape.dims());
                let shape = Shape::from(&dims);
                if shape.elements() <= MOST_ELEMENTS {
                    self.push(
                        &format!("broadcast %{i} {shape}"),
                        x.broadcast_to(shape),
                        a.broadcast_to(shape),
                    );
                }
            }
            16 if rank > 0 => {
                let axis = self.random.below(rank);
                let (before, after) = (self.random.below(3), self.random.below(3));
                if self.random.below(2) == 0 {
                    self.push(
                        &format!("pad %{i} {axis} {before} {after}"),
                        x.pad(axis, before, after),
                        a.pad(axis, before, after),
                    );
                } else {
                    let extent = a.shape.dim(axis);
                    let part = 1 + self.random.below(extent);
                    let b = a.slice(axis, extent - part..extent);
                    let dtype = self.type_drawn();
                    let parts = [
                        x.slice(axis, extent - part..extent),
                        x.cast(dtype),
                        -x.slice(axis, extent - part..extent),
                    ];
                    if a.shape.elements() * 3 > MOST_ELEMENTS {
                        return;
                    }
                    let [l, m, r] = [b.clone(), a.clone(), map(&b, |x| -x)];
                    let shape = a.shape.with_dim(axis, extent + 2 * part);
                    let values = positions(shape).map(|mut at| {
                        let p = at[axis];
                        let (of, p) = match p {
                            p if p < part => (&l, p),
                            p if p < part + extent => (&m, p - part),
                            p => (&r, p - part - extent),
                        };
                        at[axis] = p;
                        of.at(&at)
                    });
                    let host = Host::new(shape, values.collect());
                    self.push(
                        &format!("concat %{i} {axis} {part} {dtype:?}"),
                        Var::concat(&parts, axis),
                        host,
                    );
                }
            }
            17 if rank > 0 => {
                let axes: Vec<usize> = (0..rank).filter(|_| self.random.below(2) == 0).collect();
                if axes.is_empty() {
                    return;
                }
                let kept: Vec<usize> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
                let shape = Shape::from(
                    &kept
                        .iter()
                        .map(|&axis| a.shape.dim(axis))
                        .collect::<Vec<_>>(),
                );
                let is_sum = self.random.below(2) == 0;
                let start = if is_sum { 0.0 } else { f64::MIN };
                let mut values = vec![start; shape.elements()];
                for (at, value) in positions(a.shape).zip(&a.values) {
                    let to: Vec<usize> = kept.iter().map(|&axis| at[axis]).collect();
                    let place = &mut values[broadcast_index(shape, &to)];
                    *place = if is_sum {
                        *place + value
                    } else {
                        place.max(*value)
                    };
                }
                let var = if is_sum { x.sum(&axes) } else { x.max(&axes) };
                self.bounded(
                    &format!("reduce %{i} {axes:?} {is_sum}"),
                    var,
                    Host::new(shape, values),
                );
            }
            18 | 19 if rank > 0 => {
                // A product with a drawn matrix, or its transpose, in either type.
                let depth = a.shape.last();
                let columns = 1 + self.random.below(9);
                if a.shape.elements() / depth * columns > MOST_ELEMENTS {
                    return;
                }
                let w = self.ints(depth * columns, 2);
                let dtype = self.type_drawn();
                let is_turned = self.random.below(2) == 0;
                let shape = if is_turned {
                    [columns, depth]
                } else {
                    [depth, columns]
                };
                let leaf = self.tape.variable(shape, &w);
                self.leaves.push(leaf);
                let mut v = leaf.cast(dtype);
                if is_turned {
                    v = v.transpose();
                }
                let rows = a.shape.elements() / depth;
                let at = |k: usize, n: usize| {
                    f64::from(if is_turned {
                        w[n * depth + k]
                    } else {
                        w[k * columns + n]
                    })
                };
                let x = x.clamp(-4.0, 4.0).reshape([rows, depth]);
                let values = (0..rows * columns).map(|place| {
                    (0..depth)
                        .map(|k| {
                            a.values[place / columns * depth + k].clamp(-4.0, 4.0)
                                * at(k, place % columns)
                        })
                        .sum()
                });
                let host = Host::new([rows, columns], values.collect());
                self.bounded(
                    &format!("matmul %{i} {columns} {dtype:?} {is_turned}"),
                    x.matmul(v),
                    host,
                );
            }
            20 if rank > 0 => {
                let count = 1 + self.random.below(7);
                let axis = self.random.below(rank);
                let ids = self.random.indices(count, a.shape.dim(axis));
                let shape = a.shape.with_dim(axis, count);
                let values = positions(shape).map(|mut at| {
                    at[axis] = ids[at[axis]] as usize;
                    a.at(&at)
                });
                let host = Host::new(shape, values.collect());
                let var = x.index_select(axis, self.tape.input([count], &ids));
                self.push(&format!("index_select %{i} {axis} {ids:?}"), var, host);
            }
            21 => {
                // A tensor of its own, overwritten in part, and read behind.
                let dtype = self.type_drawn();
                let n = a.shape.elements();
                let start = self.ints(n, 3);
                let tensor = match dtype {
                    DType::F16 => Tensor::new(self.tape.device(), [n], &halves(&start)),
                    _ => Tensor::new(self.tape.device(), [n], &start),
                }
                .unwrap();
                let first = self.random.below(n) / 2 * 2;
                let mut end = first + 1 + self.random.below(n - first);
                if end % 2 == 1 && end != n {
                    end -= 1;
                }
                if end == first {
                    return;
                }
                let part = tensor.part(first, [end - first]);
                let value = x.detach().cast(dtype).reshape([n]).slice(0, first..end);
                let mut values: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
                let before = self.tape.tensor(&tensor) * 2.0;
                self.bounded(
                    "before",
                    before,
                    Host::new([n], values.iter().map(|x| 2.0 * x).collect()),
                );
                self.tape.assign(&part, value);
                values[first..end].copy_from_slice(&a.values[first..end]);
                if self.random.below(2) == 0 {
                    let all = self.tape.tensor(&tensor);
                    self.tape.assign(&part, -all.slice(0, n - (end - first)..n));
                    let copy: Vec<f64> = values[n - (end - first)..].iter().map(|x| -x).collect();
                    values[first..end].copy_from_slice(&copy);
                }
                let host = Host::new([n], values.clone());
                self.push(
                    &format!("assigned %{i} {first}..{end} {dtype:?}"),
                    self.tape.tensor(&tensor) * 1.0,
                    host,
                );
                self.tensors.push((tensor, values));
            }
            _ => {}
        }
    }
}

fn map(a: &Host<f64>, f: impl Fn(f64) -> f64) -> Host<f64> {
    Host::new(a.shape, a.values.iter().map(|&x| f(x)).collect())
}

/// Runs a program, compares its values with the host's, and gives the gradients.
fn run(device: &Device, fusion: Fusion, seed: u64, has_halves: bool) -> Vec<Vec<f32>> {
    let tape = Tape::training(device);
    tape.set_fusion(fusion);
    let mut program = Program {
        tape: &tape,
        random: Random::new(seed),
        has_halves,
        hosts: Vec::new(),
        pool: Vec::new(),
        leaves: Vec::new(),
        tensors: Vec::new(),
        log: Vec::new(),
    };
    let is_mixed = program.random.below(2) == 0 && has_halves;
    if is_mixed {
        tape.set_precision(Precision::Mixed);
    }
    program.leaf();
    program.leaf();
    let steps = 4 + program.random.below(14);
    (0..steps).for_each(|_| program.step());
    // A loss of some of them.
    let mut loss = tape.full(Shape::SCALAR, 0.0);
    let pool = program.pool.clone();
    for known in &pool {
        if program.random.below(2) == 0 && known.var.needs_gradient() {
            let n = known.var.shape().elements();
            let w = program.ints(n, 2);
            loss = loss + (known.var * tape.input(known.var.shape(), &w)).sum_all();
        }
    }
    let gradients = loss.needs_gradient().then(|| tape.backward(loss));
    let mut fetched = Vec::new();
    for (index, known) in pool.iter().enumerate() {
        if program.random.below(3) == 0 || index + 2 > pool.len() {
            let as_half = known.var.dtype() == DType::F16;
            fetched.push((
                index,
                match as_half {
                    true => Err(tape.fetch::<f16>(known.var)),
                    false => Ok(tape.fetch::<f32>(known.var)),
                },
            ));
        }
    }
    let of_leaves: Vec<_> = program
        .leaves
        .iter()
        .map(|&leaf| {
            let gradient = gradients.as_ref().and_then(|gradients| gradients.of(leaf));
            gradient.map(|gradient| {
                assert_eq!(gradient.dtype(), leaf.dtype());
                tape.fetch::<f32>(gradient.cast(DType::F32))
            })
        })
        .collect();
    let Program {
        log,
        hosts,
        tensors,
        ..
    } = program;
    let hosts_of: Vec<usize> = pool.iter().map(|known| known.host).collect();
    tape.run().unwrap();
    let log = || log.join("\n");
    for (index, fetch) in fetched {
        let values: Vec<f64> = match fetch {
            Ok(fetch) => fetch.get().unwrap().into_iter().map(f64::from).collect(),
            Err(fetch) => fetch
                .get()
                .unwrap()
                .into_iter()
                .map(|x| x.to_f64())
                .collect(),
        };
        let expected = &hosts[hosts_of[index]].values;
        assert!(
            &values == expected,
            "seed {seed}, {fusion:?}, {:?} f16 {}: %{index} is\n{values:?}, expected\n{expected:?}\n{}",
            device.class(),
            device.has_f16(),
            log()
        );
    }
    for (tensor, expected) in &tensors {
        let values: Vec<f64> = match tensor.dtype() {
            DType::F16 => tensor
                .to_vec::<f16>()
                .unwrap()
                .into_iter()
                .map(|x| x.to_f64())
                .collect(),
            _ => tensor
                .to_vec::<f32>()
                .unwrap()
                .into_iter()
                .map(f64::from)
                .collect(),
        };
        assert!(
            &values == expected,
            "seed {seed}, {fusion:?}: a tensor is\n{values:?}, expected\n{expected:?}\n{}",
            log()
        );
    }
    of_leaves
        .into_iter()
        .map(|fetch| fetch.map_or(Vec::new(), |fetch| fetch.get().unwrap()))
        .collect()
}

#[test]
fn drawn_programs() {
    for seed in 0..6 {
        for (index, device) in devices().into_iter().enumerate() {
            let fusion = match (seed + index) % 4 {
                0 => Fusion::OFF,
                1 => FUSIONS[(seed + index) % FUSIONS.len()],
                _ => Fusion::ON,
            };
            let [mixed, wide] =
                [true, false].map(|has_halves| run(device, fusion, seed as u64, has_halves));
            for (leaf, (mixed, wide)) in mixed.iter().zip(&wide).enumerate() {
                // From here on, halves are not all whole numbers.
                let most = wide.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let tolerance = if most < 2048.0 { 0.0 } else { most / 256.0 };
                let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
                let are_close = mixed.len() == wide.len() && mixed.iter().zip(wide).all(is_close);
                assert!(
                    are_close || most > 60_000.0,
                    "seed {seed}, {fusion:?}: gradient {leaf} is\n{mixed:?}, expected\n{wide:?}"
                );
            }
        }
    }
}
