//! Adapters: what there is, and which one to take.

use std::fmt;

use crate::error::{Error, Result};

/// The kind of adapter, as far as the choice of kernel variants is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterClass {
    /// A software rasteriser (llvmpipe, WARP, SwiftShader): wide registers, no real workgroup memory, dear dispatches.
    Software,
    /// Real graphics hardware.
    Gpu,
}

/// What can be said about an adapter before a device is opened on it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdapterDescription {
    /// The adapter's name.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// The driver's name and version.
    pub driver: String,
    /// Which kernel variants it gets.
    pub class: AdapterClass,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `software` or `other`.
    pub kind: &'static str,
    /// Whether a device's kernels use matrix units. Before one is opened, none are.
    pub matrix_units: MatrixUnits,
}

/// [`AdapterDescription::kind`] of software adapters.
pub(super) const SOFTWARE: &str = "software";

impl AdapterDescription {
    pub(super) fn of(info: &wgpu::AdapterInfo) -> AdapterDescription {
        let (class, kind) = match info.device_type {
            wgpu::DeviceType::Cpu => (AdapterClass::Software, SOFTWARE),
            wgpu::DeviceType::DiscreteGpu => (AdapterClass::Gpu, "discrete GPU"),
            wgpu::DeviceType::IntegratedGpu => (AdapterClass::Gpu, "integrated GPU"),
            wgpu::DeviceType::VirtualGpu => (AdapterClass::Gpu, "virtual GPU"),
            wgpu::DeviceType::Other => (AdapterClass::Gpu, "other"),
        };
        AdapterDescription {
            name: info.name.clone(),
            backend: info.backend.to_str().to_owned(),
            driver: format!("{} {}", info.driver, info.driver_info)
                .trim()
                .to_owned(),
            class,
            kind,
            matrix_units: MatrixUnits::Absent,
        }
    }
}

/// What a browser calls the adapter of a device: most say no name, to tell visitors apart less well.
#[cfg(target_family = "wasm")]
pub(super) fn name_in_browser(device: &wgpu::Device) -> String {
    use js_sys::Reflect;
    let get = |of: &_, key: &str| Reflect::get(of, &key.into()).unwrap_or_default();
    let info = device
        .as_webgpu()
        .map(|device| get(device.as_ref(), "adapterInfo"));
    let words = ["description", "vendor", "architecture"].map(|key| {
        let word = info.as_ref().and_then(|info| get(info, key).as_string());
        word.unwrap_or_default()
    });
    let [description, vendor, architecture] = words;
    match (
        description.is_empty(),
        format!("{vendor} {architecture}").trim(),
    ) {
        (false, _) => description,
        (true, "") => "an adapter that the browser does not name".to_owned(),
        (true, words) => words.to_owned(),
    }
}

impl fmt::Display for AdapterDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {}", self.name, self.backend)?;
        if !self.driver.is_empty() {
            write!(f, " | {}", self.driver)?;
        }
        match self.kind {
            SOFTWARE => write!(f, " | software adapter: no GPU is used, expect CPU speed")?,
            kind => write!(f, " | {kind}")?,
        }
        write!(f, "{}", self.matrix_units)
    }
}

/// Whether kernels use an adapter's matrix units. The `Display` form is how the adapter's line ends; nothing where there are
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MatrixUnits {
    /// The adapter lists none that multiply `f16` and add up `f32`.
    Absent,
    /// They were turned off.
    Off,
    /// They are a software adapter's, and slower than `f32` arithmetic.
    Slow,
    /// The adapter lists them, but a product with known values came out wrong.
    Wrong,
    /// The matrices that they multiply have so many rows and columns.
    Used(usize),
}

impl fmt::Display for MatrixUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MatrixUnits::Absent => Ok(()),
            MatrixUnits::Off => write!(f, " | matrix units turned off"),
            MatrixUnits::Slow => write!(f, " | matrix units not used: slower than arithmetic here"),
            MatrixUnits::Wrong => {
                write!(f, " | matrix units not used: a test product came out wrong")
            }
            MatrixUnits::Used(n) => write!(f, " | matrix units: {n}×{n}×{n}, f16 to f32"),
        }
    }
}

/// What matrix units multiply, as the driver describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixConfiguration {
    /// Rows and columns of a matrix.
    pub size: usize,
    /// The most lanes that a subgroup may have.
    pub lanes: usize,
    /// How many halves the driver takes together, 4 or 1.
    pub part: usize,
}

/// The configuration of an adapter that kernels can use: square matrices, as WGSL can't name others, the larger first.
pub(super) fn matrix_units(adapter: &wgpu::Adapter) -> Option<MatrixConfiguration> {
    let info = adapter.get_info();
    let properties = adapter.cooperative_matrix_properties();
    let has = |size: u32| {
        properties.iter().any(|it| {
            [it.m_size, it.n_size, it.k_size] == [size; 3]
                && it.ab_type == wgpu::CooperativeScalarType::F16
                && it.cr_type == wgpu::CooperativeScalarType::F32
                && !it.saturating_accumulation
        })
    };
    let (lanes, part) = match info.backend {
        // wgpu doesn't ask Metal; all GPUs of Apple's that have matrix units have as many.
        wgpu::Backend::Metal => (32, 1),
        _ => (info.subgroup_max_size, 4),
    };
    let size = [16, 8].into_iter().find(|&size| has(size))?;
    Some(MatrixConfiguration {
        size: size as usize,
        lanes: lanes as usize,
        part,
    })
}

/// All that can compute, best first.
pub(super) async fn ranked() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends = backends;
    let Some(instance) = instance(descriptor) else {
        return Vec::new();
    };
    if cfg!(target_family = "wasm") {
        // A browser shows one adapter, and which one depends on how it is asked.
        let request = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        return instance
            .request_adapter(&request)
            .await
            .into_iter()
            .collect();
    }
    let mut adapters = instance.enumerate_adapters(backends).await;
    adapters.retain(|adapter| {
        adapter
            .get_downlevel_capabilities()
            .flags
            .contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
    });
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// An instance that asks no desktop anything. A layer of Mesa looks for the desktop's preferred adapter as soon as an
/// instance can draw to windows, and complains on standard error where there is no desktop, as in a container; nothing
/// here draws to windows.
///
/// `None` if there is no driver.
#[cfg(all(unix, not(any(target_vendor = "apple", target_os = "android"))))]
fn instance(descriptor: wgpu::InstanceDescriptor) -> Option<wgpu::Instance> {
    use wgpu::hal::{InstanceDescriptor, api::Vulkan, vulkan};
    if !descriptor.backends.contains(wgpu::Backends::VULKAN) {
        return Some(wgpu::Instance::new(descriptor));
    }
    let of_windows = |name: &std::ffi::CStr| {
        let platforms = [
            c"VK_KHR_wayland_surface",
            c"VK_KHR_xcb_surface",
            c"VK_KHR_xlib_surface",
        ];
        platforms.contains(&name)
    };
    let vulkan_descriptor = InstanceDescriptor {
        name: "shadegrad",
        flags: descriptor.flags,
        memory_budget_thresholds: descriptor.memory_budget_thresholds,
        backend_options: descriptor.backend_options,
        telemetry: None,
        display: None,
    };
    let without_windows = Box::new(
        move |args: vulkan::CreateInstanceCallbackArgs<'_, '_, '_>| {
            args.extensions.retain(|name| !of_windows(name));
        },
    );
    // SAFETY: extensions for windows are used only to make surfaces, which looks first whether they are there; no
    // surface is ever made of this instance. Nothing else is changed.
    let instance =
        unsafe { vulkan::Instance::init_with_callback(&vulkan_descriptor, Some(without_windows)) };
    // SAFETY: it was made by the backend that it is handed to, and nobody else holds it.
    instance
        .ok()
        .map(|instance| unsafe { wgpu::Instance::from_hal::<Vulkan>(instance) })
}

/// An instance.
#[cfg(not(all(unix, not(any(target_vendor = "apple", target_os = "android")))))]
fn instance(descriptor: wgpu::InstanceDescriptor) -> Option<wgpu::Instance> {
    Some(wgpu::Instance::new(descriptor))
}

/// What the driver says of the adapter's memory.
#[cfg(not(any(target_vendor = "apple", target_family = "wasm")))]
pub(super) fn memory(adapter: &wgpu::Adapter) -> Option<u64> {
    /// Of a heap: that it is the adapter's own.
    const DEVICE_LOCAL: u32 = 1;
    let has_its_own = match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => true,
        // Mesa's says 2 GiB, whatever the host has.
        wgpu::DeviceType::Cpu => return None,
        _ => false,
    };
    // SAFETY: nothing is destroyed through these handles, which live as long as the adapter.
    let memory = unsafe {
        let adapter = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = adapter.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(adapter.raw_physical_device())
    };
    let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
    let heaps = heaps
        .iter()
        .filter(|heap| !has_its_own || heap.flags.as_raw() & DEVICE_LOCAL != 0);
    Some(heaps.map(|heap| heap.size).sum())
}

/// What the driver says of the adapter's memory.
#[cfg(any(target_vendor = "apple", target_family = "wasm"))]
pub(super) fn memory(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// The one that is wanted, by index, name or backend; the first if none is.
pub(super) fn choose(
    mut adapters: Vec<wgpu::Adapter>,
    wanted: Option<String>,
) -> Result<wgpu::Adapter> {
    if adapters.is_empty() {
        return Err(Error::NoAdapter);
    }
    let Some(wanted) = wanted else {
        return Ok(adapters.swap_remove(0));
    };
    let infos: Vec<wgpu::AdapterInfo> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    let text = wanted.trim().to_lowercase();
    let index = text.parse().ok().filter(|&index| index < infos.len());
    let position = index.or_else(|| {
        infos.iter().position(|info| {
            let named = !text.is_empty() && info.name.to_lowercase().contains(&text);
            named || info.backend.to_str() == text
        })
    });
    match position {
        Some(position) => Ok(adapters.swap_remove(position)),
        None => {
            let found = infos.iter().enumerate();
            let found = found
                .map(|(index, info)| format!("{index}: {}", AdapterDescription::of(info).name));
            Err(Error::NoSuchAdapter {
                wanted,
                found: found.collect(),
            })
        }
    }
}
