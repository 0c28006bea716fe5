//! How attention's kernels for GPUs share out work.

use super::*;

const JOBS: [Job; 3] = [Job::Forward, Job::Queries, Job::Keys];

fn all() -> impl Iterator<Item = (Job, [usize; 3], Tiling)> {
    let sizes = (1..=256).flat_map(|head_dim| {
        let own = [1, 4, 5, 16, 17, 32, 64, 65, 128, 129, 257, 2048];
        own.map(|own| (head_dim, own))
    });
    let sizes = sizes
        .flat_map(|(head_dim, own)| [1, 8, 16, 64, 65, 2048].map(|other| [head_dim, own, other]));
    sizes
        .flat_map(|size| JOBS.map(|job| (job, size)))
        .map(|(job, size)| {
            let [head_dim, own, other] = size;
            (job, size, Tiling::of(job, head_dim, own, other))
        })
}

#[test]
fn within_what_every_gpu_has() {
    for (_, size, tiling) in all() {
        let invocations = tiling.invocations();
        assert!(invocations <= MOST_INVOCATIONS, "{size:?}: {tiling:?}");
        assert!(tiling.bytes() <= MOST_BYTES, "{size:?}: {tiling:?}");
        assert!(tiling.across * tiling.result_quads >= tiling.chunks);
    }
}

/// Teams of one workgroup go through the same loops, which depend on the tile.
#[test]
fn heads_share_a_workgroup_only_if_one_tile_has_all_rows() {
    for (_, [_, own, _], tiling) in all() {
        assert!(tiling.heads == 1 || own <= tiling.rows());
    }
}

#[test]
fn usual_sizes() {
    let of = |job, head_dim, context| {
        let t = Tiling::of(job, head_dim, context, context);
        (
            t.heads,
            [t.down, t.across],
            [t.row_quads, t.score_quads, t.result_quads],
        )
    };
    for job in [Job::Forward, Job::Queries, Job::Keys] {
        assert_eq!(of(job, 64, 2048), (1, [8, 16], [2, 1, 1]));
    }
    assert_eq!(of(Job::Forward, 128, 2048), (1, [8, 16], [2, 1, 2]));
    assert_eq!(of(Job::Keys, 128, 2048), (1, [8, 16], [1, 1, 2]));
    assert_eq!(of(Job::Forward, 32, 64), (1, [8, 8], [2, 2, 1]));
    assert_eq!(of(Job::Forward, 16, 64), (2, [16, 4], [1, 2, 1]));
    assert_eq!(of(Job::Forward, 8, 16), (8, [4, 2], [1, 2, 1]));
}
