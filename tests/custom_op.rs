//! The example of an operation from outside the crate: it runs, and its gradients are right.

#[path = "../examples/custom_op.rs"]
mod example;

#[test]
fn the_example_checks_itself() {
    example::run().unwrap_or_else(|error| panic!("{error}"));
}
