//! The exact identity of a tape's structure.

use std::hash::Hasher;

/// Everything about a tape that its plan depends on, as bytes. Two tapes with equal signatures run from one plan.
///
/// It is a [`Hasher`] that keeps what it is given instead of mixing it, so an operation describes itself by
/// `self.hash(signature)` and there are no collisions to worry about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signature {
    bytes: Vec<u8>,
}

impl Signature {
    /// Forgets everything but the room for it.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }
}

impl Hasher for Signature {
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Not meaningful: a signature is compared, not hashed to a number.
    fn finish(&self) -> u64 {
        self.bytes.len() as u64
    }
}
