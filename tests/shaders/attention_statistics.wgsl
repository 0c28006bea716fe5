struct Row { d0: vec4<f32> }
fn dot_rows(a: Row, b: Row) -> f32 { let s = a.d0 * b.d0; return (s.x + s.y) + (s.z + s.w); }
@group(0) @binding(1) var<storage, read> out: array<vec4<f32>>;
fn load_out(at: u32) -> Row { return Row(out[at / 4u]); }
@group(0) @binding(2) var<storage, read> dout: array<vec4<f32>>;
fn load_dout(at: u32) -> Row { return Row(dout[at / 4u]); }
