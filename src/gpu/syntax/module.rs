//! What kernels are made of.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex};

use super::declaration::{Declaration, Field, Kind, workgroup_size};
use super::parse;

/// What a kernel is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Module {
    declarations: Vec<Arc<Declaration>>,
    /// How many are its own; the others it imports.
    own: usize,
}

macro_rules! files {
    ($($name:ident)*) => {
        &[$((stringify!($name), include_str!(concat!("../../../shaders/", stringify!($name), ".wgsl")))),*]
    };
}

/// The crate's shaders.
#[rustfmt::skip]
const FILES: &[(&str, &str)] = files! {
    attention attention_pairs attention_rows attention_rows_shuffles attention_squares attention_statistics
    attention_subgroup8 attention_subgroup8_backward attention_tiled attention_tiled_backward attention_units attention_weights
    attention_wide8 attention_wide8_backward blocks ceiling cross_entropy dropout embedding embedding_gradient epilogue
    gather grid heads load_cost matmul matmul_subgroup8 matmul_sum matmul_units matmul_work matrix_units matrix_units_test norm norm_operands norm_subgroup8 optim
    pad philox random reduce residual_norms rows sample softmax team team_shuffles team_subgroups write_rows
};

/// What must be enabled where one of the words is used.
const EXTENSIONS: [(&str, &[&str]); 2] = [
    ("enable f16; ", &["f16"]),
    ("enable wgpu_cooperative_matrix; ", &MATRICES),
];

const MATRICES: [&str; 2] = ["coop_mat16x16", "coop_mat8x8"];

impl Module {
    /// One of the crate's files, with what it imports.
    pub fn builtin(name: &str) -> Module {
        static MODULES: LazyLock<Mutex<HashMap<&str, Module>>> = LazyLock::new(Mutex::default);
        let file = FILES.iter().find(|(file, _)| *file == name);
        let &(name, source) = file.unwrap_or_else(|| panic!("there is no {name}.wgsl"));
        if let Some(module) = MODULES.lock().unwrap().get(name) {
            return module.clone();
        }
        let module =
            Module::parsed(&format!("{name}.wgsl"), source).unwrap_or_else(|e| panic!("{e}"));
        MODULES.lock().unwrap().insert(name, module.clone());
        module
    }

    /// From WGSL, with what it imports. `file` is what messages call it. Or what is wrong with its imports, or is declared
    /// twice: naga would not see what is left out.
    pub fn parsed(file: &str, source: &str) -> Result<Module, String> {
        let declarations = parse::declarations(&file.into(), source);
        let mut lines = HashMap::new();
        for declaration in &declarations {
            let (name, line) = (&*declaration.name, declaration.origin.1 + 1);
            if let Some(first) = lines.insert(name, line)
                && !name.is_empty()
                && declaration.kind != Kind::Import
            {
                return Err(format!(
                    "{file}:{line}: `{name}` is declared in line {first}, too"
                ));
            }
        }
        let (imports, own): (Vec<_>, _) = declarations
            .into_iter()
            .partition(|declaration| declaration.kind == Kind::Import);
        let mut module = Module {
            own: own.len(),
            declarations: own,
        };
        for import in imports {
            let (path, line) = (&*import.name, import.origin.1 + 1);
            let name = path.strip_prefix("shadegrad::").unwrap_or_default();
            if !FILES.iter().any(|(file, _)| *file == name) {
                return Err(format!(
                    "{file}:{line}: there is no `{path}` to import; what there is are the crate's shaders, such as \
                     `shadegrad::team` for shaders/team.wgsl"
                ));
            }
            for declaration in Module::builtin(name).declarations {
                let (of, start) = &declaration.origin;
                match module.find(&declaration.name) {
                    Some(known) if known.origin == declaration.origin => {}
                    Some(known) => {
                        let (name, (file, line)) = (&known.name, &known.origin);
                        return Err(format!(
                            "{file}:{}: `{name}` is declared in {of}:{}, too, which is imported",
                            line + 1,
                            start + 1,
                        ));
                    }
                    None => module.declarations.push(declaration),
                }
            }
        }
        Ok(module)
    }

    pub fn find(&self, name: &str) -> Option<&Arc<Declaration>> {
        let is_named = |declaration: &&Arc<Declaration>| *declaration.name == *name;
        self.declarations
            .iter()
            .find(is_named)
            .filter(|_| !name.is_empty())
    }

    /// With further declarations, which take the place of those of their names. What they import only comes where there is
    /// nothing of its name yet.
    pub fn declare(&mut self, more: Module) {
        for (index, declaration) in more.declarations.into_iter().enumerate() {
            let name = &declaration.name;
            let mut known = self.declarations.iter_mut();
            match known.find(|known| known.name == *name && !name.is_empty()) {
                Some(known) if index < more.own => *known = declaration,
                Some(_) => {}
                None => self.declarations.push(declaration),
            }
        }
    }

    /// With another text for one of the declarations, on the same line.
    pub fn replace(&mut self, name: &str, text: &str) {
        let is_named = |declaration: &&mut Arc<Declaration>| *declaration.name == *name;
        let own = self
            .declarations
            .iter_mut()
            .find(is_named)
            .expect("it is declared");
        let (file, line) = &own.origin;
        let mut new = parse::declarations(file, text);
        for declaration in &mut new {
            Arc::get_mut(declaration)
                .expect("nobody else has it")
                .origin
                .1 += line;
        }
        *own = new.swap_remove(0);
        self.declarations.extend(new);
    }

    pub fn remove(&mut self, name: &str) {
        self.declarations.retain(|it| *it.name != *name);
    }

    /// Puts other pieces in the places of some, which `edits` finds for each mention of a name.
    pub fn edit(
        &mut self,
        name: &str,
        edits: impl Fn(&Declaration, Range<usize>) -> Vec<(Range<usize>, String)>,
    ) {
        for declaration in self
            .declarations
            .clone()
            .iter()
            .filter(|declaration| declaration.uses(name))
        {
            let edits: Vec<_> = declaration
                .mentions(name)
                .flat_map(|at| edits(declaration, at))
                .collect();
            if !edits.is_empty() {
                self.replace(&declaration.name, &declaration.edited(edits));
            }
        }
    }

    /// The members of a struct, if it is one.
    pub fn members(&self, name: &str) -> Option<impl Iterator<Item = Field<'_>>> {
        let declared = self
            .find(name)
            .filter(|declaration| declaration.kind == Kind::Struct);
        declared.map(|declaration| declaration.fields())
    }

    /// The name, or one like it that nothing is called by.
    pub fn fresh(&self, name: &str) -> String {
        let mut name = name.to_owned();
        let has =
            |it: &Declaration, name: &str| it.uses(name) || it.locals.iter().any(|l| **l == *name);
        while self.iter().any(|declaration| has(declaration, &name)) {
            name.push('_');
        }
        name
    }

    /// The declarations that an entry point needs; all of them if there is no such entry point.
    pub fn reachable(&self, entry: &str) -> Module {
        let is_entry = |d: &&Arc<Declaration>| d.kind == Kind::Entry && *d.name == *entry;
        let Some(entry) = self.declarations.iter().find(is_entry) else {
            return self.clone();
        };
        let by_name: HashMap<&str, &Declaration> = self
            .declarations
            .iter()
            .map(|declaration| (&*declaration.name, &**declaration))
            .collect();
        let unnamed = self
            .declarations
            .iter()
            .filter(|declaration| declaration.name.is_empty());
        let mut open: Vec<&Declaration> = unnamed.chain([entry]).map(|d| &**d).collect();
        let mut needed = HashSet::from(["", &*entry.name]);
        while let Some(declaration) = open.pop() {
            let used = declaration
                .uses
                .iter()
                .filter_map(|name| by_name.get(&**name));
            for &used in used {
                if needed.insert(&*used.name) {
                    open.push(used);
                }
            }
        }
        let needed = |declaration: &&Arc<Declaration>| needed.contains(&*declaration.name);
        let declarations: Vec<_> = self.declarations.iter().filter(needed).cloned().collect();
        Module {
            own: declarations.len(),
            declarations,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Declaration> + Clone {
        self.declarations.iter().map(|declaration| &**declaration)
    }

    /// The WGSL. What must be enabled for it is, on the first line, so that all lines keep their numbers.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (extension, words) in EXTENSIONS {
            if self.uses_any(words) {
                text.push_str(extension);
            }
        }
        for declaration in self.iter() {
            text.push_str(&declaration.text);
            text.push('\n');
        }
        text
    }

    fn uses_any(&self, words: &[&str]) -> bool {
        self.iter().any(|it| words.iter().any(|word| it.uses(word)))
    }

    /// Whether anything is of cooperative matrices.
    pub fn names_matrices(&self) -> bool {
        self.uses_any(&MATRICES)
    }

    /// Where a line of the text comes from: a file and the number of its line.
    pub fn place(&self, line: usize) -> (Arc<str>, usize) {
        let mut first = 1;
        for declaration in self.iter() {
            let next = first + declaration.text.split('\n').count();
            if line < next {
                let (file, before) = &declaration.origin;
                return (file.clone(), before + 1 + line - first);
            }
            first = next;
        }
        ("".into(), line)
    }

    /// Whether an entry point's workgroups are of a single invocation.
    pub fn is_serial(&self, entry: &str) -> bool {
        self.find(entry)
            .is_some_and(|entry| workgroup_size(&entry.text) == "1")
    }

    /// Whether anything has loops.
    pub fn has_loops(&self) -> bool {
        let loops = ["for", "while", "loop"];
        self.iter()
            .any(|declaration| loops.iter().any(|word| declaration.uses(word)))
    }
}
