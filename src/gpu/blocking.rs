//! Where futures may wait in place for the device: on a thread that blocks for them anyway.

use std::cell::Cell;

thread_local! {
    /// Whether futures that are polled on this thread may wait in place.
    pub(super) static IS_ALLOWED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a future to its end, where no executor does. What waits for a device waits in place, in wgpu's own call.
///
/// ```
/// # fn main() -> shadegrad::Result<()> {
/// use shadegrad::gpu::block_on;
/// use shadegrad::{Device, DeviceOptions, Tensor};
///
/// let values = block_on(async {
///     let device = Device::open(&DeviceOptions::default()).await?;
///     Tensor::new(&device, [2], &[1.0f32, 2.0])?.to_vec_async::<f32>().await
/// })?;
/// assert_eq!(values, [1.0, 2.0]);
/// # Ok(())
/// # }
/// ```
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            IS_ALLOWED.set(self.0);
        }
    }
    let _restored = Restored(IS_ALLOWED.replace(true));
    pollster::block_on(future)
}
