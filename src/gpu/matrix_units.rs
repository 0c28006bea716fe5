//! Matrix units (tensor cores, `simdgroup_matrix`, cooperative matrices): whether an adapter has the kind that kernels use,
//! and whether it multiplies right.
//!
//! Drivers list what they have, but some list what is wrong or not there in hardware: so a product with known values is
//! computed before anything else is, in the way that kernels do.

use super::adapter::{AdapterDescription, MatrixConfiguration, MatrixUnits};
use super::device::Device;
use super::kernel::{Access, Kernel};
use super::pipeline;

impl Device {
    /// Rows and columns of the matrices that kernels on this device may have matrix units multiply: `f16` matrices, added up
    /// in `f32`. `None` where there are no such units, where they are not wanted ([`DeviceOptions::matrix_units`]), or where
    /// they multiply wrong: the first call, or the first of [`Device::description`], has them compute a small product.
    ///
    /// [`DeviceOptions::matrix_units`]: crate::DeviceOptions::matrix_units
    pub fn matrix_units(&self) -> Option<usize> {
        match self.tested_matrix_units() {
            MatrixUnits::Used(size) => Some(size),
            _ => None,
        }
    }

    /// The adapter this device was opened on. Its `Display` form is the line that programs print first.
    pub fn description(&self) -> &AdapterDescription {
        self.shared.described.get_or_init(|| AdapterDescription {
            matrix_units: self.tested_matrix_units(),
            ..self.shared.description.clone()
        })
    }

    fn tested_matrix_units(&self) -> MatrixUnits {
        let test = || match self.shared.listed_matrix_units {
            Err(why) => why,
            Ok(listed) if is_right(self, listed) => MatrixUnits::Used(listed.size),
            Ok(_) => MatrixUnits::Wrong,
        };
        *self.shared.matrix_units.get_or_init(test)
    }

    /// What matrix units multiply, where kernels may use them.
    pub(crate) fn matrix_configuration(&self) -> Option<MatrixConfiguration> {
        self.matrix_units()?;
        self.shared.listed_matrix_units.ok()
    }
}

impl MatrixConfiguration {
    /// A kernel with `shaders/matrix_units.wgsl`, which it imports, declared again for this.
    pub fn declared(&self, kernel: Kernel) -> Kernel {
        let size = self.size;
        let mut text: String = [("Left", "f16, A"), ("Right", "f16, B"), ("Sum", "f32, C")]
            .map(|(name, what)| format!("alias {name} = coop_mat{size}x{size}<{what}>;\n"))
            .concat();
        if self.part == 1 {
            text +=
                "alias Part = f16;\nfn part(four: vec4<f16>, i: u32) -> Part { return four[i]; }\n";
        }
        let constants = [
            ("MATRIX_SIZE", size),
            ("MATRIX_LANES", self.lanes),
            ("PART", self.part),
        ];
        let with = |kernel: Kernel, (name, value)| kernel.constant(name, value);
        constants.into_iter().fold(kernel, with).declare(&text)
    }
}

/// What `shaders/matrix_units_test.wgsl` should compute: the product by rows, and by columns.
fn expected(size: usize) -> Vec<f32> {
    let extent = 2 * size;
    let element = |row: usize, column: usize, salt: usize| {
        ((71 * row + 43 * column + salt * row * column) % 251) as f32 - 125.0
    };
    let sum = |row: usize, column: usize| {
        let products = (0..extent).map(|k| {
            element(row, k, 1) * element(k, column, 3) + element(k, row, 1) * element(column, k, 3)
        });
        products.sum()
    };
    let places = || (0..extent).flat_map(|i| (0..extent).map(move |j| (i, j)));
    let by_rows = places().map(|(row, column)| sum(row, column));
    let by_columns = places().map(|(column, row)| sum(row, column));
    by_rows.chain(by_columns).collect()
}

/// Browsers list no matrix units.
#[cfg(target_family = "wasm")]
fn is_right(_: &Device, _: MatrixConfiguration) -> bool {
    false
}

/// Whether the units compute what they should. Whatever goes wrong, they don't. Nothing of it shows in the device's counters.
#[cfg(not(target_family = "wasm"))]
fn is_right(device: &Device, listed: MatrixConfiguration) -> bool {
    let kernel = Kernel::builtin("matrix_units", "matrix_units_test", "test");
    let kernel = listed.declared(kernel).pruned();
    let expected = expected(listed.size);
    // Not by `Device::scoped`, which would take an error that somebody else is to hear of.
    let wgpu = &device.shared.wgpu;
    let validation = wgpu.push_error_scope(wgpu::ErrorFilter::Validation);
    let internal = wgpu.push_error_scope(wgpu::ErrorFilter::Internal);
    let computed = product(device, &kernel, expected.len());
    let errors = [internal.pop(), validation.pop()].map(super::blocking::block_on);
    errors.iter().all(Option::is_none) && computed == Some(expected)
}

/// What the kernel writes.
fn product(device: &Device, kernel: &Kernel, elements: usize) -> Option<Vec<f32>> {
    let (wgpu, queue) = (&device.shared.wgpu, &device.shared.queue);
    let pipeline = pipeline::build(wgpu, device, kernel, &[Access::Write]);
    let buffer = |size: usize, usage| {
        wgpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("matrix units"),
            size: size as u64,
            usage,
            mapped_at_creation: false,
        })
    };
    let bytes = 4 * elements;
    let params = buffer(16, wgpu::BufferUsages::UNIFORM);
    let written = buffer(
        bytes,
        wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
    );
    let read = buffer(
        bytes,
        wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
    );
    let mut encoder = pipeline.encode(wgpu, &[(0, &params), (1, &written)], 1);
    encoder.copy_buffer_to_buffer(&written, 0, &read, 0, bytes as u64);
    let submission = queue.submit([encoder.finish()]);
    read.map_async(wgpu::MapMode::Read, .., |_| ());
    let waited = wgpu.poll(wgpu::PollType::Wait {
        submission_index: Some(submission),
        timeout: None,
    });
    waited.ok()?;
    let mapped = read.get_mapped_range(..).ok()?;
    Some(bytemuck::pod_collect_to_vec(&mapped))
}

#[cfg(test)]
#[path = "../../tests/unit/gpu/matrix_units.rs"]
pub(crate) mod tests;
