//! Where futures may wait in place for the device: on a thread that blocks for them anyway.

use std::cell::Cell;

thread_local! {
    static IS_ALLOWED: Cell<bool> = const { Cell::new(false) };
}

/// Whether futures that are polled on this thread may wait in place.
pub(super) fn is_allowed() -> bool {
    IS_ALLOWED.get()
}

/// Runs a future to its end, waiting in place for the device.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            IS_ALLOWED.set(self.0);
        }
    }
    let _restored = Restored(IS_ALLOWED.replace(true));
    pollster::block_on(future)
}
