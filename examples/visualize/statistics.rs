//! Sums over values that the device has computed.

/// The mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean square distance from the mean.
pub fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares = values.iter().map(|x| (x - mean).powi(2));
    squares.sum::<f64>() / values.len() as f64
}

/// The root of the [`variance`].
pub fn deviation(values: &[f64]) -> f64 {
    variance(values).sqrt()
}

/// The share of values that `test` holds for.
pub fn share(values: &[f64], test: impl Fn(f64) -> bool) -> f64 {
    values.iter().filter(|&&x| test(x)).count() as f64 / values.len() as f64
}

/// How many values lie in each of `bins` parts of a range, as points (middle, count).
pub fn histogram(values: &[f64], (low, high): (f64, f64), bins: usize) -> Vec<(f64, f64)> {
    let width = ((high - low) / bins as f64).max(f64::MIN_POSITIVE);
    let mut counts = vec![0usize; bins];
    for value in values {
        let bin = ((value - low) / width) as usize;
        counts[bin.min(bins - 1)] += 1;
    }
    let middle = |bin: usize| low + (bin as f64 + 0.5) * width;
    let counts = counts.iter().enumerate();
    counts.map(|(bin, &n)| (middle(bin), n as f64)).collect()
}

/// Rows projected to the two directions in which they differ most, and the shares of their variance that lie there.
pub struct Pca {
    pub points: Vec<(f64, f64)>,
    pub shares: (f64, f64),
}

/// Principal components: the eigenvectors of the rows' covariance. Pearson 1901, "On Lines and Planes of Closest Fit".
pub fn pca(rows: &[&[f64]]) -> Pca {
    let (count, width) = (rows.len(), rows[0].len());
    let mut centred: Vec<Vec<f64>> = rows.iter().map(|row| row.to_vec()).collect();
    for column in 0..width {
        let mean = rows.iter().map(|row| row[column]).sum::<f64>() / count as f64;
        centred.iter_mut().for_each(|row| row[column] -= mean);
    }
    let covariance = |i: usize, j: usize| {
        let products = centred.iter().map(|row| row[i] * row[j]);
        products.sum::<f64>() / (count.max(2) - 1) as f64
    };
    let matrix = (0..width).map(|i| (0..width).map(|j| covariance(i, j)).collect());
    let mut found = eigen(matrix.collect());
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f64 = found.iter().map(|(value, _)| value.max(0.0)).sum();
    let nothing = (0.0, vec![0.0; width]);
    let [first, second] = [0, 1].map(|n| found.get(n).unwrap_or(&nothing));
    let dot = |row: &[f64], axis: &[f64]| row.iter().zip(axis).map(|(x, a)| x * a).sum();
    let points = centred.iter();
    Pca {
        points: points
            .map(|row| (dot(row, &first.1), dot(row, &second.1)))
            .collect(),
        shares: (
            first.0 / total.max(f64::MIN_POSITIVE),
            second.0 / total.max(f64::MIN_POSITIVE),
        ),
    }
}

/// Eigenvalues and unit eigenvectors of a symmetric matrix, by Jacobi's rotations. Each vector's largest element is
/// positive, so that the answer does not depend on the path.
fn eigen(mut a: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = a.len();
    let unit = |i: usize| (0..n).map(|j| f64::from(u8::from(i == j))).collect();
    let mut vectors: Vec<Vec<f64>> = (0..n).map(unit).collect();
    for _sweep in 0..60 {
        let squares = |i: usize| (0..i).map(|j| a[i][j].powi(2)).sum::<f64>();
        let off: f64 = (0..n).map(squares).sum();
        let diagonal: f64 = (0..n).map(|i| a[i][i].powi(2)).sum();
        if off <= 1e-24 * diagonal {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, p, q);
            }
        }
    }
    let pairs = vectors.into_iter().enumerate().map(|(i, mut vector)| {
        let largest = vector
            .iter()
            .copied()
            .max_by(|x, y| x.abs().total_cmp(&y.abs()));
        if largest < Some(0.0) {
            vector.iter_mut().for_each(|x| *x = -*x);
        }
        (a[i][i], vector)
    });
    pairs.collect()
}

/// Makes `a[p][q]` zero by turning the plane of axes `p` and `q`; `vectors` (rows) turn along.
fn rotate(a: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    if a[p][q] == 0.0 {
        return;
    }
    let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let t = if theta == 0.0 { 1.0 } else { t };
    let cos = 1.0 / (t * t + 1.0).sqrt();
    let sin = t * cos;
    let turn = |x: &mut f64, y: &mut f64| (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
    for row in a.iter_mut() {
        let (left, right) = row.split_at_mut(q);
        turn(&mut left[p], &mut right[0]);
    }
    for rows in [a, vectors] {
        let (above, below) = rows.split_at_mut(q);
        let pairs = above[p].iter_mut().zip(&mut below[0]);
        pairs.for_each(|(x, y)| turn(x, y));
    }
}
