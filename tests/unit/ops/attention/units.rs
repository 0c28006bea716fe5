//! Attention's kernels for the matrix units of all adapters.

use naga::AddressSpace;
use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::*;
use crate::ops::attention::Attention;
use crate::ops::attention::variants::in_chunks;

/// What adapters list: NVIDIA's, AMD's, Mesa's llvmpipe, Apple's.
const CONFIGURATIONS: [[usize; 3]; 4] = [[16, 32, 4], [16, 64, 4], [8, 8, 4], [8, 32, 1]];

fn all(head_dim: usize) -> Vec<Units> {
    let tiles = CONFIGURATIONS
        .into_iter()
        .flat_map(|it| TILES.map(|tile| (it, tile)));
    let units = tiles.flat_map(|([size, lanes, part], tile)| {
        let it = MatrixConfiguration { size, lanes, part };
        [Job::Forward, Job::Queries, Job::Keys].map(|job| Units::of(it, job, tile, head_dim))
    });
    units.flatten().collect()
}

/// Every invocation has work, and there is none left.
#[test]
fn tiles_are_shared_out() {
    for head_dim in [8, 24, 64, 100, 128] {
        for it in all(head_dim) {
            let [queries, keys] = it.sides();
            assert!((64..=256).contains(&it.invocations()), "{it:?}");
            let [scores, results] = it.quads();
            assert_eq!(scores * 4 * it.invocations(), queries * keys, "{it:?}");
            let width = 2 * it.configuration.size;
            let held = results * 4 * it.invocations() / queries;
            assert!(held == width || it.job != Job::Forward, "{it:?}");
            assert!(
                it.width >= head_dim && it.width < head_dim + width,
                "{it:?}"
            );
        }
    }
}

/// On adapters other than the one that tests run on, too: the text is valid, and needs as much memory as is said.
#[test]
fn kernels_for_all_adapters() {
    let problem = Problem::of(&Attention::causal(1), false, [1; 4]);
    for it in all(64) {
        let operands = it.operands(64, true);
        let operands = in_chunks(it.job, operands);
        let (kernel, operands) = it.kernel(&problem, operands);
        let text = kernel.declare(&operands.finish()).wgsl();
        let module = naga::front::wgsl::parse_str(&text)
            .unwrap_or_else(|error| panic!("{it:?}: {}", error.emit_to_string(&text)));
        let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX;
        let valid = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
        valid.unwrap_or_else(|error| panic!("{it:?}: {}", error.emit_to_string(&text)));
        let variables = module.global_variables.iter().map(|(_, variable)| variable);
        let bytes = variables.filter(|it| it.space == AddressSpace::WorkGroup);
        let bytes = bytes.map(|it| module.types[it.ty].inner.size(module.to_ctx()) as usize);
        assert_eq!(bytes.sum::<usize>(), it.workgroup_bytes(), "{it:?}");
    }
}

/// What the H100 runs, with 48 KiB, and what 16 KiB leave.
#[test]
fn usual_tiles() {
    let it = MatrixConfiguration {
        size: 16,
        lanes: 32,
        part: 4,
    };
    let tile = |job, head_dim, memory| {
        Units::within(it, job, head_dim, memory).map(|units| [units.own, units.other])
    };
    for job in [Job::Forward, Job::Queries, Job::Keys] {
        assert_eq!(tile(job, 64, 48 << 10), Some([64, 32]));
        assert_eq!(tile(job, 128, 48 << 10), Some([32, 32]));
        assert_eq!(tile(job, 128, 16 << 10), None);
    }
    assert_eq!(tile(Job::Forward, 32, 16 << 10), Some([32, 32]));
}
