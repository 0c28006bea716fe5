//! The example of an operation from outside the crate: it runs, and its gradients are right.

#[expect(dead_code, reason = "its `main` reads the arguments of a program")]
#[path = "../../examples/custom_op.rs"]
mod example;

#[test]
fn the_example_checks_itself() {
    example::run().unwrap_or_else(|error| panic!("{error}"));
}
