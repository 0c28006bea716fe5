//! Texts of kernels in which a line stands for several.

/// The text with lines repeated that have marks in them: for all the numbers that stand for a mark. A mark that comes first
/// among `counts` changes last.
pub(super) fn unrolled(text: &str, counts: &[(&str, usize)]) -> String {
    let repeated = |line: &str| {
        let all = vec![format!("{line}\n")];
        let all = counts.iter().fold(all, |all, &(mark, count)| {
            let numbers = |line: String| -> Vec<String> {
                match line.contains(mark) {
                    true => (0..count)
                        .map(|n| line.replace(mark, &n.to_string()))
                        .collect(),
                    false => vec![line],
                }
            };
            all.into_iter().flat_map(numbers).collect()
        });
        all.concat()
    };
    text.lines().map(repeated).collect()
}
