//! Kernels' parameters as values that a driver can't look up: Mesa's llvmpipe compiles kernels again for the parameters at
//! hand.
//!
//! Its Vulkan driver (lavapipe, `nir_inline_uniforms`) looks for branches and ends of loops that depend on constants and
//! uniform words alone. Where a kernel has some, it puts the words of the first dispatch in, and if that makes the kernel less
//! than half as long, or longer at all, as unrolled loops are, then it does so *at every dispatch* whose parameters are bound
//! anew, and up to Mesa 23.1 compiles each time and keeps what it compiled. So on that driver kernels copy their parameters
//! into registers, under a condition that always holds, but on which only a dispatch can tell.

use super::syntax::{Field, Kind, Module, declared_type};

/// The kernel with the parameters of its entry point copied first. `None` where it has none.
pub(super) fn copied(kernel: &Module, entry: &str) -> Option<Module> {
    let mut kernel = kernel.clone();
    let bound = kernel.iter().find(|it| it.kind == Kind::Uniform(0))?;
    let (name, ty) = (bound.name.clone(), declared_type(&bound.text).to_owned());
    let aside = kernel.fresh(&format!("bound_{name}"));
    // Members that are indexed by anything but a number are read from where they are bound: registers have no index.
    kernel.edit(&name, |it, at| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let member = it.text[at.end..].strip_prefix('.').unwrap_or_default();
        let index = member.trim_start_matches(is_word).strip_prefix('[');
        let is_looked_up =
            index.is_some_and(|index| !index.starts_with(|c: char| c.is_ascii_digit()));
        is_looked_up
            .then(|| (at, aside.clone()))
            .into_iter()
            .collect()
    });
    kernel.replace(
        &name,
        &format!("@group(0) @binding(0) var<uniform> {aside}: {ty}; var<private> {name}: {ty};"),
    );
    let function = kernel.find(entry)?;
    let is_groups = |field: &Field<'_>| field.builtin == "num_workgroups";
    let groups = function.fields().find_map(|field| {
        if is_groups(&field) {
            return Some(field.name.to_owned());
        }
        let member = kernel.members(field.ty)?.find(is_groups)?;
        Some(format!("{}.{}", field.name, member.name))
    });
    let (more, groups) = match groups {
        Some(groups) => (String::new(), groups),
        None => {
            let groups = kernel.fresh("all_groups");
            (
                format!("@builtin(num_workgroups) {groups}: vec3<u32>, "),
                groups,
            )
        }
    };
    let (head, body) = function.text.split_at(function.body());
    let (head, parameters) = head.split_at(function.inside().start);
    let text =
        format!("{head}{more}{parameters} if ({groups}.x > 0u) {{ {name} = {aside}; }}{body}");
    kernel.replace(entry, &text);
    Some(kernel)
}

#[cfg(test)]
#[path = "../../tests/unit/gpu/opaque.rs"]
mod tests;
