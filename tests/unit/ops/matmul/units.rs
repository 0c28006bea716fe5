//! How products are cut up for matrix units.

use naga::AddressSpace;
use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::*;

/// An H100 through Vulkan, an RDNA3 card, Apple's, and Mesa's llvmpipe.
const CONFIGURATIONS: [MatrixConfiguration; 4] = [
    MatrixConfiguration {
        size: 16,
        lanes: 32,
        part: 4,
    },
    MatrixConfiguration {
        size: 16,
        lanes: 64,
        part: 4,
    },
    MatrixConfiguration {
        size: 8,
        lanes: 32,
        part: 1,
    },
    MatrixConfiguration {
        size: 8,
        lanes: 8,
        part: 4,
    },
];

fn chosen(memory: usize, grid: [usize; 3], depth: usize) -> ([usize; 2], usize, usize) {
    let blockings = Blocking::all(CONFIGURATIONS[0], memory);
    let blockings = blockings.map(|blocking| (blocking, blocking.tile));
    let (blocking, splits) = Tile::fastest(blockings, grid, depth);
    let tile = blocking.tile;
    ([tile.rows, tile.columns], blocking.slice, splits)
}

#[test]
fn tiles() {
    let (large, small) = ([128, 128], [64, 64]);
    for (grid, depth, expected) in [
        ([1, 4096, 4096], 4096, (large, 32, 1)),
        ([1, 4096, 2304], 768, (large, 32, 1)),
        // One round and a half of the large ones, or six of the small ones.
        ([1, 4096, 768], 3072, (large, 32, 1)),
        ([1, 768, 2304], 4096, (large, 32, 3)),
        ([96, 256, 64], 256, (small, 32, 1)),
        ([1, 512, 512], 512, (small, 32, 1)),
    ] {
        assert_eq!(chosen(48 << 10, grid, depth), expected, "{grid:?}, {depth}");
    }
    // WebGPU's default limit.
    assert_eq!(chosen(16 << 10, [1, 4096, 4096], 4096), (small, 16, 1));
}

#[test]
fn workgroups_have_whole_subgroups_and_fit() {
    for it in CONFIGURATIONS {
        let all: Vec<Blocking> = Blocking::all(it, 16 << 10).collect();
        assert!(!all.is_empty(), "{it:?}");
        assert_eq!(Blocking::all(it, 32 << 10).count(), TILES.len(), "{it:?}");
        for blocking in all.into_iter().chain(Blocking::all(it, 32 << 10)) {
            let invocations = blocking.tile.invocations;
            assert!(invocations.is_multiple_of(64) && invocations <= 256);
            assert!(invocations.is_multiple_of(it.lanes), "{blocking:?}");
        }
    }
}

/// On adapters other than the one that tests run on, too: the text is valid, and needs as much memory as is said.
#[test]
fn kernels_for_all_adapters() {
    for it in CONFIGURATIONS {
        let small = Blocking::all(it, 16 << 10);
        for (index, blocking) in small.chain(Blocking::all(it, 48 << 10)).enumerate() {
            for bits in 0..32 {
                let [a_along, b_along, a_aligned, b_aligned, gated] =
                    [0, 1, 2, 3, 4].map(|bit| (bits >> bit) & 1 == 1);
                let overlapped = (bits + index) % 2 == 0;
                let along_depth = [a_along, b_along];
                let kernel = blocking.kernel(it, along_depth, [a_aligned, b_aligned], overlapped);
                let text = kernel.flag("GATED", gated).wgsl();
                let module = naga::front::wgsl::parse_str(&text)
                    .unwrap_or_else(|error| panic!("{it:?}: {}", error.emit_to_string(&text)));
                let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX;
                let valid = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
                valid.unwrap_or_else(|error| panic!("{it:?}: {}", error.emit_to_string(&text)));
                let variables = module.global_variables.iter().map(|(_, variable)| variable);
                let bytes = variables.filter(|it| it.space == AddressSpace::WorkGroup);
                let bytes =
                    bytes.map(|it| module.types[it.ty].inner.size(module.to_ctx()) as usize);
                assert_eq!(
                    bytes.sum::<usize>(),
                    blocking.workgroup_bytes(it.size),
                    "{blocking:?}"
                );
            }
        }
    }
}
