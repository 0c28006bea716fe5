//! What all integration tests share: devices, data from a seed, and comparison with tolerances.

#![allow(dead_code)] // Each test binary uses its own part.

pub mod host;

use std::cell::OnceCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use shadegrad::tape::Fusion;
use shadegrad::{AdapterClass, Device, DeviceOptions, Feature, Shape, Tape, Var};

/// All fusions, then each by itself.
pub const FUSIONS: [Fusion; 7] = [
    Fusion::ON,
    Fusion {
        pointwise: true,
        ..Fusion::OFF
    },
    Fusion {
        epilogue: true,
        ..Fusion::OFF
    },
    Fusion {
        gate: true,
        ..Fusion::OFF
    },
    Fusion {
        copy_elision: true,
        ..Fusion::OFF
    },
    Fusion {
        horizontal: true,
        ..Fusion::OFF
    },
    Fusion {
        uniform: true,
        ..Fusion::OFF
    },
];

/// All fusions but one.
pub const ALL_BUT_ONE: [Fusion; 6] = [
    Fusion {
        pointwise: false,
        ..Fusion::ON
    },
    Fusion {
        epilogue: false,
        ..Fusion::ON
    },
    Fusion {
        gate: false,
        ..Fusion::ON
    },
    Fusion {
        copy_elision: false,
        ..Fusion::ON
    },
    Fusion {
        horizontal: false,
        ..Fusion::ON
    },
    Fusion {
        uniform: false,
        ..Fusion::ON
    },
];

/// The device that a test has to itself, held to WebGPU's default limits, so that wgpu refuses any kernel that needs more.
/// The first call prints the adapter's line.
///
/// # Panics
///
/// If there is no adapter, with the line that says what to install.
pub fn device() -> &'static Device {
    static PRINTED: Once = Once::new();
    let device = Kind::Own.device();
    PRINTED.call_once(|| println!("adapter: {}", device.description()));
    device
}

/// A second device on the same adapter, with the kernel variants that GPUs without optional features get.
///
/// # Panics
///
/// As [`device`].
pub fn portable_device() -> &'static Device {
    Kind::Portable.device()
}

/// Whether the environment has all devices opened with nothing optional: [`device`] is then as without subgroups.
pub fn is_portable() -> bool {
    std::env::var("SHADEGRAD_PORTABLE").is_ok_and(|value| value == "1")
}

/// A third device, with the kernel variants that GPUs with subgroup operations get: the second one, where there are none.
///
/// # Panics
///
/// As [`device`].
pub fn gpu_device() -> &'static Device {
    match is_portable() {
        true => portable_device(),
        false => Kind::Gpu.device(),
    }
}

/// The device as it is, if it has matrix units. If not, the test that asks is left out, and named when the process ends; with
/// `SHADEGRAD_REQUIRE_MATRIX_UNITS=1` in the environment it fails.
///
/// # Panics
///
/// As [`device`].
pub fn matrix_units() -> Option<&'static Device> {
    let device = device();
    if device.matrix_units().is_some() {
        return Some(device);
    }
    let required = std::env::var("SHADEGRAD_REQUIRE_MATRIX_UNITS").is_ok_and(|value| value == "1");
    assert!(
        !required,
        "SHADEGRAD_REQUIRE_MATRIX_UNITS is set, but there are none: {}",
        device.description()
    );
    let thread = std::thread::current();
    lock(&LEFT_OUT).push(thread.name().unwrap_or("a test").to_owned());
    None
}

/// Tests that need matrix units and found none.
static LEFT_OUT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The device as it is, and those that run the kernels for GPUs.
pub fn devices() -> [&'static Device; 3] {
    [device(), gpu_device(), portable_device()]
}

/// As [`devices`], but nothing has run on them, and nobody else gets them.
pub fn new_devices() -> [&'static Device; 3] {
    [Kind::Own, Kind::Gpu, Kind::Portable].map(Kind::open)
}

/// Records on a training tape, which draws the same each time, runs it, and gives what was recorded as results, with the number of dispatches.
pub fn run_counted(
    device: &Device,
    fusion: Fusion,
    record: impl for<'t> FnOnce(&'t Tape) -> Vec<Var<'t>>,
) -> (Vec<Vec<f32>>, u64) {
    let tape = Tape::training(device);
    tape.set_fusion(fusion);
    tape.set_seed(0, 0);
    let results: Vec<_> = record(&tape)
        .into_iter()
        .map(|var| tape.fetch::<f32>(var))
        .collect();
    let before = device.stats().dispatches;
    tape.run().unwrap();
    let dispatches = device.stats().dispatches - before;
    (
        results.iter().map(|result| result.get().unwrap()).collect(),
        dispatches,
    )
}

#[derive(Clone, Copy)]
enum Kind {
    Own,
    Portable,
    Gpu,
}

/// All devices that have been opened.
static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

struct Open(*mut Device);

// SAFETY: devices are `Send` and `Sync`.
unsafe impl Send for Open {}

/// By kind: those that no test has.
static IDLE: [Mutex<Vec<&Device>>; 3] = [const { Mutex::new(Vec::new()) }; 3];

thread_local! {
    /// Those that the test of this thread has.
    static LENT: [OnceCell<Lent>; 3] = const { [const { OnceCell::new() }; 3] };
}

/// A device that goes back when its thread ends.
struct Lent(Kind, &'static Device);

impl Drop for Lent {
    fn drop(&mut self) {
        close_at_exit();
        lock(&IDLE[self.0 as usize]).push(self.1);
    }
}

/// With this many kernels, a device is not lent again: software drivers keep some megabytes of each.
const MOST_KERNELS: u64 = 150;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kind {
    /// The device of this thread. Tests that run at the same time have different ones: a driver compiles and runs what one
    /// device is given one after the other.
    fn device(self) -> &'static Device {
        let lend = || {
            let idle = lock(&IDLE[self as usize]).pop();
            let lent = idle.filter(|device| {
                let is_full = device.stats().pipelines >= MOST_KERNELS;
                if is_full {
                    close_one(device);
                }
                !is_full
            });
            Lent(self, lent.unwrap_or_else(|| self.open()))
        };
        LENT.with(|lent| lent[self as usize].get_or_init(lend).1)
    }

    fn open(self) -> &'static Device {
        let class = match self {
            Kind::Own => None,
            Kind::Portable | Kind::Gpu => Some(AdapterClass::Gpu),
        };
        let options = DeviceOptions {
            class,
            portable: matches!(self, Kind::Portable),
            limits: Some(wgpu::Limits::default()),
            matrix_units: Feature::On,
            ..DeviceOptions::default()
        };
        open(&options)
    }
}

/// Opens a device that stays open until the process ends. Validation layers abort where a test has closed the last one.
///
/// # Panics
///
/// As [`device`].
pub fn open(options: &DeviceOptions) -> &'static Device {
    let open = || Device::with_options(options).unwrap_or_else(|error| panic!("{error}"));
    // Layers make things of their own when the first device is closed, too, which must outlive the last.
    static CLOSED: Once = Once::new();
    CLOSED.call_once(|| drop(open()));
    let device = open();
    // Software adapters measure loads when an operand is first larger than a uniform binding: now, so that no test counts
    // the dispatches of that.
    let tape = Tape::inference(&device);
    let large = tape.input([1 << 15], &[0.0f32; 1 << 15]);
    tape.fetch::<f32>(large + 1.0);
    tape.run().unwrap_or_else(|error| panic!("{error}"));
    let open = Box::into_raw(Box::new(device));
    lock(&OPEN).push(Open(open));
    close_at_exit();
    // SAFETY: it stays until `close`, when no thread of a test is left.
    unsafe { &*open }
}

/// What is registered last runs first. Drivers and layers register things as well, some of them only while they work.
fn close_at_exit() {
    // SAFETY: `close` is a function of the right type that does not unwind.
    let refused = unsafe { atexit(close) };
    assert_eq!(refused, 0, "atexit has no room");
}

/// Closes a device that no test has.
fn close_one(device: &'static Device) {
    let mut open = lock(&OPEN);
    let place = open.iter().position(|open| std::ptr::eq(open.0, device));
    let Open(device) = open.swap_remove(place.expect("it is open"));
    drop(open);
    // SAFETY: it comes from a `Box`, and whoever had it has ended.
    close_device(*unsafe { Box::from_raw(device) });
}

/// Closes all devices when the process ends, which waits for them. A driver that is still compiling then would meet its
/// libraries half taken down (Mesa's llvmpipe crashes in LLVM), and validation layers abort where a device is left.
extern "C" fn close() {
    let left_out = std::mem::take(&mut *lock(&LEFT_OUT));
    if !left_out.is_empty() {
        eprintln!(
            "left out, for want of matrix units: {}",
            left_out.join(", ")
        );
    }
    for Open(device) in lock(&OPEN).drain(..) {
        // SAFETY: it comes from a `Box`, and whoever had it has ended.
        close_device(*unsafe { Box::from_raw(device) });
    }
}

/// Closes a device. Writes what was compiled on it to the folder `SHADEGRAD_KERNELS`, if the environment names one, a file for each
/// text: what browsers make of them is tested in `web/tests`.
fn close_device(device: Device) {
    let Some(folder) = std::env::var_os("SHADEGRAD_KERNELS").map(PathBuf::from) else {
        return;
    };
    let keep = |name: &str, text: &str| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(
            folder.join(format!("{name}-{:016x}.wgsl", hasher.finish())),
            text,
        )
    };
    for (name, text) in device.kernels() {
        if let Err(error) = keep(name, &text) {
            eprintln!(
                "cannot keep the kernel `{name}` in {}: {error}",
                folder.display()
            );
            std::process::abort();
        }
    }
}

unsafe extern "C" {
    /// Of the C library.
    fn atexit(function: extern "C" fn()) -> i32;
}

/// Random numbers that depend on the seed alone (SplitMix64: Steele et al. 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }

    /// Uniform in `low..high`, rounded to `f32`.
    pub fn between(&mut self, low: f64, high: f64) -> f32 {
        let unit = (self.word() >> 11) as f64 / (1u64 << 53) as f64;
        (low + (high - low) * unit) as f32
    }

    /// `n` numbers, uniform in `low..high`.
    pub fn values(&mut self, n: usize, low: f64, high: f64) -> Vec<f32> {
        (0..n).map(|_| self.between(low, high)).collect()
    }

    /// `n` integers, uniform in `0..below`.
    pub fn indices(&mut self, n: usize, below: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(below) as u32).collect()
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A shape of rank `0..=most_rank` with extents of `1..=most_extent`; ones come up often.
    pub fn shape(&mut self, most_rank: usize, most_extent: usize) -> Shape {
        let rank = self.below(most_rank + 1);
        self.shape_of_rank(rank, most_extent)
    }

    /// A shape of the given rank with extents of `1..=most_extent`; ones come up often.
    pub fn shape_of_rank(&mut self, rank: usize, most_extent: usize) -> Shape {
        let extents: Vec<usize> = (0..rank)
            .map(|_| match self.below(5) {
                0 => 1,
                _ => 1 + self.below(most_extent),
            })
            .collect();
        Shape::from(&extents)
    }

    /// A shape that broadcasts to `shape`: leading axes dropped, extents replaced by one.
    pub fn broadcastable(&mut self, shape: Shape) -> Shape {
        let dropped = self.below(shape.rank() + 1);
        let extents: Vec<usize> = shape.dims()[dropped..]
            .iter()
            .map(|&extent| if self.below(3) == 0 { 1 } else { extent })
            .collect();
        Shape::from(&extents)
    }
}

/// Panics unless `|actual - expected| ≤ absolute + relative · |expected|` everywhere, naming the worst element.
#[track_caller]
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: number of elements");
    let excess = |index: usize| {
        let (actual, expected) = (f64::from(actual[index]), expected[index]);
        // Equal infinities count as equal; anything else that is not finite is off by infinitely much.
        if actual == expected {
            return 0.0;
        }
        let excess = (actual - expected).abs() / (absolute + relative * expected.abs());
        if excess.is_nan() {
            f64::INFINITY
        } else {
            excess
        }
    };
    let worst = (0..actual.len()).max_by(|&a, &b| excess(a).total_cmp(&excess(b)));
    if let Some(worst) = worst.filter(|&worst| excess(worst) > 1.0) {
        let off = (0..actual.len())
            .filter(|&index| excess(index) > 1.0)
            .count();
        panic!(
            "{what}: element {worst} is {}, expected {}: {:.3e} apart, {:.1} times the tolerance; {off} of {} elements \
             are off",
            actual[worst],
            expected[worst],
            (f64::from(actual[worst]) - expected[worst]).abs(),
            excess(worst),
            actual.len()
        );
    }
}

/// [`assert_close`] against `f32` values.
#[track_caller]
pub fn assert_close_f32(
    what: &str,
    actual: &[f32],
    expected: &[f32],
    relative: f64,
    absolute: f64,
) {
    assert_close(what, actual, &wide(expected), relative, absolute);
}

/// The same numbers in `f64`.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// The position of every element of `shape`, in row-major order.
pub fn positions(shape: Shape) -> impl Iterator<Item = Vec<usize>> {
    (0..shape.elements()).map(move |index| {
        let mut left = index;
        let mut position = vec![0; shape.rank()];
        for axis in (0..shape.rank()).rev() {
            position[axis] = left % shape.dim(axis);
            left /= shape.dim(axis);
        }
        position
    })
}

/// Index of the element of `shape` that `position` in a larger shape reads, by the broadcasting rule.
pub fn broadcast_index(shape: Shape, position: &[usize]) -> usize {
    let missing = position.len() - shape.rank();
    (0..shape.rank()).fold(0, |index, axis| {
        let extent = shape.dim(axis);
        index * extent
            + if extent == 1 {
                0
            } else {
                position[axis + missing]
            }
    })
}
