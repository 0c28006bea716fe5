//! Parts of one buffer that a kernel writes and that lie close together, bound once.
//!
//! Bindings begin at multiples of 256 bytes, parameters at multiples of 16. So the bindings of neighbours overlap, which
//! WebGPU forbids where they are writable. A kernel that writes several, such as the gradients of a norm's weight and bias,
//! is given one binding for all.

use super::dispatch::{Dispatch, Slot};
use super::halves::element;
use super::lowerer::Lowerer;
use crate::gpu::kernel::Access;
use crate::gpu::syntax::{Declaration, Kind};

impl Lowerer<'_> {
    /// Has a dispatch bind once what it would bind in overlapping parts for writing. Where its kernel declares arrays of
    /// different elements for these, or does something else than index them, it is left as it is, and refused later.
    pub fn join(&mut self, dispatch: &mut Dispatch) {
        let written = |dispatch: &Dispatch| -> Vec<usize> {
            let bindings = dispatch.bindings.iter().enumerate();
            let written = bindings.filter(|(_, (_, access))| *access == Access::Write);
            written.map(|(index, _)| index).collect()
        };
        let mut one = 0;
        while let Some(&first) = written(dispatch).get(one) {
            let others = written(dispatch).split_off(one + 1);
            let joined = others.into_iter().any(|other| {
                self.joined(dispatch, first, other)
                    .map(|joined| *dispatch = joined)
                    .is_some()
            });
            // What is joined reaches further.
            one = if joined { 0 } else { one + 1 };
        }
    }

    /// With the bindings of two indices as one, if they overlap.
    fn joined(&mut self, dispatch: &Dispatch, one: usize, other: usize) -> Option<Dispatch> {
        let places =
            [one, other].map(
                |index| match &self.program.slots[dispatch.bindings[index].0] {
                    Slot::External {
                        buffer,
                        start,
                        bytes,
                        first,
                    } => Some((buffer.clone(), *start..start + bytes, *first)),
                    _ => None,
                },
            );
        let [Some((buffer, a, a_first)), Some((other_buffer, b, b_first))] = places else {
            return None;
        };
        if buffer.id() != other_buffer.id() || a.end <= b.start || b.end <= a.start {
            return None;
        }
        let mut new = dispatch.clone();
        let module = &mut new.kernel.module;
        let declared = |index: usize| {
            let number = Access::Write.binding(index);
            let mut all = dispatch.kernel.module.iter();
            all.find(|it| it.kind == Kind::Storage(number, true))
        };
        let (array, removed) = (declared(one)?, declared(other)?);
        let [(_, ty), (_, other_ty)] = [element(module, array)?, element(module, removed)?];
        let bytes = bytes_of(ty).filter(|_| ty == other_ty)?;
        let start = a.start.min(b.start);
        for (it, from) in [(array, a.start), (removed, b.start)] {
            let (name, shift) = (&*it.name, (from - start) / bytes);
            let is_indexed = |it: &Declaration, at| it.index(&at).is_some() || *it.name == *name;
            let mut all = dispatch.kernel.module.iter();
            if !all.all(|it| it.mentions(name).all(|at| is_indexed(it, at))) {
                return None;
            }
            module.edit(name, |it, at| match it.index(&at) {
                Some([open, close]) => vec![
                    (at.start..open + 1, format!("{}[{shift}u + (", array.name)),
                    (close..close, ")".to_owned()),
                ],
                None => Vec::new(),
            });
        }
        module.remove(&removed.name);
        // Those behind are numbered one less.
        for index in other + 1..dispatch.bindings.len() {
            let [old, new] = [index, index - 1].map(|index| 1 + index);
            let mut all = dispatch.kernel.module.iter();
            if let Some(it) =
                all.find(|it| matches!(it.kind, Kind::Storage(n, _) if n as usize == old))
            {
                let text =
                    it.text
                        .replacen(&format!("@binding({old})"), &format!("@binding({new})"), 1);
                (text != *it.text).then(|| module.replace(&it.name, &text))?;
            }
        }
        new.bindings.remove(other);
        let range = start..a.end.max(b.end);
        new.bindings[one].0 = self.external(&buffer, range, a_first.min(b_first));
        Some(new)
    }
}

/// The size of an element, where several make the 256 bytes that bindings are apart.
fn bytes_of(ty: &str) -> Option<u64> {
    let scalar = if ty.contains("f16") { 2 } else { 4 };
    match ty {
        "f32" | "u32" | "i32" | "f16" | "atomic<u32>" => Some(scalar),
        _ if ty.starts_with("vec2<") => Some(2 * scalar),
        _ if ty.starts_with("vec4<") => Some(4 * scalar),
        _ => None,
    }
}
