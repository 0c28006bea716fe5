//! Operands of `F16`: kernels are written as if all floats were `f32`, and are changed where they are bound to halves.
//!
//! With `SHADER_F16` an array of halves is declared as what it is, and what is read from it is widened, what is written to it
//! is rounded. Without, the same bytes are pairs in words of `u32`; a kernel that writes single elements shares a word with
//! its neighbour, and changes its half of it atomically.

use std::ops::Range;

use super::dispatch::Dispatch;
use crate::gpu::Device;
use crate::gpu::kernel::Access;
use crate::gpu::syntax::{Declaration, Kind, Module, declared_type};

/// Changes the kernel of a dispatch where it is bound to halves.
///
/// # Panics
///
/// If it does something else with one of those arrays than read and write its elements.
#[track_caller]
pub(super) fn widen(device: &Device, dispatch: &mut Dispatch) {
    for binding in std::mem::take(&mut dispatch.halves) {
        let number = Access::Read.binding(binding);
        let kernel = &mut dispatch.kernel;
        if let Some(widened) = widened(&kernel.module, number, device.has_f16()) {
            kernel.module = widened.unwrap_or_else(|reason| {
                panic!("kernel `{}`: {reason}, and cannot hold F16", kernel.name)
            });
        }
    }
}

/// `None` where the kernel declares nothing to change: halves by itself, or nothing that it needs.
fn widened(kernel: &Module, binding: u32, has_f16: bool) -> Option<Result<Module, String>> {
    let is_bound =
        |it: &&Declaration| matches!(it.kind, Kind::Storage(number, _) if number == binding);
    let array = kernel.iter().find(is_bound)?;
    let ty = element(kernel, array).map(|(_, element)| element);
    let Some(halves) = Halves::new(kernel, array, ty.unwrap_or_default(), has_f16) else {
        let is_half = ty.is_some_and(|ty| ty.contains("f16"));
        let reason = format!("`{}` is no array of floats", array.name);
        return (!is_half).then_some(Err(reason));
    };
    Some(halves.put_in(kernel))
}

/// The type of an array's elements, as it is declared and without an alias.
pub(super) fn element<'a>(
    kernel: &'a Module,
    array: &'a Declaration,
) -> Option<(&'a str, &'a str)> {
    let declared = declared_type(&array.text);
    let declared = declared.strip_prefix("array<")?.strip_suffix('>')?;
    let alias = kernel
        .find(declared)
        .and_then(|alias| alias.text.split_once("= "));
    let element = alias.map_or(declared, |(_, element)| element.trim_end_matches(';'));
    Some((declared, element))
}

/// An array that is to hold halves.
struct Halves<'a> {
    array: &'a Declaration,
    /// The type that kernels read and write.
    ty: &'a str,
    form: Form,
    reader: String,
    writer: String,
    packer: String,
}

enum Form {
    /// As elements of this type.
    Native(&'static str),
    /// As words: how many make an element.
    Pairs { words: usize },
    /// As words that hold two elements.
    Single { is_atomic: bool },
}

/// What is done with an element.
enum Use {
    Read,
    /// The statement's operator, such as `+=`, and its semicolon.
    Write {
        operator: Range<usize>,
        end: usize,
    },
}

impl<'a> Halves<'a> {
    fn new(
        kernel: &Module,
        array: &'a Declaration,
        ty: &'a str,
        has_f16: bool,
    ) -> Option<Halves<'a>> {
        let is_written = matches!(array.kind, Kind::Storage(_, true));
        let form = match (ty, has_f16) {
            ("f32", true) => Form::Native("f16"),
            ("vec2<f32>", true) => Form::Native("vec2<f16>"),
            ("vec4<f32>", true) => Form::Native("vec4<f16>"),
            ("f32", false) => Form::Single {
                is_atomic: is_written,
            },
            ("vec2<f32>", false) => Form::Pairs { words: 1 },
            ("vec4<f32>", false) => Form::Pairs { words: 2 },
            _ => return None,
        };
        Some(Halves {
            array,
            ty,
            form,
            reader: kernel.fresh(&format!("{}_half", array.name)),
            writer: kernel.fresh(&format!("{}_put", array.name)),
            packer: kernel.fresh(&format!("{}_pack", array.name)),
        })
    }

    fn put_in(&self, kernel: &Module) -> Result<Module, String> {
        let name = &*self.array.name;
        for it in kernel.iter().filter(|it| *it.name != *name) {
            for at in it.mentions(name) {
                use_of(it, &at).map_err(|what| format!("`{name}` is {what}"))?;
            }
        }
        let mut new = kernel.clone();
        new.edit(name, |it, at| match use_of(it, &at) {
            Ok((index, used)) => self.edits(it, at, index, used),
            Err(_) => Vec::new(),
        });
        new.replace(name, &self.declaration());
        Ok(new)
    }

    fn edits(
        &self,
        it: &Declaration,
        at: Range<usize>,
        [open, close]: [usize; 2],
        used: Use,
    ) -> Vec<(Range<usize>, String)> {
        let ty = self.ty;
        let element = &it.text[at.start..close + 1];
        match (&self.form, used) {
            (Form::Native(_), Use::Read) => vec![
                (at.start..at.start, format!("{ty}(")),
                (close + 1..close + 1, ")".to_owned()),
            ],
            (Form::Native(half), Use::Write { operator, end }) => {
                let before = match &it.text[operator.start..operator.end - 1] {
                    "" => String::new(),
                    sign => format!("{ty}({element}) {sign} "),
                };
                vec![
                    (operator, format!("= {half}({before}(")),
                    (end..end, "))".to_owned()),
                ]
            }
            (_, Use::Read) => vec![
                (at.start..open + 1, format!("{}(", self.reader)),
                (close..close + 1, ")".to_owned()),
            ],
            (_, Use::Write { operator, end }) => {
                let before = match &it.text[operator.start..operator.end - 1] {
                    "" => String::new(),
                    sign => format!("{}({}) {sign} ", self.reader, &it.text[open + 1..close]),
                };
                vec![
                    (at.start..open + 1, format!("{}(", self.writer)),
                    (close..operator.end, format!(", {before}(")),
                    (end..end, "))".to_owned()),
                ]
            }
        }
    }

    /// The array, and the functions that read and write it, on one line.
    fn declaration(&self) -> String {
        let (text, ty) = (&*self.array.text, self.ty);
        let name = &*self.array.name;
        let head = &text[..text.find(':').expect("variables have a type")];
        let (stored, body) = match self.form {
            Form::Native(half) => return format!("{head}: array<{half}>;"),
            Form::Single { is_atomic: false } => (
                "u32",
                format!("return unpack2x16float({name}[i >> 1u])[i & 1u];"),
            ),
            Form::Single { is_atomic: true } => (
                "atomic<u32>",
                format!("return unpack2x16float(atomicLoad(&{name}[i >> 1u]))[i & 1u];"),
            ),
            Form::Pairs { words: 1 } => ("u32", format!("return unpack2x16float({name}[i]);")),
            Form::Pairs { .. } => (
                "vec2<u32>",
                format!(
                    "let w = {name}[i]; return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));"
                ),
            ),
        };
        let reader = format!("fn {}(i: u32) -> {ty} {{ {body} }}", self.reader);
        let pack = &self.packer;
        let body = match self.form {
            _ if matches!(self.array.kind, Kind::Storage(_, false)) => {
                return format!("{head}: array<{stored}>; {reader}");
            }
            Form::Pairs { words: 1 } => format!("{name}[i] = {pack}(v);"),
            Form::Pairs { .. } => {
                format!("{name}[i] = vec2<u32>({pack}(v.xy), {pack}(v.zw));")
            }
            _ => format!(
                "let s = (i & 1u) * 16u; atomicAnd(&{name}[i >> 1u], ~(0xffffu << s)); \
                 atomicOr(&{name}[i >> 1u], {pack}(vec2<f32>(v, 0.0)) << s);"
            ),
        };
        let writer = format!("fn {}(i: u32, v: {ty}) {{ {body} }}", self.writer);
        // WGSL leaves open what becomes of numbers that halves don't hold, and some GPUs round them to the largest half: an
        // overflow that no loss scale would notice.
        let packed = format!(
            "fn {pack}(v: vec2<f32>) -> u32 {{ \
             let b = bitcast<vec2<u32>>(v); let a = b & vec2<u32>(0x7fffffffu); \
             let n = select(vec2<u32>(0x7c00u), vec2<u32>(0x7e00u), a > vec2<u32>(0x7f800000u)); \
             let m = select(vec2<u32>(), vec2<u32>(0xffffu), a >= vec2<u32>(0x477ff000u)); \
             let f = (((b >> vec2<u32>(16u)) & vec2<u32>(0x8000u)) | n) & m; \
             return (pack2x16float(v) & ~(m.x | (m.y << 16u))) | f.x | (f.y << 16u); }}"
        );
        format!("{head}: array<{stored}>; {reader} {packed} {writer}")
    }
}

/// The brackets of the index behind a mention, and what is done with that element. Or what else is done with the array.
fn use_of(it: &Declaration, at: &Range<usize>) -> Result<([usize; 2], Use), &'static str> {
    if it.text[..at.start].trim_end().ends_with('&')
        && !it.text[..at.start].trim_end().ends_with("&&")
    {
        return Err("pointed at");
    }
    let [open, close] = it.index(at).ok_or("not only indexed")?;
    let behind = &it.text[close + 1..];
    let start = close + 1 + behind.len() - behind.trim_start().len();
    let behind = behind.trim_start();
    let member = behind.strip_prefix('.').map(|member| {
        member
            .trim_start_matches(|c: char| c.is_alphanumeric())
            .trim_start()
    });
    if member.and_then(assignment).is_some() {
        return Err("written a component at a time");
    }
    let used = match assignment(behind) {
        None => Use::Read,
        Some(length) => {
            let operator = start..start + length;
            let end = it.text[operator.end..]
                .find(';')
                .ok_or("written in the head of a loop")?;
            Use::Write {
                end: operator.end + end,
                operator,
            }
        }
    };
    Ok(([open, close], used))
}

/// The length of the operator that a text begins with, if it assigns.
fn assignment(text: &str) -> Option<usize> {
    let sign = usize::from(text.starts_with(['+', '-', '*', '/']));
    let rest = text[sign..].strip_prefix('=')?;
    (!rest.starts_with('=')).then_some(sign + 1)
}
