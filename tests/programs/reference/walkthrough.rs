//! The tables of `examples/walkthrough` against what the document prints, to four decimals.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use crate::common::{assert_close_f32, device};

#[path = "../../../examples/walkthrough/layers.rs"]
mod layers;
#[path = "../../../examples/walkthrough/page.rs"]
mod page;
#[path = "../../../examples/walkthrough/tables.rs"]
mod tables;

/// Half of the last printed digit, and a little for the rounding of the numbers themselves.
const PRINTED: f64 = 0.5e-4 + 1e-6;

/// Names and numbers in `walkthrough.txt`.
fn printed() -> BTreeMap<&'static str, Vec<f32>> {
    let mut blocks = include_str!("walkthrough.txt").split("\n\n");
    assert!(blocks.next().is_some_and(|first| first.starts_with('#')));
    let tables = blocks.map(|block| {
        let (name, numbers) = block.split_once('\n').expect("a name and numbers");
        let numbers = numbers.split_whitespace();
        (name, numbers.map(|word| word.parse().unwrap()).collect())
    });
    tables.collect()
}

#[test]
fn every_table_is_the_printed_one() {
    let mut printed = printed();
    let mut unprinted = Vec::new();
    let entries = tables::compute(device()).unwrap();
    tables::check(&entries).unwrap();
    for entry in entries {
        let page::Entry::Table(table) = &entry else {
            continue;
        };
        match printed.remove(table.name) {
            Some(expected) => {
                assert_close_f32(table.name, &table.values, &expected, 0.0, PRINTED);
            }
            None => unprinted.push((table.name, table.values.clone())),
        }
        // As many lines of numbers as the tensor has rows.
        let rows = table.shape.elements() / table.shape.dims().last().unwrap_or(&1);
        let lines = entry.to_string();
        let lines = lines.lines().filter(|line| line.starts_with("   "));
        assert_eq!(lines.count(), rows, "{}", table.name);
    }
    assert!(printed.is_empty(), "not computed: {:?}", printed.keys());

    // What the document shows only the shape of, or does another way.
    let names: Vec<&str> = unprinted.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "naive softmax of scores 100 times as large",
            "softmax of scores 100 times as large",
            "keys",
            "values",
            "sums of the cut rows",
            "weights of the fused kernel",
            "two heads, split, mixed, with biases"
        ]
    );
    let values = |wanted: &str| {
        &unprinted
            .iter()
            .find(|(name, _)| *name == wanted)
            .unwrap()
            .1
    };
    assert_eq!((values("keys").len(), values("values").len()), (12, 12));
    let printed = self::printed();
    let fused = values("weights of the fused kernel");
    let masked = &printed["weights of masked scores"];
    assert_close_f32("fused weights", fused, masked, 0.0, PRINTED);
    let file = include_bytes!("../../../examples/walkthrough/weights.safetensors");
    let file = SafeTensors::deserialize(file).unwrap();
    let expected = file.tensor("biased.expected").unwrap();
    let (words, _) = expected.data().as_chunks();
    let expected: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    let biased = values("two heads, split, mixed, with biases");
    assert_close_f32("with biases", biased, &expected, 1e-5, 1e-6);
}

#[test]
fn tables_that_should_be_the_same_and_are_not_cost_an_error() {
    let table = |name, value| {
        page::Entry::Table(page::Table {
            name,
            shape: [2].into(),
            values: vec![0.5, value],
        })
    };
    let page = |fused| {
        [
            table("scores, product by product", 1.0),
            table("scores, one matrix product", 1.0),
            table("weights of masked scores", 0.25),
            table("weights of the fused kernel", fused),
        ]
    };
    tables::check(&page(0.25)).unwrap();
    for wrong in [0.26, f32::NAN] {
        let error = tables::check(&page(wrong)).unwrap_err().to_string();
        assert!(error.contains("fused kernel differ by"), "{error}");
    }
}
