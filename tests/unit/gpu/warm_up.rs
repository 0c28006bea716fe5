//! What is compiled before it is needed.

use super::*;

#[test]
fn nothing_of_it_shows() {
    let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
    let text = "@group(0) @binding(1) var<storage, read> x: array<f32>;\n\
                @group(0) @binding(2) var<storage, read_write> y: array<f32>;\n\
                const N: u32 = 0u;\n\
                @compute @workgroup_size(8)\n\
                fn main(@builtin(local_invocation_index) i: u32) { y[i] = x[i + N]; }\n";
    let accesses = [Access::Read, Access::Write];
    let kernels: Vec<Kernel> = (0..FEWEST)
        .map(|n| Kernel::new("shifted", text, "main").constant("N", n))
        .collect();
    let pipelines: Vec<_> = kernels
        .iter()
        .map(|kernel| {
            device
                .attached::<pipeline::KernelCache>()
                .pipeline(&device, kernel, &accesses)
        })
        .collect::<Result<_, _>>()
        .unwrap();
    let list: Vec<_> = kernels
        .iter()
        .zip(&pipelines)
        .map(|(kernel, pipeline)| (kernel, &accesses[..], &**pipeline, &[][..]))
        .collect();
    let before = device.stats();
    let has_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    assert!(!compile(&device, &list[1..]));
    assert_eq!(compile(&device, &list), has_cores && compiles_late(&device));
    assert_eq!(device.stats(), before);
    device.check().unwrap();
    device.wait().unwrap();
}
