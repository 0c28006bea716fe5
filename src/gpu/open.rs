//! How devices are opened: which adapter, and with what of all that it offers.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use super::adapter::{AdapterDescription, MatrixUnits, SOFTWARE, choose, matrix_units, ranked};
use super::attached::Attached;
#[cfg(not(target_family = "wasm"))]
use super::blocking::block_on;
use super::device::{Device, Failure, Shared, from_wgpu};
use super::options::{DeviceOptions, Feature, flag};
use super::stats::WaitTimes;
use crate::error::{Error, Result};

impl Device {
    /// Opens the best adapter: a real GPU before a software one, unless `WGPU_ADAPTER_NAME` or `WGPU_BACKEND` choose
    /// otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::NoAdapter`] if there is none, [`Error::DeviceRequest`] if the driver refuses.
    #[cfg(not(target_family = "wasm"))]
    pub fn new() -> Result<Device> {
        Device::with_options(&DeviceOptions::default())
    }

    /// Opens a device as `options` say.
    ///
    /// # Errors
    ///
    /// As [`Device::open`].
    #[cfg(not(target_family = "wasm"))]
    pub fn with_options(options: &DeviceOptions) -> Result<Device> {
        block_on(Device::open(options))
    }

    /// Opens a device as `options` say. In a browser that is all there is of choice: it has one adapter, and no variables of
    /// an environment.
    ///
    /// # Errors
    ///
    /// As [`Device::new`]; [`Error::NoSuchAdapter`] if nothing matches the selector, [`Error::InvalidArgument`] if a variable
    /// of the environment has a value that means nothing.
    pub async fn open(options: &DeviceOptions) -> Result<Device> {
        let wanted = options.adapter.clone().or_else(|| {
            let name = std::env::var("WGPU_ADAPTER_NAME").ok();
            name.filter(|name| !name.is_empty())
        });
        let adapter = choose(ranked().await, wanted)?;
        open(adapter, options).await
    }

    /// All usable adapters, best first.
    #[cfg(not(target_family = "wasm"))]
    pub fn list_adapters() -> Vec<AdapterDescription> {
        block_on(ranked())
            .iter()
            .map(|adapter| AdapterDescription::of(&adapter.get_info()))
            .collect()
    }
}

/// What must be said to get those features.
pub(super) fn experimental(features: wgpu::Features) -> wgpu::ExperimentalFeatures {
    if !features.intersects(wgpu::Features::all_experimental_mask()) {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: only the crate's own kernels name matrices, as `gpu/pipeline.rs` sees to. They move them from and to workgroup
    // memory alone, whose bounds are constants, and in control flow that is the same for all of a workgroup; the test-suite
    // runs them on a software adapter, and devices use them only after a product has come out right.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

async fn open(adapter: wgpu::Adapter, options: &DeviceOptions) -> Result<Device> {
    let info = adapter.get_info();
    let mut description = AdapterDescription::of(&info);
    description.class = options.class.unwrap_or(description.class);
    // Optional: timestamps for profiles, subgroups for reductions. Kernels have portable twins.
    let portable = options.portable || flag("SHADEGRAD_PORTABLE")?;
    let f16 = options.f16.or_variable("SHADEGRAD_F16")?;
    let wants_matrix_units = options.matrix_units.or_variable("SHADEGRAD_MATRIX_UNITS")?;
    let mut wanted = wgpu::Features::empty();
    if !portable {
        wanted |= wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS
            | wgpu::Features::SUBGROUP;
        if f16 != Feature::Off {
            wanted |= wgpu::Features::SHADER_F16;
        }
    }
    let mut features = adapter.features() & wanted;
    let has_f16 = features.contains(wgpu::Features::SHADER_F16);
    let listed_matrix_units = match matrix_units(&adapter) {
        None => Err(MatrixUnits::Absent),
        Some(_) if wants_matrix_units == Feature::Off || !has_f16 => Err(MatrixUnits::Off),
        Some(_) if wants_matrix_units == Feature::Auto && description.kind == SOFTWARE => {
            Err(MatrixUnits::Slow)
        }
        Some(listed) => Ok(listed),
    };
    if listed_matrix_units.is_ok() {
        features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    }
    let limits = options.limits.clone().unwrap_or_else(|| {
        if portable {
            wgpu::Limits::default()
        } else {
            adapter.limits()
        }
    });
    let request = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("shadegrad"),
        required_features: features,
        required_limits: limits.clone(),
        memory_hints: wgpu::MemoryHints::Performance,
        experimental_features: experimental(features),
        ..Default::default()
    });
    let (device, queue) = request.await.map_err(|error| Error::DeviceRequest {
        adapter: info.name.clone(),
        reason: error.to_string(),
    })?;
    #[cfg(target_family = "wasm")]
    {
        description.name = super::adapter::name_in_browser(&device);
    }
    let subgroup_size = (features.contains(wgpu::Features::SUBGROUP)
        && info.subgroup_min_size == info.subgroup_max_size)
        .then_some(info.subgroup_min_size);
    let failure = Arc::new(Mutex::new(Failure::default()));
    let uncaptured = failure.clone();
    device.on_uncaptured_error(Arc::new(move |error| {
        uncaptured
            .lock()
            .unwrap()
            .error
            .get_or_insert(from_wgpu(error));
    }));
    let lost = failure.clone();
    device.set_device_lost_callback(move |reason, message| {
        let text = format!("{reason:?}: {message}");
        lost.lock().unwrap().lose(text);
    });
    Ok(Device {
        is_meta: false,
        shared: Arc::new(Shared {
            adapter,
            wgpu: device,
            queue,
            description,
            limits,
            counters: Arc::default(),
            wait_times: WaitTimes::default(),
            attached: Attached::default(),
            subgroup_size,
            has_f16,
            listed_matrix_units,
            matrix_units: OnceLock::new(),
            described: OnceLock::new(),
            checked_kernels: options.checked_kernels || cfg!(debug_assertions),
            poison: options.poison || flag("SHADEGRAD_POISON")?,
            next_buffer: AtomicU64::new(0),
            tapes_drawing: AtomicU64::new(0),
            first_tick: OnceLock::new(),
            most_windows: OnceLock::new(),
            overlaps: OnceLock::new(),
            in_flight: Mutex::default(),
            failure,
        }),
    })
}
