//! WGSL kernels.

use std::borrow::Cow;
use std::panic::Location;

use super::syntax::{Kind, Module, declared_type};

/// A compute kernel: WGSL, an entry point, and the values of its constants.
///
/// Bindings are all in group 0: binding 0 is a uniform buffer with the dispatch's parameters, bindings 1 and up are
/// storage buffers in the order in which the dispatch binds them.
///
/// The source may [import] what the crate's own kernels are made of, be given constants by [`Kernel::constant`] and
/// [`Kernel::flag`], and other declarations by [`Kernel::declare`]. What the entry point doesn't need is not compiled.
///
/// [import]: https://github.com/shadegrad/shadegrad/blob/main/docs/adding-an-op.md#imports
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) module: Module,
    pub(crate) entry: &'static str,
    pub(crate) trusted: bool,
}

impl Kernel {
    /// A kernel from WGSL source. `name` is what profiles and errors call it.
    ///
    /// # Panics
    ///
    /// If the source imports what there isn't, or declares one name twice or one that it imports, too.
    #[track_caller]
    pub fn new(
        name: &'static str,
        source: impl Into<Cow<'static, str>>,
        entry: &'static str,
    ) -> Kernel {
        // Messages give places within the source as they give places in the crate's files.
        Kernel {
            name,
            module: Kernel::parsed(name, name, &source.into()),
            entry,
            trusted: false,
        }
    }

    /// One of the crate's own kernels, from the shader `file`. Its tests ran with runtime checks on, so release builds turn
    /// them off.
    pub(crate) fn builtin(name: &'static str, file: &str, entry: &'static str) -> Kernel {
        Kernel {
            name,
            module: Module::builtin(file),
            entry,
            trusted: true,
        }
    }

    /// One that the crate has written.
    pub(crate) fn generated(name: &'static str, source: &str, entry: &'static str) -> Kernel {
        Kernel {
            trusted: true,
            ..Kernel::new(name, source.to_owned(), entry)
        }
    }

    /// Gives the constant `const name: u32 = …;` another value.
    ///
    /// # Panics
    ///
    /// If the kernel declares no such constant.
    #[track_caller]
    pub fn constant(self, name: &str, value: usize) -> Kernel {
        self.with_constant(name, "u32", &format!("{value}u"))
    }

    /// Gives the constant `const name: bool = …;` another value.
    ///
    /// # Panics
    ///
    /// If the kernel declares no such constant.
    #[track_caller]
    pub fn flag(self, name: &str, value: bool) -> Kernel {
        self.with_constant(name, "bool", &value.to_string())
    }

    #[track_caller]
    fn with_constant(mut self, name: &str, ty: &str, value: &str) -> Kernel {
        let declared = self.module.find(name).filter(|constant| {
            let (declared, _) = declared_type(&constant.text)
                .split_once('=')
                .unwrap_or_default();
            constant.kind == Kind::Constant && declared.trim_end() == ty
        });
        assert!(
            declared.is_some(),
            "kernel `{}` declares no `const {name}: {ty}`",
            self.name
        );
        self.module
            .replace(name, &format!("const {name}: {ty} = {value};"));
        self
    }

    /// Gives the kernel further declarations, in WGSL. They take the place of those that have their names.
    ///
    /// # Panics
    ///
    /// As [`Kernel::new`] does.
    #[track_caller]
    pub fn declare(mut self, wgsl: &str) -> Kernel {
        let file = format!("declarations at {}", Location::caller());
        let more = Kernel::parsed(self.name, &file, wgsl);
        self.module.declare(more);
        self
    }

    #[track_caller]
    fn parsed(name: &str, file: &str, source: &str) -> Module {
        match Module::parsed(file, source) {
            Ok(module) => module,
            Err(reason) => panic!("kernel `{name}`: {reason}"),
        }
    }

    /// [`Kernel::declare`] with one of the crate's files.
    pub(crate) fn declare_file(mut self, file: &str) -> Kernel {
        self.module.declare(Module::builtin(file));
        self
    }

    /// The WGSL that is compiled: what the entry point needs of the source, of what it imports, and of what it was given.
    pub fn wgsl(&self) -> String {
        self.module.reachable(self.entry).text()
    }

    /// Leaves out what the entry point doesn't need.
    pub(crate) fn pruned(mut self) -> Kernel {
        self.module = self.module.reachable(self.entry);
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
