//! Loading holds no second copy of the weights on the host.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;

use shadegrad::DType;
use shadegrad::hugging_face::{ModelFiles, export};
use shadegrad::nn::{FeedForwardKind, Gpt, GptConfig, NormKind, ParameterBuilder, PositionKind};

use super::files::scratch;
use crate::common::device;

thread_local! {
    /// Bytes that this thread has allocated and not given back, and the most that they ever were.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting.
struct Counting;

fn count(bytes: isize) {
    // A thread that is ending has nowhere to count.
    let _ = HELD.try_with(|held| {
        let now = held.get().0 + bytes;
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that the host holds while a model of that configuration is loaded, and those of the largest parameter.
fn most_held(name: &str, config: &GptConfig) -> (isize, isize) {
    let directory = scratch(name);
    let mut builder = ParameterBuilder::new(0);
    Gpt::new(config, &mut builder).unwrap();
    let parameters = builder.build_zeroed(device()).unwrap();
    let largest = parameters
        .iter()
        .map(|parameter| parameter.shape().elements());
    let largest = 4 * largest.max().unwrap() as isize;
    export(&directory, config, &parameters, None).unwrap();
    drop(parameters);

    let files = ModelFiles::open(&directory).unwrap();
    let most = [DType::F32, DType::F16].map(|dtype| {
        let before = HELD.get().0;
        HELD.set((before, before));
        let model = files.load_as(dtype, device()).unwrap();
        let most = HELD.get().1 - before;
        drop(model);
        most
    });
    fs::remove_dir_all(directory).unwrap();
    (most[0].max(most[1]), largest)
}

#[test]
fn weights_are_not_copied_on_the_host() {
    let config = GptConfig {
        norm: NormKind::LayerNorm,
        ffn: FeedForwardKind::GeluTanh,
        bias: true,
        n_layers: 1,
        d_model: 64,
        ..GptConfig::new(100_000)
    };
    let (most, largest) = most_held("memory", &config);
    assert!(largest > 25_000_000 && most < 2_000_000, "{most}");
}

/// Matrices that files have transposed, alone and packed with others, pass by in strips of 4 MiB.
#[test]
fn transposed_weights_are_not_copied_on_the_host() {
    let config = GptConfig {
        positions: PositionKind::Rotary,
        n_layers: 1,
        d_model: 64,
        d_ff: 60_000,
        tie_weights: false,
        ..GptConfig::new(120_000)
    };
    let (most, largest) = most_held("memory_transposed", &config);
    assert!(largest > 30_000_000 && most < 8_000_000, "{most}");
}
