//! WGSL kernels: source text with replaceable constants.

use std::borrow::Cow;

/// A compute kernel: WGSL source, an entry point, and the values of its constants.
///
/// Bindings are all in group 0: binding 0 is a uniform buffer with the dispatch's parameters, bindings 1 and up are
/// storage buffers in the order in which the dispatch binds them.
///
/// A kernel may be tuned through module-scope constants: `const TILE: u32 = 8u;` in the source is the default, and
/// [`Kernel::constant`] replaces the value in the text. (WGSL `override`s cannot size function-local arrays.)
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) source: Cow<'static, str>,
    pub(crate) entry: &'static str,
    pub(crate) trusted: bool,
}

impl Kernel {
    /// A kernel from WGSL source. `name` is what profiles and errors call it.
    pub fn new(
        name: &'static str,
        source: impl Into<Cow<'static, str>>,
        entry: &'static str,
    ) -> Kernel {
        Kernel {
            name,
            source: source.into(),
            entry,
            trusted: false,
        }
    }

    /// One of the crate's own kernels. Its tests ran with runtime checks on, so release builds turn them off.
    pub(crate) fn builtin(
        name: &'static str,
        source: impl Into<Cow<'static, str>>,
        entry: &'static str,
    ) -> Kernel {
        Kernel {
            trusted: true,
            ..Kernel::new(name, source, entry)
        }
    }

    /// Replaces the value of the module-scope constant `const name: u32 = …;`.
    ///
    /// # Panics
    ///
    /// If the source declares no such constant.
    #[track_caller]
    pub fn constant(self, name: &str, value: usize) -> Kernel {
        self.replace_constant(name, "u32", &format!("{value}u"))
    }

    /// Replaces the value of the module-scope constant `const name: bool = …;`.
    ///
    /// # Panics
    ///
    /// If the source declares no such constant.
    #[track_caller]
    pub fn flag(self, name: &str, value: bool) -> Kernel {
        self.replace_constant(name, "bool", &value.to_string())
    }

    #[track_caller]
    fn replace_constant(mut self, name: &str, ty: &str, value: &str) -> Kernel {
        let declaration = format!("const {name}: {ty} = ");
        let start = self
            .source
            .find(&declaration)
            .unwrap_or_else(|| panic!("kernel `{}` declares no `{declaration}`", self.name))
            + declaration.len();
        let end = start + self.source[start..].find(';').expect("declarations end");
        self.source.to_mut().replace_range(start..end, value);
        self
    }

    /// Replaces the lines between `//:begin tag` and `//:end tag` (the markers stay).
    ///
    /// # Panics
    ///
    /// If the source has no such block.
    #[track_caller]
    pub fn block(mut self, tag: &str, text: &str) -> Kernel {
        let begin = format!("//:begin {tag}\n");
        let start = self
            .source
            .find(&begin)
            .unwrap_or_else(|| panic!("kernel `{}` has no block `{tag}`", self.name))
            + begin.len();
        let end = start
            + self.source[start..]
                .find(&format!("//:end {tag}"))
                .expect("blocks end");
        self.source.to_mut().replace_range(start..end, text);
        self
    }

    /// Whether its workgroups are of a single invocation.
    pub(crate) fn is_serial(&self) -> bool {
        let entry = format!("@compute @workgroup_size(1)\nfn {}(", self.entry);
        self.source.contains(&entry)
    }

    /// Whether there are loops in its text.
    pub(crate) fn has_loops(&self) -> bool {
        let is_loop = |word: &str| matches!(word, "for" | "while" | "loop");
        let ends_word = |c: char| !c.is_alphanumeric() && c != '_';
        let mut code = self
            .source
            .lines()
            .filter_map(|line| line.split("//").next());
        code.any(|code| code.split(ends_word).any(is_loop))
    }

    /// Puts shared declarations in front of the source.
    pub fn prelude(mut self, text: &str) -> Kernel {
        self.source.to_mut().insert_str(0, text);
        self
    }
}

/// How a dispatch uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Read,
    /// `var<storage, read_write>`, whether the kernel reads it or not.
    Write,
    /// `var<uniform>`, of so many bytes.
    Uniform {
        bytes: u64,
    },
    /// The same, of a further part of an operand.
    Window {
        bytes: u64,
    },
}

impl Access {
    /// The binding's number in the kernel's text if it is number `index` of a dispatch.
    pub fn binding(self, index: usize) -> u32 {
        match self {
            Access::Window { .. } => Access::window_binding(index),
            _ => 1 + index as u32,
        }
    }

    /// Windows are numbered apart from what the texts declare themselves.
    pub fn window_binding(index: usize) -> u32 {
        100 + index as u32
    }
}
