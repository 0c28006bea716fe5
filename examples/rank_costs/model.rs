//! A model of the time of a step on several ranks.
//!
//! A sum of `G` bytes of `f32` goes in pieces of `P` bytes. With `w` = 4 or 2 bytes for each number that travels, the network
//! takes for a piece, as in a ring,
//!
//! ```text
//! network(P) = 2·((N − 1)·α + (N − 1)/N · w/4·P · β)
//! ```
//!
//! and the host reads back, adds up and uploads, each in a time of the form `fixed + P · per_byte`. The host uploads and
//! reads back while the network works, and adds up when it is through, so that
//!
//! ```text
//! sum(G) = Σ over pieces (max(network, read back + upload) + addition) + read back + network/2 + upload
//! ```
//!
//! with the last terms for filling and emptying the pipeline. Where the network is the hosts' own cores, or works only while
//! the host asks after it, nothing overlaps: the maximum is a sum. A step is what it is without the sum, `C`, and the sum; where
//! a share `e` of the gradient is on its way during the last part of the backward pass, from `f·C` on,
//!
//! ```text
//! step = max(C, f·C + e·sum(G)) + (1 − e)·sum(G)
//! ```

/// The largest piece of a sum, in bytes, as in `World::sum`.
fn piece(ranks: f64) -> f64 {
    (4.0 * 1024.0 * 1024.0f64).max(ranks * 512.0 * 1024.0)
}

/// Time as a function of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    /// In seconds.
    pub fixed: f64,
    /// In seconds.
    pub per_byte: f64,
}

impl Line {
    pub fn per_byte(per_byte: f64) -> Line {
        let fixed = 0.0;
        Line { fixed, per_byte }
    }

    pub fn at(self, bytes: f64) -> f64 {
        self.fixed + self.per_byte * bytes
    }

    /// The line whose relative errors at these points have the least squares, with nothing below zero.
    pub fn fit(points: &[[f64; 2]]) -> Line {
        let [mut w, mut x, mut y, mut xx, mut xy] = [0.0; 5];
        for [bytes, time] in points {
            let weight = time.powi(-2);
            w += weight;
            x += weight * bytes;
            y += weight * time;
            xx += weight * bytes * bytes;
            xy += weight * bytes * time;
        }
        let per_byte = ((w * xy - x * y) / (w * xx - x * x)).max(0.0);
        let fixed = (y - per_byte * x) / w;
        match fixed < 0.0 {
            true => Line::per_byte(xy / xx),
            false => Line { fixed, per_byte },
        }
    }
}

/// What moves gradients of one element type.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// By bytes of `f32`, as the next two.
    pub read_back: Line,
    pub addition: Line,
    pub upload: Line,
    /// Of a message.
    pub latency: f64,
    /// Of a byte that travels.
    pub per_byte: f64,
    /// Bytes of a number that travels.
    pub width: f64,
    /// Whether the network works by itself.
    pub overlaps: bool,
}

impl Rates {
    /// A piece's all-to-all and all-gather.
    pub fn network(&self, ranks: f64, bytes: f64) -> f64 {
        let travelling = bytes * self.width / 4.0;
        2.0 * (ranks - 1.0) * (self.latency + travelling / ranks * self.per_byte)
    }

    /// A whole sum of so many bytes of `f32`.
    pub fn sum(&self, ranks: f64, bytes: f64) -> f64 {
        if ranks == 1.0 {
            return 0.0;
        }
        let pieces = (bytes / piece(ranks)).ceil();
        let piece = bytes / pieces;
        let network = self.network(ranks, piece);
        let copies = self.read_back.at(piece) + self.upload.at(piece);
        let addition = self.addition.at(piece);
        match self.overlaps {
            true => pieces * (network.max(copies) + addition) + copies + network / 2.0,
            false => pieces * (network + copies + addition),
        }
    }
}

/// Parameters of GPT-2 small.
const PARAMETERS: f64 = 124_439_808.0;

/// Steps between averages that move parameters and both moments.
const SYNC_EVERY: f64 = 50.0;

/// Machines that nobody has run this on: a name, the ranks, the network's bytes a second and a message's latency. In one
/// machine it is shared memory, as fast as here; 25 Gbit/s are taken to carry nine tenths of that.
const MACHINES: [(&str, f64, f64, f64); 2] = [
    ("8 H100s in one machine", 8.0, 5e9, 2e-6),
    (
        "64 machines with an H100 each, 25 Gbit/s",
        64.0,
        2.8e9,
        20e-6,
    ),
];

/// A step of GPT-2 small on 4 × 1,024 tokens a rank: measured in `f32`, predicted in mixed precision. Then what numbers travel
/// as, and what it takes to read back, add up and upload a MiB, as measured on two ranks here. A GPU's own copies are among
/// that: 0.02 ms/MiB over PCIe 5.0 × 16, where a software device takes more of a core.
const STEPS: [(&str, f64, f64, [f64; 3]); 3] = [
    ("f32, gradients as f32", 0.107, 4.0, FLOATS),
    ("mixed, gradients as f32", 0.052, 4.0, FLOATS),
    ("mixed, gradients as f16", 0.052, 2.0, HALVES),
];
const FLOATS: [f64; 3] = [0.10e-3, 0.03e-3, 0.09e-3];
const HALVES: [f64; 3] = [0.105e-3, 0.066e-3, 0.12e-3];

/// What share of its gradient is on its way during the backward pass, that of the blocks; and how much of the step is over when
/// the first third of that is final: the forward pass, and the gradients of the head, a third of all operations, and of four
/// blocks of twelve.
const EARLY: [f64; 2] = [0.66, 0.7];

/// Prints what the model says of machines that are not here.
pub fn print_predictions() {
    println!(
        "\nPredicted, GPT-2 small, 4 × 1,024 tokens a rank: ms a step and the speed over one rank; if nothing overlaps, if the \
         network works by itself, if two thirds of the sum also begin during the backward pass; and every 50 steps only"
    );
    for (name, ranks, network, latency) in MACHINES {
        for (precision, compute, width, host) in STEPS {
            let [read_back, addition, upload] =
                host.map(|per_mib| Line::per_byte(per_mib / f64::from(1 << 20)));
            let rates = Rates {
                read_back,
                addition,
                upload,
                latency,
                per_byte: 1.0 / network,
                width,
                overlaps: false,
            };
            let sum = |overlaps| Rates { overlaps, ..rates }.sum(ranks, 4.0 * PARAMETERS);
            let [early, from] = EARLY;
            let during = (from * compute + early * sum(true)).max(compute);
            let steps = [
                compute + sum(false),
                compute + sum(true),
                during + (1.0 - early) * sum(true),
                compute + 3.0 * sum(false) / SYNC_EVERY,
            ];
            let steps =
                steps.map(|step| format!("{:4.0} (× {:.1})", 1e3 * step, ranks * compute / step));
            println!("  {name}, {precision}: {}", steps.join(", "));
        }
    }
}
