//! Kernels that work row by row: softmax and the norms.

use crate::harness::{Session, Size};

pub fn benches(session: &mut Session) {
    // GPUs take the smaller of two sizes in little more time than it takes to start a kernel.
    let scales: &[usize] = if session.is_large() { &[16, 64] } else { &[1] };
    for &scale in scales {
        for (rows, columns) in [(4096, 64), (2048, 256), (512, 1024), (64, 8192)] {
            softmax(session, scale * rows, columns);
        }
    }
    for (rows, columns) in [(512, 32), (512, 64)] {
        norms(session, rows, columns);
    }
    for &scale in scales {
        for columns in [384, 768] {
            norms(session, scale * 1024, columns);
        }
    }
}

fn softmax(session: &mut Session, rows: usize, columns: usize) {
    let size = if columns == 64 {
        Size::Tiny
    } else {
        Size::Small
    };
    let id = format!("softmax/{rows}x{columns}");
    session.differentiable(size, &id, [&[rows, columns]], |[x]| x.softmax());
}

fn norms(session: &mut Session, rows: usize, columns: usize) {
    let size = if columns == 32 {
        Size::Tiny
    } else {
        Size::Small
    };
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
