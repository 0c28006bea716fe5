//! Embedding: rows of a table by index.
//!
//! ```text
//! out[…, c] = weight[ids[…], c]            weight [vocabulary, d], ids […] of U32, out […, d]
//! dweight[v, c] = Σ dout[…, c]             over the places … with ids[…] = v
//! ```
//!
//! The gradient is a sum in a fixed order, not a scatter with atomics, so it has the same bits every time.

use super::indices::Bounds;
use super::{Operation, Role, Takes, TensorType, epilogue, row_grid, scalar_loads};
use crate::gpu::{AdapterClass, DType, Kernel};
use crate::shape::Shape;
use crate::tape::{Backward, Dispatch, Lowering, Operand, Var};

/// The shape of the indices with the columns appended.
fn rows_of(ids: Shape, width: usize) -> Shape {
    let mut dims = ids.dims().to_vec();
    dims.push(width);
    Shape::new(&dims)
}

/// `weight`, `ids` → the rows.
#[derive(Clone, Debug, Hash)]
struct Embedding {
    /// The index of the table's first row: it may be a part of a larger one. The places of rows that are not in it give
    /// zeros and get no gradient.
    first: usize,
    /// Those of the whole table.
    bounds: Bounds,
}

impl Operation for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let shape = rows_of(inputs[1].shape, inputs[0].shape.dim(1));
        vec![inputs[0].with_shape(shape)]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let (weight, ids, gradient) = (node.input(0), node.input(1), node.gradient(0));
        let vocabulary = weight.shape().dim(0);
        let sums = || {
            let sums = EmbeddingGradient {
                vocabulary,
                rows: self.clone(),
            };
            node.tape().record(sums, &[gradient, ids])
        };
        vec![node.wants(0).then(sums), None]
    }

    fn role(&self, output: TensorType) -> Role<'_> {
        epilogue(row_grid(output.shape))
    }

    fn bindings(&self, inputs: usize) -> usize {
        inputs + self.bounds.bindings()
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let weight = cx.input(0);
        let ids = cx.contiguous(&cx.input(1));
        let [vocabulary, width] = [0, 1].map(|axis| weight.shape().dim(axis));
        let [_, rows, _] = row_grid(rows_of(ids.shape(), width));
        let [row, column] = [0, 1].map(|axis| weight.layout.strides()[axis]);
        let offset = weight.layout.offset;
        let quads = column == 1 && [width, row, offset].iter().all(|n| n.is_multiple_of(4));
        let unit = if quads { 4 } else { 1 };
        let words = [
            width,
            rows,
            ids.elements(),
            vocabulary,
            offset / unit,
            row / unit,
            column,
            ids.layout.offset,
            self.first,
            self.bounds.extent,
        ];
        let params = words.map(|word| word as u32);
        let epilogue = cx.epilogue(3 + self.bounds.bindings());
        let counter = self.bounds.counter(cx, "embedding");
        let (lanes, rows) = match cx.class() {
            AdapterClass::Software => (8, 16),
            AdapterClass::Gpu => (32, 1),
        };
        let mut kernel = Kernel::builtin("embedding", "embedding", "embedding")
            .constant("LANES", lanes)
            .constant("ROWS", rows);
        if !quads {
            kernel = kernel.declare(&scalar_loads("weight"));
        }
        let read = 4 * (ids.elements() * width) as u64 + ids.bytes();
        let kernel = counter.kernel(kernel.declare(&epilogue.wgsl), 3);
        let dispatch = Dispatch::new(kernel).read(&weight).read(&ids);
        cx.dispatch(
            counter
                .bind(dispatch)
                .params(&params)
                .params(&[f32::NAN.to_bits(), 0])
                .epilogue(&epilogue)
                .iterations(rows * (1 + epilogue.iterations) + 1)
                .groups(ids.elements().div_ceil(rows) * width.div_ceil(4 * lanes))
                .cost(0, read + epilogue.bytes),
        );
    }
}

/// `dout`, `ids` → the sum of `dout` over the places of each index.
#[derive(Clone, Debug, Hash)]
struct EmbeddingGradient {
    vocabulary: usize,
    rows: Embedding,
}

/// Up to so many workgroups, and so many places that all of them look at together, every row of the table looks at every
/// place; beyond, sorting pays.
const MOST_DIRECT_GROUPS: usize = 1 << 13;
const MOST_DIRECT_LOOKS: usize = 1 << 24;

/// Columns of one row that a workgroup of `direct` sums.
const DIRECT_COLUMNS: usize = 32;

/// Rows that the walk clears itself.
const MOST_CLEARED_ROWS: usize = 4096;

/// Places that are summed by themselves, so that rounding does not grow with their number: in the shader, too.
const SUMMED_PART: usize = 64;

/// How often a search among places halves them, at most.
const HALVINGS: usize = 32;

/// Entries that are sorted by counting, before merging: `BLOCK` of the shader.
const SORT_BLOCK: usize = 1024;

impl Operation for EmbeddingGradient {
    fn name(&self) -> &'static str {
        "embedding_gradient"
    }

    fn outputs(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        let width = inputs[0].shape.last();
        vec![TensorType::f32(Shape::new(&[self.vocabulary, width]))]
    }

    fn takes(&self, _index: usize) -> Takes {
        Takes::Either
    }

    /// It is linear in `dout`, and its transpose is the embedding.
    fn backward<'t>(&self, node: &Backward<'t>) -> Vec<Option<Var<'t>>> {
        let inputs = [node.gradient(0), node.input(1)];
        vec![Some(node.tape().record(self.rows.clone(), &inputs)), None]
    }

    fn lower(&self, cx: &mut Lowering<'_>) {
        let sums = Sums {
            gradient: cx.contiguous(&cx.input(0)),
            ids: cx.contiguous(&cx.input(1)),
            output: cx.output(0),
            vocabulary: self.vocabulary,
            first: self.rows.first,
        };
        match cx.class() {
            AdapterClass::Software => sums.walked(cx),
            AdapterClass::Gpu if sums.is_direct() => sums.direct(cx),
            AdapterClass::Gpu => sums.sorted(cx),
        }
    }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel::builtin("embedding_gradient", "embedding_gradient", entry)
}

/// The operands of an [`EmbeddingGradient`].
struct Sums {
    gradient: Operand,
    ids: Operand,
    output: Operand,
    vocabulary: usize,
    first: usize,
}

impl Sums {
    fn width(&self) -> usize {
        self.gradient.shape().last()
    }

    /// Starts a dispatch; `more` are those of the parameters that most kernels do without.
    fn dispatch(&self, kernel: Kernel, more: [usize; 4]) -> Dispatch {
        let params = [
            self.ids.elements(),
            self.vocabulary,
            self.width(),
            self.ids.layout.offset,
            self.gradient.layout.offset,
            self.output.layout.offset,
        ];
        Dispatch::new(kernel)
            .params(&params.map(|word| word as u32))
            .params(&more.map(|word| word as u32))
            .params(&[self.first as u32])
    }

    fn cost(&self) -> (u64, u64) {
        let bytes = self.gradient.bytes() + self.ids.bytes() + self.output.bytes();
        (self.gradient.elements() as u64, bytes)
    }

    fn walked(&self, cx: &mut Lowering<'_>) {
        let offsets = [self.gradient.layout.offset, self.output.layout.offset];
        let quads = self.width().is_multiple_of(4) && offsets.iter().all(|n| n.is_multiple_of(4));
        let kernel = |entry| match quads {
            true => kernel(entry).declare("alias T = vec4<f32>;\nconst WIDTH: u32 = 4u;\n"),
            false => kernel(entry),
        };
        let columns = if quads {
            self.width() / 4
        } else {
            self.width()
        };
        let clears_first = self.vocabulary > MOST_CLEARED_ROWS;
        if clears_first {
            cx.dispatch(
                self.dispatch(kernel("clear"), [0; 4])
                    .write(&self.output)
                    .iterations(0)
                    .groups((self.vocabulary * columns).div_ceil(64))
                    .cost(0, self.output.bytes()),
            );
        }
        let places = self.ids.elements();
        let (flops, bytes) = self.cost();
        let most = cx.most_iterations() - MOST_CLEARED_ROWS - 2;
        for first in (0..places).step_by(most) {
            let end = places.min(first + most);
            let clears = first == 0 && !clears_first;
            let part = |n: u64| n * (end - first) as u64 / places as u64;
            cx.dispatch(
                self.dispatch(kernel("walk"), [0, first, end, clears as usize])
                    .read(&self.gradient)
                    .read(&self.ids)
                    .write(&self.output)
                    .iterations(MOST_CLEARED_ROWS + end - first + 2)
                    .groups(columns.div_ceil(8))
                    .cost(part(flops), part(bytes)),
            );
        }
    }

    fn direct_groups(&self) -> usize {
        self.vocabulary * self.width().div_ceil(DIRECT_COLUMNS)
    }

    fn is_direct(&self) -> bool {
        let groups = self.direct_groups();
        groups <= MOST_DIRECT_GROUPS && groups * self.ids.elements() <= MOST_DIRECT_LOOKS
    }

    fn direct(&self, cx: &mut Lowering<'_>) {
        let (flops, bytes) = self.cost();
        cx.dispatch(
            self.dispatch(kernel("direct"), [0; 4])
                .read(&self.gradient)
                .read(&self.ids)
                .write(&self.output)
                .iterations(self.ids.elements().div_ceil(32) + 16)
                .groups(self.direct_groups())
                .cost(flops, bytes),
        );
    }

    fn sorted(&self, cx: &mut Lowering<'_>) {
        let places = self.ids.elements();
        let mut entries = cx.temp([places, 2], DType::U32);
        cx.dispatch(
            self.dispatch(kernel("sort_blocks"), [0; 4])
                .read(&self.ids)
                .write(&entries)
                .iterations(SORT_BLOCK + 1)
                .groups(places.div_ceil(64))
                .cost(0, self.ids.bytes() + entries.bytes()),
        );
        let mut run = SORT_BLOCK;
        while run < places {
            let merged = cx.temp([places, 2], DType::U32);
            cx.dispatch(
                self.dispatch(kernel("merge"), [run, 0, 0, 0])
                    .read(&entries)
                    .write(&merged)
                    .iterations(HALVINGS)
                    .groups(places.div_ceil(64))
                    .cost(0, entries.bytes() + merged.bytes()),
            );
            entries = merged;
            run *= 2;
        }
        let starts = cx.temp([self.vocabulary + 1], DType::U32);
        cx.dispatch(
            self.dispatch(kernel("find_starts"), [0; 4])
                .read(&entries)
                .write(&starts)
                .iterations(HALVINGS)
                .groups((self.vocabulary + 1).div_ceil(64))
                .cost(0, entries.bytes() + starts.bytes()),
        );
        let (flops, bytes) = self.cost();
        // All places may have the same index. They are summed in parts, each a loop within a loop.
        let most = (cx.most_iterations() - 1) / (SUMMED_PART + 2) * SUMMED_PART;
        for first in (0..places).step_by(most) {
            let end = places.min(first + most);
            let part = |n: u64| n * (end - first) as u64 / places as u64;
            cx.dispatch(
                self.dispatch(kernel("sum_places"), [0, first, end, 0])
                    .read(&self.gradient)
                    .read(&entries)
                    .read(&starts)
                    .write(&self.output)
                    .iterations((end - first) + 2 * (end - first).div_ceil(SUMMED_PART) + 1)
                    .groups((self.vocabulary * self.width()).div_ceil(64))
                    .cost(part(flops), part(bytes + entries.bytes() + starts.bytes())),
            );
        }
    }
}

impl<'t> Var<'t> {
    /// Rows of this table by index: `weight [vocabulary, d]`, `ids […]` of type `U32` → `[…, d]`.
    ///
    /// Several places may hold the same index; their gradients add up in a fixed order. An index beyond the table is an
    /// [`Error::IndexOutOfRange`](crate::Error::IndexOutOfRange): of [`Tape::run`](crate::Tape::run) if the indices are an
    /// [input](crate::Tape::input), else of every [`Fetch`](crate::gpu::Fetch) of the tape; what it reads is not a number.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// # let device = shadegrad::Device::new()?;
    /// let tape = shadegrad::Tape::inference(&device);
    /// let weight = tape.input([3, 2], &[0.0, 0.1, 1.0, 1.1, 2.0, 2.1f32]);
    /// let ids = tape.input([2], &[2, 0u32]);
    /// let rows = tape.fetch::<f32>(weight.embedding(ids));
    /// tape.run()?;
    /// assert_eq!(rows.get()?, [2.0, 2.1, 0.0, 0.1]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If this is no matrix of type `F32`, or `ids` is not of type `U32` or has more axes than fit.
    #[track_caller]
    pub fn embedding(self, ids: Var<'t>) -> Var<'t> {
        self.embedding_part(ids, 0, self.shape().dims().first().copied().unwrap_or(0))
    }

    /// [`Var::embedding`] from a part of a table of `vocabulary` rows: this holds the rows from index `first` on, and where
    /// an index names a row that it does not hold, the result is zero. So the sum over the parts of a table is its
    /// embedding; a table that is larger than a kernel can bind is split like that.
    ///
    /// # Panics
    ///
    /// As [`Var::embedding`], and if this has rows beyond those of the whole table.
    #[track_caller]
    pub fn embedding_part(self, ids: Var<'t>, first: usize, vocabulary: usize) -> Var<'t> {
        let (weight, ids_type) = (self.tensor_type(), ids.tensor_type());
        assert!(
            weight.dtype.is_float() && weight.shape.rank() == 2,
            "embedding: the table is {:?} {}, expected F32 or F16 [vocabulary, d]",
            weight.dtype,
            weight.shape
        );
        assert!(
            ids_type.dtype == DType::U32,
            "embedding: the indices are {:?} {}, expected U32",
            ids_type.dtype,
            ids_type.shape
        );
        let rows = weight.shape.dim(0);
        assert!(
            first <= vocabulary && rows <= vocabulary - first,
            "embedding: {rows} rows from index {first} on are no part of a table of {vocabulary}"
        );
        let bounds = Bounds::check("embedding", ids, vocabulary, None);
        self.tape.record(Embedding { first, bounds }, &[self, ids])
    }
}
