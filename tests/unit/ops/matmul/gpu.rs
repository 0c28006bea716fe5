//! How products are cut up for GPUs.

use super::{BLOCKINGS, Cut};

#[test]
fn cuts() {
    let [square, tall, wide, small] = BLOCKINGS;
    let table = [
        // Large squares; the layers of a model of 768 columns, and their weights' gradients.
        ([1, 4096, 4096], 4096, square, 1),
        ([1, 4096, 2304], 768, square, 1),
        ([1, 768, 2304], 4096, square, 4),
        ([1, 1024, 1024], 1024, square, 1),
        ([1, 384, 384], 16_384, square, 31),
        // Batches of small matrices.
        ([96, 256, 64], 256, square, 1),
        // Thin outputs with many rows or columns.
        ([1, 65_536, 32], 128, tall, 1),
        ([1, 27, 65_536], 128, wide, 1),
        // Little to do: as many invocations as there are, and no second dispatch.
        ([1, 512, 512], 512, small, 1),
        ([1, 512, 96], 32, small, 1),
        ([1, 32, 96], 512, small, 1),
        ([1, 5, 5], 7, small, 1),
        // Unless one workgroup would go on for long.
        ([1, 32, 96], 16_384, small, 32),
    ];
    for (grid, depth, tile, splits) in table {
        let cut = Cut::of(grid, depth);
        assert_eq!(cut, Cut::Tiles(tile, splits), "{grid:?}, depth {depth}");
    }
    let token = Cut::of([1, 1, 50_257], 768);
    assert_eq!(token, Cut::Rows { tall: false });
    assert_eq!(Cut::of([3, 9, 1], 768), Cut::Rows { tall: true });
}

#[test]
fn cuts_with_gates() {
    let [square, _, wide, small] = BLOCKINGS;
    let table = [
        ([1, 16_384, 2048], 384, Some((square, 1))),
        ([1, 512, 176], 32, Some((small, 1))),
        ([1, 512, 170], 32, Some((small, 1))),
        ([1, 27, 65_536], 128, Some((wide, 1))),
        ([1, 32, 96], 16_384, Some((small, 32))),
        // Halves that are no quads, where the depth is better cut; half of each tile empty.
        ([1, 32, 90], 16_384, None),
        ([1, 65_536, 32], 128, None),
    ];
    for (grid, depth, expected) in table {
        let expected = expected.map(|(tile, splits)| Cut::Tiles(tile, splits));
        assert_eq!(Cut::gated(grid, depth), expected, "{grid:?}, depth {depth}");
    }
    let token = Cut::gated([1, 1, 2048], 384);
    assert_eq!(token, Some(Cut::Rows { tall: false }));
    assert_eq!(Cut::gated([1, 9, 2], 384), None);
}
