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
        operands = self.query_side(self.scores(operands));
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
        let weights = self.of_steps(|e| format!("bounded_exp(a.s{e} - about.lse)"));
        let gradients =
            self.of_steps(|e| format!("shared_weights(w.s{e}) * (d.s{e} - about.delta)"));
        operands.text(&format!(
            "struct Scores {{ {fields} }}\n\
             struct KeptSteps {{ {kept_fields} }}\n\
             struct About {{ lse: Numbers, delta: Numbers }}\n\
             fn bounded_exp(x: Numbers) -> Numbers {{ return exp(select(x, Numbers(), x > Numbers())); }}\n\
             fn shared_weights(w: Numbers) -> Numbers {{ return select(w, Numbers(), w >= Numbers(1.0)); }}\n\
             fn largest(a: Scores) -> Numbers {{ return {largest}; }}\n\
             fn total(a: Scores) -> Numbers {{ return {total}; }}\n\
             fn weights_under(a: Scores, top: Numbers) -> Scores {{ return Scores({under}); }}\n\
             fn weights_about(a: Scores, about: About) -> Scores {{ return Scores({weights}); }}\n\
             fn gradients_about(w: Scores, d: Scores, about: About) -> Scores {{ return Scores({gradients}); }}"
        ))
    }

    /// For own rows that are queries `i …` while keys `j …` stream by.
    fn query_side(&self, operands: Operands) -> Operands {
        let row = |r: usize| format!("min(i + {r}u, p.queries - 1u)");
        let starts = self.of_rows(|r, _| format!("first_key(head, i + {r}u)"));
        let ends = self.of_rows(|r, _| format!("end_key(head, i + {r}u)"));
        let masked = self.of_rows(|r, part| {
            let i = row(r);
            format!("masked(score.{part}, is_seen.{part}, head, {i}, min(j, p.keys - 1u))")
        });
        let all = self.of_steps(|e| format!("masked_key(a.s{e}, head, i, j + {e}u, start, seen)"));
        let kept = self.of_rows(|r, _| {
            let i = row(r);
            if self.step > 4 {
                format!("kept_eight(key, head, {i}, j)")
            } else {
                format!("kept_weights(key, head, {i}, j / 4u * 4u) >> (j % 4u)")
            }
        });
        let dropped = self.of_steps(|e| {
            let each = self.of_rows(|_, part| format!("dropped(a.s{e}.{part}, kept.{part}, {e}u)"));
            format!("Numbers({each})")
        });
        operands.text(&format!(
            "fn first_keys(head: Head, i: u32) -> Words {{ return Words({starts}); }}\n\
             fn end_keys(head: Head, i: u32) -> Words {{ return Words({ends}); }}\n\
             fn masked_key(score: Numbers, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Numbers {{\n    \
             let is_seen = Words(j) - start < seen;\n    \
             return Numbers({masked});\n}}\n\
             fn masked_keys(a: Scores, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Scores {{\n    \
             return Scores({all});\n}}\n\
             fn kept_keys(key: DropoutKey, head: Head, i: u32, j: u32) -> Words {{ return Words({kept}); }}\n\
             fn dropped_keys(a: Scores, kept: Words) -> Scores {{ return Scores({dropped}); }}"
        ))
    }

    /// `store_lse`, and what reads it again, for own rows that are queries.
    pub fn lse(&self, operands: Operands) -> Operands {
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

    /// `about_queries`: the statistics of own rows that are queries.
    pub fn about_queries(&self, operands: Operands) -> Operands {
        let loads = Blocks::list(self.rows, "\n    ", |r| {
            format!("let a{r} = statistics_of(head, min(i + {r}u, p.queries - 1u));")
        });
        let lse = self.of_rows(|r, _| format!("a{r}.x"));
        let delta = self.of_rows(|r, _| format!("a{r}.y"));
        operands.text(&format!(
            "fn about_queries(head: Head, i: u32) -> About {{\n    \
             {loads}\n    \
             return About(Numbers({lse}), Numbers({delta}));\n}}"
        ))
    }

    /// For own rows that are keys `j …` while queries `i …` stream by. The statistics of the queries are
    /// in `about`, in the registers of the lanes that hold the query.
    pub fn key_side(&self, operands: Operands) -> Operands {
        let row = |r: usize| format!("min(j + {r}u, p.keys - 1u)");
        let starts = self.of_rows(|r, _| format!("first_query(head, {})", row(r)));
        let ends = self.of_rows(|r, _| format!("end_query(head, {})", row(r)));
        let masked = self.of_rows(|r, part| {
            let j = row(r);
            format!("masked(score.{part}, is_seen.{part}, head, min(i, p.queries - 1u), {j})")
        });
        let all =
            self.of_steps(|e| format!("masked_query(a.s{e}, head, i + {e}u, j, start, seen)"));
        let kept = self.of_steps(|e| {
            format!(
                "kept_weights(key, head, min(i + {e}u, p.queries - 1u), j / 4u * 4u) >> (j % 4u)"
            )
        });
        let dropped = self.of_steps(|e| {
            let each = self.of_rows(|r, part| format!("dropped(a.s{e}.{part}, kept.k{e}, {r}u)"));
            format!("Numbers({each})")
        });
        let about = "about: vec2<f32>";
        let about_of =
            |e: usize, part: &str| format!("subgroupShuffle(about.{part}, {}u)", e * self.parts);
        let weights =
            self.of_steps(|e| format!("bounded_exp(a.s{e} - Numbers({}))", about_of(e, "x")));
        let gradients = self.of_steps(|e| {
            format!(
                "shared_weights(w.s{e}) * (d.s{e} - Numbers({}))",
                about_of(e, "y")
            )
        });
        operands.text(&format!(
            "fn first_queries(head: Head, j: u32) -> Words {{ return Words({starts}); }}\n\
             fn end_queries(head: Head, j: u32) -> Words {{ return Words({ends}); }}\n\
             fn masked_query(score: Numbers, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Numbers {{\n    \
             let is_seen = Words(i) - start < seen;\n    \
             return Numbers({masked});\n}}\n\
             fn masked_queries(a: Scores, head: Head, i: u32, j: u32, start: Words, seen: Words) -> Scores {{\n    \
             return Scores({all});\n}}\n\
             fn kept_queries(key: DropoutKey, head: Head, i: u32, j: u32) -> KeptSteps {{ return KeptSteps({kept}); }}\n\
             fn dropped_queries(a: Scores, kept: KeptSteps) -> Scores {{ return Scores({dropped}); }}\n\
             fn weights_of_queries(a: Scores, {about}) -> Scores {{ return Scores({weights}); }}\n\
             fn gradients_of_queries(w: Scores, d: Scores, {about}) -> Scores {{ return Scores({gradients}); }}"
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

    /// `load_<name>_block`, for an operand whose chunks can be loaded: `rows` of them, `row_at` tells where each is.
    pub fn load(&self, operands: Operands, name: &str, row_at: &str, rows: &str) -> Operands {
        let chunks = self.of_chunks(|c| format!("chunk_{name}(at, chunk + {c}u)"));
        let shifted = Blocks::list(self.rows - 1, ", ", |r| format!("rows.r{}", r + 1));
        let members = self.of_chunks(|c| {
            let columns = Blocks::list(self.rows, ", ", |r| format!("rows.r{r}.d{c}"));
            format!("transpose(mat{}x4<f32>({columns}))", self.rows)
        });
        operands.text(&format!(
            "fn load_{name}_block(head: Head, first: u32, chunk: u32) -> Block {{\n    \
             var rows = Own();\n    \
             for (var n = 0u; n < BLOCK; n++) {{\n        \
             let at = {row_at}(p.{name}, head, min(first + n, {rows} - 1u));\n        \
             rows = Own({shifted}, OwnRow({chunks}));\n    }}\n    \
             return Block({members});\n}}"
        ))
    }

    /// `store_<name>_block`, into `buffer`, whose chunks can be stored.
    pub fn store(
        &self,
        operands: Operands,
        name: &str,
        buffer: &str,
        row_at: &str,
        rows: &str,
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
            "fn store_{name}_block(head: Head, first: u32, chunk: u32, a: Block) {{\n    \
             {transposed}\n    \
             var rows = Own({own});\n    \
             for (var n = 0u; n < min(BLOCK, {rows} - min(first, {rows})); n++) {{\n        \
             let at = {row_at}(p.{name}, head, first + n);\n        \
             {stores}\n        \
             rows = Own({shifted});\n    }}\n}}"
        ))
    }

    /// The bindings of backward kernels: operands of both sides, and the gradient.
    pub fn gradients(&self, mut operands: Operands) -> Operands {
        for (name, row_at, rows) in [
            ("q", "row_at", "p.queries"),
            ("k", "key_row_at", "p.keys"),
            ("v", "key_row_at", "p.keys"),
            ("dout", "row_at", "p.queries"),
        ] {
            operands = self.load(operands.read_rows(name, &[name]), name, row_at, rows);
        }
        operands = operands.write_chunks("gradient");
        operands = operands.reload("gradient", &["dq", "dk", "dv"]);
        for (name, row_at, rows) in [
            ("dq", "row_at", "p.queries"),
            ("dk", "key_row_at", "p.keys"),
            ("dv", "key_row_at", "p.keys"),
        ] {
            operands = self.load(operands, name, row_at, rows);
            operands = self.store(operands, name, "gradient", row_at, rows);
        }
        operands
    }
}
