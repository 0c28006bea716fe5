//! Benchmarks of the kernels and of whole training steps: `cargo bench`. `benches/README.md` says how to read them.

mod adamw;
mod attention;
mod cross_entropy;
mod harness;
mod matmul;
mod pointwise;
mod rows;
mod smollm;
mod steps;
mod table;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut session = harness::Session::new()?;
    matmul::benches(&mut session);
    rows::benches(&mut session);
    cross_entropy::benches(&mut session);
    pointwise::benches(&mut session);
    attention::benches(&mut session);
    adamw::benches(&mut session);
    steps::benches(&mut session);
    smollm::benches(&mut session);
    Ok(session.finish()?)
}
