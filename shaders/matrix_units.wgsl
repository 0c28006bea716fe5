// The matrices that matrix units multiply, of MATRIX_SIZE × MATRIX_SIZE: 16 on Vulkan's GPUs, 8 on Metal and on Mesa's llvmpipe.
// `MatrixConfiguration::declared` declares all of this again for the size that the device has.
//
// A matrix belongs to a subgroup: all its invocations call the functions together, in uniform control flow. Which subgroup
// an invocation is in, `local_invocation_index / MATRIX_LANES` says: no kernel with matrix units may use what subgroups know of
// themselves, nor their operations, as NVIDIA's driver crashes where a module has both. Where subgroups may have fewer
// lanes than MATRIX_LANES, several of them do the same: harmless, as they store the same values.
//
// Matrices come from workgroup memory and go back there, never from or to an operand: what lies past an edge is zero there,
// and lines may be as far apart as keeps them on different banks.

const MATRIX_SIZE: u32 = 16u;
const MATRIX_LANES: u32 = 32u;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

// What halves in workgroup memory are kept as, PART of them together. Metal takes them one by one.
const PART: u32 = 4u;
alias Part = vec4<f16>;
fn part(four: vec4<f16>, i: u32) -> Part { return four; }
