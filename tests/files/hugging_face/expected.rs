//! What `transformers` computed.

use safetensors::SafeTensors;
use shadegrad::Shape;

/// The tensors of `expected.safetensors`.
pub struct Expected(Vec<u8>);

impl Expected {
    pub fn load() -> Expected {
        Expected(std::fs::read(super::golden().join("expected.safetensors")).unwrap())
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).map(f32::from_le_bytes).collect()
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name).map(u32::from_le_bytes).collect()
    }

    pub fn shape(&self, name: &str) -> Shape {
        Shape::from(self.file().tensor(name).unwrap().shape())
    }

    fn words(&self, name: &str) -> impl Iterator<Item = [u8; 4]> {
        let tensor = self.file().tensor(name).unwrap();
        tensor.data().as_chunks().0.iter().copied()
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }
}
