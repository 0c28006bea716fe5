//! The part of the attention kernels' text that depends on the head size and on where the operands lie.

/// Declares operands: a struct `Row` that holds a row, or a part of one, in registers, arithmetic on it, and how
/// it is loaded and stored. Members instead of arrays, because some compilers refuse arrays that a loop indexes.
pub(super) struct Operands {
    head_dim: usize,
    /// `vec4`s in a `Row`.
    chunks: usize,
    /// Whether a row is split into several `Row`s; loads then take the number of the first chunk.
    is_split: bool,
    /// Whether all rows start at multiples of four elements and end there.
    is_vector: bool,
    bindings: usize,
    text: String,
}

impl Operands {
    /// Rows of `head_dim` elements, held by `split` invocations with `chunks` vec4s each.
    pub fn new(head_dim: usize, split: Option<usize>, is_vector: bool) -> Operands {
        let chunks = head_dim.div_ceil(4).div_ceil(split.unwrap_or(1));
        let mut operands = Operands {
            head_dim,
            chunks,
            is_split: split.is_some(),
            is_vector,
            bindings: 0,
            text: String::new(),
        };
        operands.arithmetic();
        operands
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// `f(0), f(1), …` for all chunks.
    fn members(&self, separator: &str, member: impl Fn(usize) -> String) -> String {
        let members: Vec<String> = (0..self.chunks).map(member).collect();
        members.join(separator)
    }

    fn arithmetic(&mut self) {
        let fields = self.members(", ", |d| format!("d{d}: vec4<f32>"));
        let zeros = self.members(", ", |_| "vec4<f32>()".to_owned());
        let scaled = self.members(", ", |d| format!("a.d{d} * w"));
        let sums = self.members(", ", |d| format!("a.d{d} + w * b.d{d}"));
        let products = self.members(" + ", |d| format!("a.d{d} * b.d{d}"));
        self.line(&format!(
            "struct Row {{ {fields} }}\n\
             fn zero_row() -> Row {{ return Row({zeros}); }}\n\
             fn scaled(a: Row, w: f32) -> Row {{ return Row({scaled}); }}\n\
             fn plus_scaled(a: Row, w: f32, b: Row) -> Row {{ return Row({sums}); }}\n\
             fn dot_rows(a: Row, b: Row) -> f32 {{ let s = {products}; return (s.x + s.y) + (s.z + s.w); }}"
        ));
    }

    /// `row_of_lane`, by which lanes of a subgroup see each other's rows.
    pub fn shuffles(mut self) -> Operands {
        let lanes = self.members(", ", |d| format!("subgroupShuffle(a.d{d}, lane)"));
        self.line(&format!(
            "fn row_of_lane(a: Row, lane: u32) -> Row {{ return Row({lanes}); }}"
        ));
        self
    }

    /// The next storage binding.
    pub fn buffer(mut self, name: &str, access: &str, element: &str) -> Operands {
        self.bindings += 1;
        let binding = self.bindings;
        self.line(&format!(
            "@group(0) @binding({binding}) var<storage, {access}> {name}: array<{element}>;"
        ));
        self
    }

    fn rows_buffer(self, name: &str, access: &str) -> Operands {
        let element = if self.is_vector { "vec4<f32>" } else { "f32" };
        self.buffer(name, access, element)
    }

    /// The next storage binding, from which rows are loaded by a function `load_<name>` for each of the names.
    pub fn read_rows(mut self, buffer: &str, names: &[&str]) -> Operands {
        self = self.rows_buffer(buffer, "read");
        self.reload(buffer, names)
    }

    /// Functions that load rows from a buffer which is bound already.
    pub fn reload(mut self, buffer: &str, names: &[&str]) -> Operands {
        for name in names {
            if self.is_split {
                self.guarded_load(buffer, name);
            } else {
                let chunks = self.members(", ", |d| self.chunk(buffer, d));
                self.line(&format!(
                    "fn load_{name}(at: u32) -> Row {{ return Row({chunks}); }}"
                ));
            }
        }
        self
    }

    /// Chunk `d` of the row that starts at `at`, zeros past its end.
    fn chunk(&self, buffer: &str, d: usize) -> String {
        if self.is_vector {
            return format!("{buffer}[at / 4u + {d}u]");
        }
        let element = |e: usize| match 4 * d + e {
            index if index < self.head_dim => format!("{buffer}[at + {index}u]"),
            _ => "0.0".to_owned(),
        };
        let elements: Vec<String> = (0..4).map(element).collect();
        format!("vec4<f32>({})", elements.join(", "))
    }

    /// Whether parts of rows are made of whole chunks, none of them past a row's end.
    fn is_whole(&self) -> bool {
        self.is_vector && (self.head_dim / 4).is_multiple_of(self.chunks)
    }

    /// `chunk_<name>` and `load_<name>` for parts of rows: which chunks they are, only the invocation knows.
    fn guarded_load(&mut self, buffer: &str, name: &str) {
        let head_dim = self.head_dim;
        let load = format!("return {buffer}[at / 4u + chunk];");
        let chunk = if self.is_whole() {
            load
        } else if self.is_vector {
            format!(
                "if (chunk < {}u) {{ {load} }}\n    return vec4<f32>();",
                head_dim / 4
            )
        } else {
            self.line(&format!(
                "fn element_{name}(at: u32, e: u32) -> f32 {{\n    \
                 if (e < {head_dim}u) {{ return {buffer}[at + e]; }}\n    \
                 return 0.0;\n}}"
            ));
            let element = |e: usize| format!("element_{name}(at, 4u * chunk + {e}u)");
            let elements: Vec<String> = (0..4).map(element).collect();
            format!("return vec4<f32>({});", elements.join(", "))
        };
        self.line(&format!(
            "fn chunk_{name}(at: u32, chunk: u32) -> vec4<f32> {{\n    {chunk}\n}}"
        ));
        let chunks = self.members(", ", |d| format!("chunk_{name}(at, chunk + {d}u)"));
        self.line(&format!(
            "fn load_{name}(at: u32, chunk: u32) -> Row {{ return Row({chunks}); }}"
        ));
    }

    /// The next storage binding, to which whole rows are stored by `store_<name>`. They can be loaded again.
    pub fn write_rows(mut self, name: &str) -> Operands {
        self = self.rows_buffer(name, "read_write");
        let stores = self.members("\n    ", |d| match self.is_vector {
            true => format!("{name}[at / 4u + {d}u] = a.d{d};"),
            false => (0..4.min(self.head_dim - 4 * d))
                .map(|e| format!("{name}[at + {}u] = a.d{d}[{e}]; ", 4 * d + e))
                .collect(),
        });
        self.line(&format!(
            "fn store_{name}(at: u32, a: Row) {{\n    {stores}\n}}"
        ));
        self.reload(name, &[name])
    }

    /// The next storage binding, to which chunks of rows are stored by `store_chunk_<name>`. They can be loaded again.
    pub fn write_chunks(mut self, name: &str) -> Operands {
        self = self.rows_buffer(name, "read_write");
        let head_dim = self.head_dim;
        let text = match self.is_vector {
            true => format!(
                "if (chunk < {}u) {{ {name}[at / 4u + chunk] = a; }}",
                head_dim / 4
            ),
            false => format!(
                "if (4u * chunk + $4u < {head_dim}u) {{ {name}[at + 4u * chunk + $4u] = a[$4]; }}"
            ),
        };
        self.line(&format!(
            "fn store_chunk_{name}(at: u32, chunk: u32, a: vec4<f32>) {{\n    {text}\n}}"
        ));
        self.reload(name, &[name])
    }

    /// Appends other text.
    pub fn text(mut self, text: &str) -> Operands {
        self.line(text);
        self
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}
