@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;  // forward
@group(0) @binding(4) var<storage, read> dy: array<vec4<f32>>;    // backward
fn x4(row: u32, column: u32) -> vec4<f32> {
    return x[(p.x_at.x + row * p.x_at.y + min(column, p.n - 4u)) / 4u];
}
fn weight4(row: u32, column: u32) -> vec4<f32> {
    return weight[(p.weight_at.x + row * p.weight_at.y + min(column, p.n - 4u)) / 4u];
}
fn bias4(row: u32, column: u32) -> vec4<f32> {
    return bias[(p.bias_at.x + row * p.bias_at.y + min(column, p.n - 4u)) / 4u];
}
fn dy4(row: u32, column: u32) -> vec4<f32> {
    return dy[(p.dy_at.x + row * p.dy_at.y + min(column, p.n - 4u)) / 4u];
}
@group(0) @binding(6) var<storage, read_write> out0: array<vec4<f32>>;
