@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<vec4<f32>>;  // forward
@group(0) @binding(4) var<storage, read> dy: array<vec4<f32>>;    // backward
fn x_place(row: u32, column: u32) -> vec4<u32> {
    return vec4<u32>((p.x_at.x + row * p.x_at.y + min(column, p.n - 4u)) / 4u);
}
fn x_step() -> u32 { return p.x_at.y / 4u; }
fn x_load(place: vec4<u32>) -> vec4<f32> { return x[place.x]; }
fn weight_place(row: u32, column: u32) -> vec4<u32> {
    return vec4<u32>((p.weight_at.x + row * p.weight_at.y + min(column, p.n - 4u)) / 4u);
}
fn weight_step() -> u32 { return p.weight_at.y / 4u; }
fn weight_load(place: vec4<u32>) -> vec4<f32> { return weight[place.x]; }
fn bias_place(row: u32, column: u32) -> vec4<u32> {
    return vec4<u32>((p.bias_at.x + row * p.bias_at.y + min(column, p.n - 4u)) / 4u);
}
fn bias_step() -> u32 { return p.bias_at.y / 4u; }
fn bias_load(place: vec4<u32>) -> vec4<f32> { return bias[place.x]; }
fn dy_place(row: u32, column: u32) -> vec4<u32> {
    return vec4<u32>((p.dy_at.x + row * p.dy_at.y + min(column, p.n - 4u)) / 4u);
}
fn dy_step() -> u32 { return p.dy_at.y / 4u; }
fn dy_load(place: vec4<u32>) -> vec4<f32> { return dy[place.x]; }
@group(0) @binding(6) var<storage, read_write> out0: array<vec4<f32>>;
