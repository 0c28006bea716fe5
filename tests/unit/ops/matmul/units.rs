//! How products are cut up for matrix units.

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
