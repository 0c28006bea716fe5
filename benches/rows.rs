//! Kernels that work row by row: softmax and the norms.

use crate::harness::{Session, Size};

pub fn benches(session: &mut Session) {
    let scale = if session.is_large() { 16 } else { 1 };
    for (rows, columns) in [(4096, 64), (2048, 256), (512, 1024), (64, 8192)] {
        let size = if columns == 64 {
            Size::Tiny
        } else {
            Size::Small
        };
        let rows = scale * rows;
        let id = format!("softmax/{rows}x{columns}");
        session.differentiable(size, &id, [&[rows, columns]], |[x]| x.softmax());
    }
    for (rows, columns) in [(512, 32), (512, 64), (1024, 384), (1024, 768)] {
        let size = if columns == 32 {
            Size::Tiny
        } else {
            Size::Small
        };
        let rows = if columns > 64 { scale * rows } else { rows };
        let (x, weight): (&[usize], &[usize]) = (&[rows, columns], &[columns]);
        let id = format!("layer_norm/{rows}x{columns}");
        session.differentiable(size, &id, [x, weight, weight], |[x, weight, bias]| {
            x.layer_norm(weight, Some(bias), 1e-5)
        });
        let id = format!("rms_norm/{rows}x{columns}");
        session.differentiable(size, &id, [x, weight], |[x, weight]| {
            x.rms_norm(weight, 1e-6)
        });
    }
}
