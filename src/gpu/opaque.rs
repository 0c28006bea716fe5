//! Kernels' parameters as values that a driver can't look up: Mesa's llvmpipe compiles kernels again for the parameters at
//! hand.
//!
//! Its Vulkan driver (lavapipe, `nir_inline_uniforms`) looks for branches and ends of loops that depend on constants and
//! uniform words alone. Where a kernel has some, it puts the words of the first dispatch in, and if that makes the kernel less
//! than half as long, or longer at all, as unrolled loops are, then it does so *at every dispatch* whose parameters are bound
//! anew, and up to Mesa 23.1 compiles each time and keeps what it compiled. So on that driver kernels copy their parameters
//! into registers, under a condition that always holds, but on which only a dispatch can tell.

/// The text with the parameters of the entry point copied first. `None` where it has none, or in another form.
pub(super) fn rewritten(source: &str, entry: &str) -> Option<String> {
    let declaration = "@group(0) @binding(0) var<uniform> ";
    let (before, rest) = source.split_once(declaration)?;
    let (declared, rest) = rest.split_once(';')?;
    let (name, _) = declared.split_once(": ")?;
    let start = format!("fn {entry}(");
    let (between, rest) = rest.split_once(&start)?;
    let (arguments, body) = rest.split_once('{')?;
    let builtin = "@builtin(num_workgroups) ";
    let known = arguments
        .split_once(builtin)
        .and_then(|(_, rest)| rest.split_once(':'));
    let (more, groups) = match known {
        Some((groups, _)) => (String::new(), groups),
        None if source.contains(builtin) && between.contains("struct") => return None,
        None => (format!("{builtin}all_groups: vec3<u32>, "), "all_groups"),
    };
    let [between, body] = [between, body].map(|text| indexed_where_bound(text, name));
    Some(format!(
        "{before}{declaration}bound_{declared}; var<private> {declared};{between}{start}{more}{arguments}{{ \
         if ({groups}.x > 0u) {{ {name} = bound_{name}; }}{body}"
    ))
}

/// Members that are indexed by anything but a number stay where they are: registers have no index. `name.member[i]` is then
/// read from `bound_name`.
fn indexed_where_bound(text: &str, name: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut result = String::with_capacity(text.len());
    let mut done = 0;
    for (at, mention) in text.match_indices(&format!("{name}.")) {
        let member = &text[at + mention.len()..];
        let index = member.trim_start_matches(is_word).strip_prefix('[');
        let is_looked_up =
            index.is_some_and(|index| !index.starts_with(|c: char| c.is_ascii_digit()));
        if is_looked_up && !text[..at].ends_with(|c: char| is_word(c) || c == '.') {
            result.push_str(&text[done..at]);
            result.push_str("bound_");
            done = at;
        }
    }
    result.push_str(&text[done..]);
    result
}

#[cfg(test)]
mod tests {
    use super::rewritten;

    const SOURCE: &str = "struct Params { n: u32, rank: u32, axes: array<vec4<u32>, 2> }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
fn place(i: u32) -> u32 { return p.axes[i].x + p.axes[0].y + up.axes[i] + p.n; }
@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) i: u32) {
    for (var n = 0u; n < p.n; n++) { y[n] = p.axes[n].x; }
}
";

    #[test]
    fn parameters_are_copied_but_for_what_is_looked_up() {
        let copied = |source: &str, groups: &str| {
            source
                .replace(
                    "var<uniform> p: Params;",
                    "var<uniform> bound_p: Params; var<private> p: Params;",
                )
                .replace(
                    ") {\n",
                    &format!(") {{ if ({groups}.x > 0u) {{ p = bound_p; }}\n"),
                )
                .replace("return p.axes", "return bound_p.axes")
                .replace("= p.axes[n]", "= bound_p.axes[n]")
        };
        let more = "fn main(@builtin(num_workgroups) all_groups: vec3<u32>, ";
        let expected = copied(SOURCE, "all_groups").replace("fn main(", more);
        assert_eq!(rewritten(SOURCE, "main"), Some(expected));
        let source = SOURCE.replace(
            "fn main(",
            "fn main(@builtin(num_workgroups) g: vec3<u32>, ",
        );
        assert_eq!(rewritten(&source, "main"), Some(copied(&source, "g")));
    }

    #[test]
    fn other_texts_are_left_alone() {
        assert_eq!(rewritten(SOURCE, "other"), None);
        assert_eq!(
            rewritten(&SOURCE.replace("<uniform>", "<storage>"), "main"),
            None
        );
    }
}
