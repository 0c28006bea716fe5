@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;       // backward: the gradient that arrives
@group(0) @binding(2) var<storage, read> result: array<vec4<f32>>;  // backward only
fn x4(row: u32, column: u32) -> vec4<f32> {
    return x[(p.x_at.x + row * p.x_at.y + min(column, p.n - 4u)) / 4u];
}
fn result4(row: u32, column: u32) -> vec4<f32> {
    return result[(p.result_at.x + row * p.result_at.y + min(column, p.n - 4u)) / 4u];
}
