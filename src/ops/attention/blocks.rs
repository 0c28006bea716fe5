//! The text of kernels in which an invocation owns several rows at once, and rows of the other side stream by.

use super::parts::Visits;
use super::text::Operands;
use crate::gpu::Kernel;

/// Writes a struct `Block` that holds several rows in registers, a struct `Scores` with a number for each of these rows
/// and each row of a step, and arithmetic on them.
///
/// A block is a matrix for every four elements of the rows: column `e` of matrix `m<c>` holds element `4·c + e` of each
/// row, so that its product with a `vec4` of another row is a part of the dot products with all of them.
pub(super) struct Blocks {
    /// Rows of a block: two or four.
    pub rows: usize,
    /// `vec4`s of each row in a block.
    pub chunks: usize,
    /// `vec4`s in a `Row`.
    pub slice: usize,
    /// Rows that stream by at once.
    pub step: usize,
    /// Neighbouring lanes that hold a row that streams by, each a part of it, in their registers.
    pub parts: usize,
}

impl Blocks {
    fn list(count: usize, separator: &str, item: impl Fn(usize) -> String) -> String {
        (0..count).map(item).collect::<Vec<_>>().join(separator)
    }

    fn of_chunks(&self, item: impl Fn(usize) -> String) -> String {
        Blocks::list(self.chunks, ", ", item)
    }

    fn of_steps(&self, item: impl Fn(usize) -> String) -> String {
        Blocks::list(self.step, ", ", item)
    }

    /// Chunk `c` of row `e` of the step, from the stream called `name`.
    fn streamed(&self, name: &str, e: usize, c: usize) -> String {
        let (lane, member) = (e * self.parts + c / self.slice, c % self.slice);
        format!("subgroupShuffle({name}.d{member}, {lane}u)")
    }

    /// The block `operands`, with everything that needs no bindings.
    pub fn operands(&self, head_dim: usize, is_vector: bool) -> Operands {
        let split = head_dim.div_ceil(4).div_ceil(self.slice);
        self.write(Operands::new(head_dim, Some(split), is_vector))
    }

    /// How an invocation visits `others` rows of the other side.
    pub fn visits(&self, others: usize) -> Visits {
        Visits {
            own: 8 * self.rows,
            others,
            step: self.step,
            iterations: 1,
            times: 1,
        }
    }

    /// The kernel with its constants.
    pub fn apply(&self, kernel: Kernel) -> Kernel {
        kernel
            .constant("SLICE", self.slice)
            .constant("PARTS", self.parts)
    }

    /// Appends everything to `operands`. The streams are called `first` and `second`: keys and values, or queries and
    /// upstream gradients.
    fn write(&self, mut operands: Operands) -> Operands {
        let n = self.rows;
        operands = operands.text(&format!(
            "const BLOCK: u32 = {n}u;\n\
             const STEP: u32 = {step}u;\n\
             alias Numbers = vec{n}<f32>;\n\
             alias Words = vec{n}<u32>;\n\
             alias Columns = mat4x{n}<f32>;",
            step = self.step,
        ));
        operands = self.arithmetic(operands);
        operands = self.scores(operands);
        for name in ["first", "second"] {
            operands = operands
                .text(&self.products(name))
                .text(&self.plus_outer(name));
        }
        operands
    }

    fn arithmetic(&self, operands: Operands) -> Operands {
        let fields = self.of_chunks(|c| format!("m{c}: Columns"));
        let zeros = self.of_chunks(|_| "Columns()".to_owned());
        let times = self.of_chunks(|c| format!("a.m{c} * w"));
        let scaled = self.of_chunks(|c| format!("columns_scaled(a.m{c}, w)"));
        let own_fields = self.of_chunks(|c| format!("d{c}: vec4<f32>"));
        let own_rows = Blocks::list(self.rows, ", ", |r| format!("r{r}: OwnRow"));
        operands.text(&format!(
            "struct OwnRow {{ {own_fields} }}\n\
             struct Own {{ {own_rows} }}\n\
             struct Block {{ {fields} }}\n\
             fn columns_scaled(m: Columns, w: Numbers) -> Columns {{\n    \
             return Columns(m[0] * w, m[1] * w, m[2] * w, m[3] * w);\n}}\n\
             fn outer(w: Numbers, v: vec4<f32>) -> Columns {{ return Columns(w * v.x, w * v.y, w * v.z, w * v.w); }}\n\
             fn zero_block() -> Block {{ return Block({zeros}); }}\n\
             fn block_times(a: Block, w: f32) -> Block {{ return Block({times}); }}\n\
             fn block_scaled(a: Block, w: Numbers) -> Block {{ return Block({scaled}); }}"
        ))
    }

    /// `f(x), f(y), …` for all own rows.
    fn of_rows(&self, item: impl Fn(usize, &str) -> String) -> String {
        Blocks::list(self.rows, ", ", |r| item(r, &"xyzw"[r..=r]))
    }

    /// What is done with all scores of a step.
    fn scores(&self, operands: Operands) -> Operands {
        let fields = self.of_steps(|e| format!("s{e}: Numbers"));
        let kept_fields = self.of_steps(|e| format!("k{e}: u32"));
        let largest =
            (1..self.step).fold("a.s0".to_owned(), |text, e| format!("max({text}, a.s{e})"));
        let total = Blocks::list(self.step, " + ", |e| format!("a.s{e}"));
        let under = self.of_steps(|e| format!("exp(a.s{e} - top)"));
        operands.text(&format!(
            "struct Scores {{ {fields} }}\n\
             struct KeptSteps {{ {kept_fields} }}\n\
             fn bounded_exp(x: Numbers) -> Numbers {{ return exp(select(x, Numbers(), x > Numbers())); }}\n\
             fn shared_weights(w: Numbers) -> Numbers {{ return select(w, Numbers(), w >= Numbers(1.0)); }}\n\
             fn largest(a: Scores) -> Numbers {{ return {largest}; }}\n\
             fn total(a: Scores) -> Numbers {{ return {total}; }}\n\
             fn weights_under(a: Scores, top: Numbers) -> Scores {{ return Scores({under}); }}"
        ))
    }

    /// For own rows `own …`, which are queries or keys, while rows `other …` of the other side stream by.
    fn side(&self, operands: Operands, owns_keys: bool) -> Operands {
        let end = if owns_keys { "p.keys" } else { "p.queries" };
        let row = |r: usize| format!("min(own + {r}u, {end} - 1u)");
        let other = if owns_keys { "query" } else { "key" };
        let [starts, ends] = ["first", "end"]
            .map(|which| self.of_rows(|r, _| format!("{which}_{other}(head, {})", row(r))));
        let masked = self.of_rows(|r, part| {
            let (own, seen) = (row(r), format!("score.{part}, is_seen.{part}, head"));
            match owns_keys {
                true => format!("masked({seen}, min(other, p.queries - 1u), {own})"),
                false => format!("masked({seen}, {own}, min(other, p.keys - 1u))"),
            }
        });
        let all =
            self.of_steps(|e| format!("masked_row(a.s{e}, head, own, other + {e}u, start, seen)"));
        let (kept_type, kept) = match owns_keys {
            true => {
                let kept = self.of_steps(|e| {
                    let i = format!("min(other + {e}u, p.queries - 1u)");
                    format!("kept_weights(key, head, {i}, own / 4u * 4u) >> (own % 4u)")
                });
                ("KeptSteps", kept)
            }
            false => {
                let kept = self.of_rows(|r, _| match self.step {
                    8.. => format!("kept_eight(key, head, {}, other)", row(r)),
                    _ => {
                        let i = row(r);
                        format!("kept_weights(key, head, {i}, other / 4u * 4u) >> (other % 4u)")
                    }
                });
                ("Words", kept)
            }
        };
        let dropped = self.of_steps(|e| {
            let each = self.of_rows(|r, part| match owns_keys {
                true => format!("dropped(a.s{e}.{part}, kept.k{e}, {r}u)"),
                false => format!("dropped(a.s{e}.{part}, kept.{part}, {e}u)"),
            });
            format!("Numbers({each})")
        });
        operands.text(&format!(
            "fn first_seen(head: Head, own: u32) -> Words {{ return Words({starts}); }}\n\
             fn end_seen(head: Head, own: u32) -> Words {{ return Words({ends}); }}\n\
             fn masked_row(score: Numbers, head: Head, own: u32, other: u32, start: Words, seen: Words) -> Numbers {{\n    \
             let is_seen = Words(other) - start < seen;\n    \
             return Numbers({masked});\n}}\n\
             fn masked_rows(a: Scores, head: Head, own: u32, other: u32, start: Words, seen: Words) -> Scores {{\n    \
             return Scores({all});\n}}\n\
             fn kept_rows(key: DropoutKey, head: Head, own: u32, other: u32) -> {kept_type} {{ return {kept_type}({kept}); }}\n\
             fn dropped_rows(a: Scores, kept: {kept_type}) -> Scores {{ return Scores({dropped}); }}"
        ))
    }

    /// `store_lse`, and what reads it again, for own rows that are queries.
    fn lse(&self, operands: Operands) -> Operands {
        let stores = Blocks::list(self.rows, "\n    ", |r| {
            let part = &"xyzw"[r..=r];
            format!(
                "if (i + {r}u < p.queries) {{ lse[at + {r}u] = lse_of(top.{part}, sum.{part}); }}"
            )
        });
        let loads = self.of_rows(|r, _| format!("lse[at + min(i + {r}u, p.queries - 1u)]"));
        let tops = self.of_rows(|_, part| format!("top_of_lse(lse.{part})"));
        let sums = self.of_rows(|_, part| format!("sum_of_lse(lse.{part})"));
        operands.text(&format!(
            "fn store_lse(head: Head, i: u32, top: Numbers, sum: Numbers) {{\n    \
             let at = p.lse_offset + head.index * p.queries + i;\n    \
             {stores}\n}}\n\
             fn load_lse(head: Head, i: u32) -> Numbers {{\n    \
             let at = p.lse_offset + head.index * p.queries;\n    \
             return Numbers({loads});\n}}\n\
             fn tops_of_lse(lse: Numbers) -> Numbers {{ return Numbers({tops}); }}\n\
             fn sums_of_lse(lse: Numbers) -> Numbers {{ return Numbers({sums}); }}"
        ))
    }

    /// The statistics of queries, `about_rows`: of own rows or, where these are keys, of the row that an invocation holds for
    /// all; and what becomes of scores with them.
    fn about(&self, operands: Operands, owns_keys: bool) -> Operands {
        let loads = Blocks::list(self.rows, "\n    ", |r| {
            format!("let a{r} = statistics_of(head, min(own + {r}u, p.queries - 1u));")
        });
        let [lse, delta] = ["x", "y"].map(|part| self.of_rows(|r, _| format!("a{r}.{part}")));
        let (ty, text) = match owns_keys {
            true => (
                "vec2<f32>",
                "return statistics_of(head, min(row, p.queries - 1u));".to_owned(),
            ),
            false => (
                "About",
                format!("{loads}\n    return About(Numbers({lse}), Numbers({delta}));"),
            ),
        };
        let of = |e: usize, field: &str, part: &str| match owns_keys {
            true => format!(
                "Numbers(subgroupShuffle(about.{part}, {}u))",
                e * self.parts
            ),
            false => format!("about.{field}"),
        };
        let weights = self.of_steps(|e| format!("bounded_exp(a.s{e} - {})", of(e, "lse", "x")));
        let gradients = self.of_steps(|e| {
            format!(
                "shared_weights(w.s{e}) * (d.s{e} - {})",
                of(e, "delta", "y")
            )
        });
        operands.text(&format!(
            "struct About {{ lse: Numbers, delta: Numbers }}\n\
             fn about_rows(head: Head, own: u32, row: u32) -> {ty} {{\n    {text}\n}}\n\
             fn weights_about(a: Scores, about: {ty}) -> Scores {{ return Scores({weights}); }}\n\
             fn gradients_about(w: Scores, d: Scores, about: {ty}) -> Scores {{ return Scores({gradients}); }}"
        ))
    }

    /// `<name>_products`: the dot products of a block's rows with the step's.
    fn products(&self, name: &str) -> String {
        let members = self.of_steps(|e| {
            Blocks::list(self.chunks, " + ", |c| {
                format!("a.m{c} * {}", self.streamed(name, e, c))
            })
        });
        format!(
            "fn {name}_products(a: Block, {name}: Row) -> Scores {{ return Scores({members}); }}"
        )
    }

    /// `plus_<name>`: a block to which the step's rows are added, with a weight for each own row.
    fn plus_outer(&self, name: &str) -> String {
        let members = self.of_chunks(|c| {
            let sum = Blocks::list(self.step, " + ", |e| {
                format!("outer(w.s{e}, {})", self.streamed(name, e, c))
            });
            format!("a.m{c} + {sum}")
        });
        format!(
            "fn plus_{name}(a: Block, w: Scores, {name}: Row) -> Block {{ return Block({members}); }}"
        )
    }

    /// `load_<block>_block`, for an operand whose chunks can be loaded: `rows` of them, `row_at` tells where each is.
    fn load(&self, operands: Operands, block: &str, [name, row_at, rows]: [&str; 3]) -> Operands {
        let chunks = self.of_chunks(|c| format!("chunk_{name}(at, chunk + {c}u)"));
        let shifted = Blocks::list(self.rows - 1, ", ", |r| format!("rows.r{}", r + 1));
        let members = self.of_chunks(|c| {
            let columns = Blocks::list(self.rows, ", ", |r| format!("rows.r{r}.d{c}"));
            format!("transpose(mat{}x4<f32>({columns}))", self.rows)
        });
        operands.text(&format!(
            "fn load_{block}_block(head: Head, first: u32, chunk: u32) -> Block {{\n    \
             var rows = Own();\n    \
             for (var n = 0u; n < BLOCK; n++) {{\n        \
             let at = {row_at}(p.{name}, head, min(first + n, {rows} - 1u));\n        \
             rows = Own({shifted}, OwnRow({chunks}));\n    }}\n    \
             return Block({members});\n}}"
        ))
    }

    /// `store_<block>_block`, into `buffer`, whose chunks can be stored.
    fn store(
        &self,
        operands: Operands,
        block: &str,
        buffer: &str,
        [name, row_at, rows]: [&str; 3],
    ) -> Operands {
        let transposed = Blocks::list(self.chunks, "\n    ", |c| {
            format!("let t{c} = transpose(a.m{c});")
        });
        let own = Blocks::list(self.rows, ", ", |r| {
            format!("OwnRow({})", self.of_chunks(|c| format!("t{c}[{r}]")))
        });
        let stores = Blocks::list(self.chunks, " ", |c| {
            format!("store_chunk_{buffer}(at, chunk + {c}u, rows.r0.d{c});")
        });
        let shifted = Blocks::list(self.rows, ", ", |r| {
            format!("rows.r{}", (r + 1).min(self.rows - 1))
        });
        operands.text(&format!(
            "fn store_{block}_block(head: Head, first: u32, chunk: u32, a: Block) {{\n    \
             {transposed}\n    \
             var rows = Own({own});\n    \
             for (var n = 0u; n < min(BLOCK, {rows} - min(first, {rows})); n++) {{\n        \
             let at = {row_at}(p.{name}, head, first + n);\n        \
             {stores}\n        \
             rows = Own({shifted});\n    }}\n}}"
        ))
    }

    /// The operands of the forward kernel.
    pub fn forward(&self, operands: Operands) -> Operands {
        let row = |name| [name, "row_at", "p.queries"];
        let operands = self.load(operands, "q", row("q")).write_chunks("out");
        let operands = self.load(operands, "out", row("out"));
        let operands = self.store(operands, "out", "out", row("out"));
        self.side(self.lse(operands), false)
    }

    /// The operands of backward kernels. Of both sides the first are multiplied for scores, the second for their gradients; x
    /// is the gradient of what is first of own rows, y of the second.
    pub fn backward(&self, mut operands: Operands, owns_keys: bool) -> Operands {
        let query = |name| [name, "row_at", "p.queries"];
        let key = |name| [name, "key_row_at", "p.keys"];
        let sides = [query("q"), key("k"), key("v"), query("dout")];
        let (own, other, results) = match owns_keys {
            true => ([1, 2], [0, 3], vec![key("dk"), key("dv")]),
            false => ([0, 3], [1, 2], vec![query("dq")]),
        };
        operands = operands.write_chunks("gradient");
        for (block, [own, other]) in ["first", "second"]
            .into_iter()
            .zip([[own[0], other[0]], [own[1], other[1]]])
        {
            let [name, row_at, rows] = sides[other];
            operands = self.load(operands, block, sides[own]).text(&format!(
                "fn load_{block}(head: Head, row: u32, part: u32) -> Row {{\n    \
                 return load_{name}({row_at}(p.{name}, head, min(row, {rows} - 1u)), part);\n}}"
            ));
        }
        for (block, result) in ["x", "y"].into_iter().zip(results) {
            operands = operands.reload("gradient", &result[..1]);
            operands = self.load(operands, block, result);
            operands = self.store(operands, block, "gradient", result);
        }
        self.about(self.side(operands, owns_keys), owns_keys)
    }
}
