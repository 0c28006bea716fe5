//! What sums over ranks cost.

use std::time::Duration;

/// What this rank's sums have moved, and what its host did meanwhile. Its phases don't overlap with one another, but each with
/// what the device and the network do by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumTimes {
    /// Bytes of what was added up, as it lies on the device.
    pub bytes: u64,
    /// Bytes that went to other ranks; as many came from them.
    pub sent: u64,
    /// Waiting for the device, and taking what it has copied to where the network sends it from.
    pub read_back: Duration,
    /// Waiting for the network, and so for the other ranks.
    pub network: Duration,
    /// Adding up.
    pub addition: Duration,
    /// Handing sums to the device.
    pub upload: Duration,
}
