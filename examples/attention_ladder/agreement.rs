//! Whether rungs that compute the same agree.

/// How far they may be apart, as a share of the largest value: some hundred times what rounding of sums in another order
/// makes.
const TOLERANCE: f32 = 1e-4;

/// Judges pairs of rungs by their largest difference and the largest of their values.
///
/// # Errors
///
/// If a pair is further apart than rounding takes it, or has values that are no finite numbers.
pub fn check(pairs: &[(&str, f32, f32)]) -> Result<(), String> {
    let apart = pairs.iter().filter_map(|&(rungs, difference, size)| {
        let allowed = TOLERANCE * size.max(1.0);
        // What is not a number is no agreement.
        let agreed = size.is_finite() && difference <= allowed;
        (!agreed).then(|| {
            format!("{rungs} by {difference:.1e}, where rounding makes at most {allowed:.1e}")
        })
    });
    let apart: Vec<String> = apart.collect();
    match apart.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "rungs that compute the same differ ({}): this adapter computes wrongly; take another one or a newer driver",
            apart.join("; ")
        )),
    }
}
