//! Kernels that are refused.

use super::KernelCache;
use crate::gpu::{Device, Kernel};

#[test]
fn matrices_are_for_kernels_of_the_crate() {
    let device = Device::new().unwrap_or_else(|error| panic!("{error}"));
    let source = "alias Left = coop_mat8x8<f16, A>;\n@compute @workgroup_size(64)\nfn main() { var a = Left(); }\n";
    let kernel = Kernel::new("custom", source, "main");
    let refused = KernelCache::default().pipeline(&device, &kernel, &[]);
    let text = refused.err().expect("it names matrices").to_string();
    assert!(
        text.contains("cooperative matrices are for the crate's own"),
        "{text}"
    );
}
