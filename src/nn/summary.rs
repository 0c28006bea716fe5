//! What a model is made of, as a table.

use std::fmt;

use super::Parameters;
use crate::gpu::DType;
use crate::shape::Shape;

/// The parameters of a model, to be printed: made by [`Parameters::summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// A line for each parameter, in order.
    pub lines: Vec<SummaryLine>,
}

/// A parameter in a [`Summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryLine {
    /// The full name.
    pub name: String,
    /// The shape.
    pub shape: Shape,
    /// The type of its elements.
    pub dtype: DType,
    /// Whether training leaves it as it is.
    pub is_frozen: bool,
}

impl SummaryLine {
    /// How many numbers it holds.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Bytes of these numbers.
    pub fn bytes(&self) -> u64 {
        (self.dtype.bytes() * self.elements()) as u64
    }
}

impl Summary {
    /// How many numbers the parameters hold.
    pub fn elements(&self) -> usize {
        self.lines.iter().map(SummaryLine::elements).sum()
    }

    /// How many of them are frozen.
    pub fn frozen_elements(&self) -> usize {
        let frozen = self.lines.iter().filter(|line| line.is_frozen);
        frozen.map(SummaryLine::elements).sum()
    }
}

impl Parameters {
    /// Names, shapes, sizes and totals. [`ParameterGroups::summary`] says besides which are frozen.
    ///
    /// ```
    /// # fn main() -> shadegrad::Result<()> {
    /// use shadegrad::Device;
    /// use shadegrad::nn::{Linear, ParameterBuilder};
    ///
    /// let mut builder = ParameterBuilder::new(42);
    /// Linear::new(&mut builder.enter("head"), 64, 10, true);
    /// let parameters = builder.build(&Device::new()?)?;
    /// assert_eq!(parameters.summary().to_string(), "\
    /// parameter        shape  numbers  bytes
    /// head.weight   [64, 10]      640  2,560
    /// head.bias         [10]       10     40
    /// total        2 tensors      650  2,600");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`ParameterGroups::summary`]: crate::optim::ParameterGroups::summary
    pub fn summary(&self) -> Summary {
        let lines = self.iter().map(|parameter| SummaryLine {
            name: parameter.name().to_owned(),
            shape: parameter.shape(),
            dtype: parameter.tensor().dtype(),
            is_frozen: parameter.is_frozen(),
        });
        Summary {
            lines: lines.collect(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (elements, frozen) = (self.elements(), self.frozen_elements());
        let row = |name: &str, shape: String, elements: usize, bytes: u64, mark: &str| {
            let [elements, bytes] = [elements as u64, bytes].map(grouped);
            [name.to_owned(), shape, elements, bytes, mark.to_owned()]
        };
        let mut rows = vec![["parameter", "shape", "numbers", "bytes", ""].map(str::to_owned)];
        rows.extend(self.lines.iter().map(|line| {
            let mark = if line.is_frozen { "  frozen" } else { "" };
            row(
                &line.name,
                line.shape.to_string(),
                line.elements(),
                line.bytes(),
                mark,
            )
        }));
        let tensors = format!("{} tensors", self.lines.len());
        let bytes = self.lines.iter().map(SummaryLine::bytes).sum();
        rows.push(row("total", tensors, elements, bytes, ""));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let [names, shapes, numbers, bytes] = [0, 1, 2, 3].map(|column| width(column).unwrap_or(0));
        let lines = rows.iter().map(|[name, shape, number, byte, mark]| {
            format!("{name:names$}  {shape:>shapes$}  {number:>numbers$}  {byte:>bytes$}{mark}")
        });
        f.write_str(&lines.collect::<Vec<String>>().join("\n"))?;
        match frozen {
            0 => Ok(()),
            _ => write!(
                f,
                "\ntrained {}, frozen {}",
                grouped((elements - frozen) as u64),
                grouped(frozen as u64)
            ),
        }
    }
}

/// A number with a comma before every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups.map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}
