//! How the reduction kernels walk a strided tensor, and how the work is split among invocations.

use crate::gpu::{AdapterClass, Kernel};
use crate::shape::{Layout, Shape, collapse};

/// How many elements the kernel takes at once, and along which axis; see `reduce.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Single,
    Along,
    Across,
}

/// Extent and stride of an axis, in units of the bound array.
type Axis = (usize, usize);

/// Places to reduce to, and the steps that lead through the elements of one.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub width: Width,
    pub places: usize,
    pub steps: usize,
    input_offset: usize,
    output_offset: usize,
    /// Innermost first.
    kept: Vec<Axis>,
    folded: Vec<Axis>,
}

impl Walk {
    /// Reduces the axes of `input` into a dense output that starts at element `output_offset`; one element a step.
    pub fn single(input: &Layout, axes: &[usize], output_offset: usize) -> Walk {
        let (folded, kept): (Vec<_>, Vec<_>) =
            (0..input.shape.rank()).partition(|axis| axes.contains(axis));
        let pick = |picked: &[usize]| -> Vec<Axis> {
            let extents: Vec<_> = picked.iter().map(|&axis| input.shape.dim(axis)).collect();
            let strides: Vec<_> = picked.iter().map(|&axis| input.strides()[axis]).collect();
            let layout = Layout::strided(Shape::new(&extents), 0, &strides);
            let (extents, strides) = collapse(&[layout]);
            let mut axes: Vec<_> = extents
                .into_iter()
                .zip(strides[0].iter().copied())
                .collect();
            axes.reverse();
            axes
        };
        // Sums may run in any order, as long as it is always the same: take the one that follows memory.
        let mut by_stride = folded;
        by_stride.sort_by_key(|&axis| std::cmp::Reverse(input.strides()[axis]));
        let (kept, folded) = (pick(&kept), pick(&by_stride));
        Walk {
            width: Width::Single,
            places: extent(&kept),
            steps: extent(&folded),
            input_offset: input.offset,
            output_offset,
            kept,
            folded,
        }
    }

    /// Like [`Walk::single`], with four elements at once where they lie side by side.
    pub fn new(input: &Layout, axes: &[usize], output_offset: usize) -> Walk {
        let mut walk = Walk::single(input, axes, output_offset);
        let is_dense = |axes: &[Axis]| axes[0].1 == 1 && axes[0].0.is_multiple_of(4);
        let is_aligned = |axes: &[Axis]| axes.iter().all(|(_, stride)| stride.is_multiple_of(4));
        if !walk.input_offset.is_multiple_of(4) {
            return walk;
        }
        if is_dense(&walk.folded) && is_aligned(&walk.folded[1..]) && is_aligned(&walk.kept) {
            walk.width = Width::Along;
            quarter(&mut walk.folded);
            walk.kept.iter_mut().for_each(|(_, stride)| *stride /= 4);
        } else if is_dense(&walk.kept)
            && is_aligned(&walk.kept[1..])
            && is_aligned(&walk.folded)
            && walk.output_offset.is_multiple_of(4)
        {
            walk.width = Width::Across;
            quarter(&mut walk.kept);
            walk.folded.iter_mut().for_each(|(_, stride)| *stride /= 4);
            walk.output_offset /= 4;
        } else {
            return walk;
        }
        walk.input_offset /= 4;
        walk.places = extent(&walk.kept);
        walk.steps = extent(&walk.folded);
        walk
    }

    /// Finding a step among several axes is a loop over those.
    fn iterations_of_step(&self) -> usize {
        match self.folded.len() {
            1 => 1,
            axes => 2 + axes,
        }
    }

    /// Finding the place and the first step, and joining the lanes.
    fn iterations_beside_steps(&self) -> usize {
        self.kept.len() + 2 * self.folded.len() + 16
    }

    /// Whether neighbouring steps, rather than neighbouring places, are close in memory.
    fn steps_are_dense(&self) -> bool {
        match self.width {
            Width::Along => true,
            Width::Across => false,
            Width::Single => self.folded[0].1 <= self.kept[0].1 || self.places == 1,
        }
    }

    /// The kernel with what depends on the walk filled in.
    pub fn kernel(&self, kernel: Kernel) -> Kernel {
        let kernel = kernel.constant("NESTED", usize::from(self.folded.len() > 1));
        match self.width {
            Width::Single => kernel,
            Width::Along => kernel.declare(ALONG),
            Width::Across => kernel.declare(ACROSS),
        }
    }

    /// The kernels' parameters.
    pub fn params(&self, split: &Split, scale: f32) -> Vec<u32> {
        let mut params = vec![
            (self.places * split.chunks) as u32,
            self.places as u32,
            self.steps as u32,
            split.chunk as u32,
            self.input_offset as u32,
            // Partial results go to a buffer of their own, which they fill from the start.
            if split.chunks == 1 {
                self.output_offset as u32
            } else {
                0
            },
            scale.to_bits(),
            self.kept.len() as u32,
            self.folded.len() as u32,
            0,
            0,
            0,
        ];
        for axes in [&self.kept, &self.folded] {
            let mut words = [0; 24];
            for (slot, (extent, stride)) in words.chunks_exact_mut(4).zip(axes) {
                (slot[0], slot[1]) = (*extent as u32, *stride as u32);
            }
            params.extend(words);
        }
        params
    }
}

fn extent(axes: &[Axis]) -> usize {
    axes.iter().map(|(extent, _)| extent).product()
}

/// The same axes in units of four elements; the innermost is dense.
fn quarter(axes: &mut [Axis]) {
    axes[0].0 /= 4;
    axes[1..].iter_mut().for_each(|(_, stride)| *stride /= 4);
}

const ALONG: &str = "\
alias Step = vec4<f32>;
alias StepBits = vec4<u32>;
alias Place = f32;
alias PlaceBits = u32;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
fn finish(value: Step) -> Place { return combine(combine(value.x, value.y), combine(value.z, value.w)); }
";

const ACROSS: &str = "\
alias Step = vec4<f32>;
alias StepBits = vec4<u32>;
alias Place = vec4<f32>;
alias PlaceBits = vec4<u32>;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
fn finish(value: Step) -> Place { return value; }
";

/// How many invocations share what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Invocations to a team.
    lanes: usize,
    /// Teams to a workgroup.
    teams: usize,
    /// Whether neighbouring invocations belong to one team.
    adjacent: bool,
    /// Teams to a place.
    pub chunks: usize,
    /// Steps to a team.
    chunk: usize,
}

impl Split {
    /// The split for a walk, which may use several teams a place. An invocation's loops go round `most` times.
    pub fn of(class: AdapterClass, walk: &Walk, most: usize) -> Split {
        let mut split = Split::unchunked(class, walk);
        let groups = walk.places.div_ceil(split.teams);
        let per_lane = walk.steps.div_ceil(split.lanes);
        // Enough groups to keep the adapter busy, enough work in each to be worth a second dispatch.
        let (busy, enough) = match class {
            AdapterClass::Software => (8, 1024),
            AdapterClass::Gpu => (128, 8),
        };
        if groups < busy && per_lane >= 2 * enough {
            let chunks = (busy / groups).min(per_lane / enough);
            split.chunk = walk.steps.div_ceil(chunks);
        }
        split.chunk = split.chunk.min(split.longest(walk, most));
        split.chunks = walk.steps.div_ceil(split.chunk);
        split
    }

    /// The split for a walk, one team a place, of a whole workgroup if an invocation's loops would go round more than
    /// `most` times otherwise.
    pub fn single(class: AdapterClass, walk: &Walk, most: usize) -> Split {
        let split = Split::unchunked(class, walk);
        if split.chunk <= split.longest(walk, most) {
            return split;
        }
        Split {
            lanes: 256,
            teams: 1,
            adjacent: walk.steps_are_dense(),
            ..split
        }
    }

    /// The most steps of a team.
    fn longest(&self, walk: &Walk, most: usize) -> usize {
        ((most - walk.iterations_beside_steps()) / walk.iterations_of_step())
            .saturating_mul(self.lanes)
    }

    /// Of an invocation's loops.
    pub fn iterations(&self, walk: &Walk) -> usize {
        let steps = self.chunk.div_ceil(self.lanes);
        walk.iterations_beside_steps() + walk.iterations_of_step() * steps
    }

    fn unchunked(class: AdapterClass, walk: &Walk) -> Split {
        let (lanes, teams, adjacent) = match class {
            AdapterClass::Software => software(walk),
            AdapterClass::Gpu => gpu(walk),
        };
        Split {
            lanes,
            teams,
            adjacent,
            chunks: 1,
            chunk: walk.steps,
        }
    }

    /// The kernel with what depends on the split filled in.
    pub fn kernel(&self, kernel: Kernel) -> Kernel {
        kernel
            .constant("LANES", self.lanes)
            .constant("TEAMS", self.teams)
            .constant("ADJACENT", usize::from(self.adjacent))
    }

    /// Invocations of a workgroup.
    pub fn invocations(&self) -> usize {
        self.lanes * self.teams
    }

    /// The number of workgroups.
    pub fn groups(&self, walk: &Walk) -> usize {
        (walk.places * self.chunks).div_ceil(self.teams)
    }
}

/// Eight lanes are a vector register. With a place a lane nothing is exchanged, but walking down columns that way misses
/// the cache; with eight lanes a place there is enough to do for all threads even where there are few places.
fn software(walk: &Walk) -> (usize, usize, bool) {
    // Costs in loads from the cache, for two threads.
    const EXCHANGE: usize = 24;
    const MISS: usize = 3;
    let dense = walk.steps_are_dense();
    let load = if dense { 1 } else { MISS };
    let lane_a_place = walk.places.div_ceil(16) * walk.steps * load;
    let team_a_place = walk.places.div_ceil(2) * (walk.steps.div_ceil(8) + EXCHANGE);
    if team_a_place < lane_a_place {
        (8, 1, dense)
    } else if walk.places < 512 {
        (1, 8, false)
    } else {
        (1, 64, false)
    }
}

/// Neighbouring invocations read neighbouring elements, and as many share a place as it has steps for.
fn gpu(walk: &Walk) -> (usize, usize, bool) {
    let dense = walk.steps_are_dense();
    let teams = match (dense, walk.width) {
        (true, _) => 1,
        (false, Width::Across) => 8,
        (false, _) => 32,
    };
    // Powers of four, so that there are few kernels to compile.
    let lanes = [256, 64, 16, 4, 1]
        .into_iter()
        .find(|&lanes| lanes <= 256 / teams && lanes <= walk.steps)
        .expect("there is a step");
    (lanes, teams.max(64 / lanes), dense)
}
