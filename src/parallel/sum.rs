//! Sums of device tensors over all ranks.
//!
//! The elements of all tensors, in order, are cut into pieces. Of each piece every rank owns a share: it receives the others'
//! parts of that share (an all-to-all), adds them up in the order of ranks, and hands the sums to all (an all-gather). That
//! is the traffic of a ring, 2·(n − 1)/n of the bytes in and out of each of n ranks, and no element is added up twice: all
//! ranks get the same bits whatever MPI does. While the network works on a piece, the device copies the next ones to where
//! the host reads them, and takes in those before.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use half::f16;
use half::slice::HalfFloatSliceExt;
use mpi::collective::CommunicatorCollectives;
use mpi::request::scope;

use super::times::SumTimes;
use super::world::World;
use crate::error::Result;
use crate::gpu::readback::{Readback, Ring};
use crate::gpu::{DType, Device, Tensor};
use crate::tape::Tape;

/// Elements of a piece, at least.
const PIECE: usize = 1 << 20;

/// Elements of each rank's share of a piece, about, at least: messages of half a MiB take longer than their latency.
const SHARE: usize = 1 << 17;

/// Pieces whose copies for the host are under way.
const AHEAD: usize = 2;

/// Elements that are added up at a time, so that they stay in the cache.
const BLOCK: usize = 4096;

/// How numbers travel.
trait Number: bytemuck::Pod {
    fn narrowed(from: &[f32], to: &mut [Self]);
    fn widened(from: &[Self], to: &mut [f32]);

    /// The same, in `room` if they aren't such numbers as they are.
    fn floats<'n>(from: &'n [Self], room: &'n mut [f32]) -> &'n [f32] {
        Self::widened(from, room);
        room
    }
}

impl Number for f32 {
    fn narrowed(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn widened(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn floats<'n>(from: &'n [f32], _room: &'n mut [f32]) -> &'n [f32] {
        from
    }
}

impl Number for f16 {
    fn narrowed(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }

    fn widened(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

/// What is kept from sum to sum.
struct Buffers {
    device: Device,
    /// For pieces of so many elements.
    capacity: usize,
    /// Where the device copies pieces to.
    ring: Ring,
    // As words, however numbers travel: a multiple of the number of ranks.
    /// Of this piece and the next.
    sent: [Vec<u32>; 2],
    /// Of all ranks, this one's share.
    received: Vec<u32>,
    /// This one's share.
    sums: Vec<u32>,
    /// Sums of all shares, of this piece and the one before.
    gathered: [Vec<u32>; 2],
    floats: Vec<f32>,
}

/// Some of all elements.
struct Piece {
    parts: Vec<Tensor>,
    elements: usize,
}

impl World {
    /// Adds up each element of the tensors over all ranks, in their place: in the order of ranks, so that all get the same
    /// bits every time. The tensors have the same shapes on all ranks, and what writes them has been submitted.
    ///
    /// Numbers travel as `dtype` says. As `F16` they take half the time on the network; they are rounded on their way to
    /// whoever adds them up, which is done in `f32`, and once more on their way back. Beyond 65,504 they are infinite then.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), [`Error::OutOfMemory`](crate::Error::OutOfMemory). The other ranks are waiting then: [`World::abort`] ends
    /// them.
    ///
    /// # Panics
    ///
    /// If there is no tensor, one is not `F32`, they are on several devices, or `dtype` is neither `F32` nor `F16`.
    #[track_caller]
    pub fn sum<'t>(
        &self,
        tensors: impl IntoIterator<Item = &'t Tensor>,
        dtype: DType,
    ) -> Result<()> {
        self.sum_after(None, tensors, dtype)
    }

    /// Runs a tape and adds up what it writes, as [`Tape::run`] and [`World::sum`] one after the other do, to the same bits.
    /// The tape is submitted in a few parts here, and the elements that have their final values by then are on their way
    /// while the device goes on: in a model's backward pass, the gradients of its last layers first. For that, the host keeps
    /// buffers as large as these.
    ///
    /// # Errors
    ///
    /// As both.
    ///
    /// # Panics
    ///
    /// As [`World::sum`].
    #[track_caller]
    pub fn run_and_sum<'t>(
        &self,
        tape: Tape,
        tensors: impl IntoIterator<Item = &'t Tensor>,
        dtype: DType,
    ) -> Result<()> {
        self.sum_after(Some(tape), tensors, dtype)
    }

    #[track_caller]
    fn sum_after<'t>(
        &self,
        tape: Option<Tape>,
        tensors: impl IntoIterator<Item = &'t Tensor>,
        dtype: DType,
    ) -> Result<()> {
        let tensors: Vec<&Tensor> = tensors.into_iter().collect();
        for tensor in &tensors {
            assert!(
                tensor.dtype() == DType::F32 && tensor.device().is(tensors[0].device()),
                "sum: tensors must be F32 and on one device"
            );
        }
        assert!(!tensors.is_empty(), "sum: there is nothing to add up");
        assert!(
            matches!(dtype, DType::F32 | DType::F16),
            "sum: numbers travel as F32 or F16, not {dtype:?}"
        );
        if self.size() == 1 {
            return tape.map_or(Ok(()), Tape::run);
        }
        let pieces = pieces(&tensors, PIECE.max(SHARE * self.size()));
        let largest = pieces.iter().map(|piece| piece.elements).max();
        let device = tensors[0].device();
        let mut kept = self.buffers.borrow_mut();
        let earlier: Option<Box<Buffers>> = kept.take().and_then(|buffers| buffers.downcast().ok());
        let mut buffers = match earlier {
            Some(buffers) if buffers.device.is(device) && largest <= Some(buffers.capacity) => {
                buffers
            }
            _ => Box::new(Buffers::new(device, largest.unwrap_or(0), self.size())?),
        };
        let parts: Vec<&[Tensor]> = pieces.iter().map(|piece| &piece.parts[..]).collect();
        let copies = tape.map_or(Ok(Vec::new()), |tape| {
            tape.run_in_parts(&buffers.ring, &parts)
        })?;
        match dtype {
            DType::F16 => self.sum_pieces::<f16>(&pieces, copies, &mut buffers)?,
            _ => self.sum_pieces::<f32>(&pieces, copies, &mut buffers)?,
        }
        *kept = Some(buffers);
        Ok(())
    }

    /// What all sums since this world began have moved, and the time they have taken.
    pub fn sum_times(&self) -> SumTimes {
        self.sum_times.get()
    }

    /// `copies` of the first pieces are under way.
    fn sum_pieces<N: Number>(
        &self,
        pieces: &[Piece],
        copies: Vec<Readback>,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let Buffers {
            device,
            ring,
            sent,
            received,
            sums,
            gathered,
            floats,
            ..
        } = buffers;
        let ranks = self.size();
        let share = |piece: usize| pieces[piece].elements.div_ceil(ranks);
        let (count, mut asked) = (pieces.len(), copies.len());
        let mut copies = VecDeque::from(copies);
        // Puts a piece into what is sent, and asks for those that come after it.
        let mut fill = |piece: usize, to: &mut Vec<u32>| {
            while asked < count.min(piece + 1 + AHEAD) {
                copies.push_back(Tensor::read_back_all(device, ring, &pieces[asked].parts)?);
                asked += 1;
            }
            let copy = copies.pop_front().expect("asked for above");
            copy.wait_for(|bytes| {
                let values: &[f32] = &bytemuck::cast_slice(bytes)[..pieces[piece].elements];
                let to: &mut [N] = bytemuck::cast_slice_mut(to);
                N::narrowed(values, &mut to[..values.len()]);
                to[values.len()..ranks * share(piece)].fill(N::zeroed());
            })?;
            ring.give_back(copy);
            Ok(())
        };
        let mut times = self.sum_times.get();
        let mut last = Instant::now();
        let mut lap = || {
            let now = Instant::now();
            now - std::mem::replace(&mut last, now)
        };
        fill(0, &mut sent[0])?;
        times.read_back += lap();
        // In turn `now`: piece `now` goes to whom its shares belong to, the sums of the one before to all, and those of the
        // one before that to the device.
        for now in 0..count + 2 {
            let (before, next) = (now.wrapping_sub(1), now + 1);
            let (sending, filling) = in_turn(sent, now);
            let (gathering, loading) = in_turn(gathered, now);
            let outcome = scope(|scope| {
                let scattered = (now < count).then(|| {
                    let all = 0..ranks * share(now);
                    self.comm.immediate_all_to_all_into(
                        scope,
                        bytes::<N>(sending, all.clone()),
                        bytes_mut::<N>(received, all),
                    )
                });
                let handed_round = (before < count).then(|| {
                    self.comm.immediate_all_gather_into(
                        scope,
                        bytes::<N>(sums, 0..share(before)),
                        bytes_mut::<N>(gathering, 0..ranks * share(before)),
                    )
                });
                let mut outcome = Ok(());
                if now >= 2 {
                    let loading = bytemuck::cast_slice(loading);
                    outcome = load::<N>(&pieces[now - 2], loading, floats);
                }
                times.upload += lap();
                if next < count {
                    outcome = outcome.and_then(|()| fill(next, filling));
                }
                times.read_back += lap();
                let mut wait = self.wait("a sum over all ranks");
                for request in [scattered].into_iter().flatten().chain(handed_round) {
                    wait.complete(request);
                }
                times.network += lap();
                outcome
            });
            outcome?;
            if now < count {
                let share = share(now);
                let received: &[N] = bytemuck::cast_slice(received);
                let sums: &mut [N] = bytemuck::cast_slice_mut(sums);
                add::<N>(&received[..ranks * share], &mut sums[..share]);
                times.bytes += 4 * pieces[now].elements as u64;
                times.sent += (2 * (ranks - 1) * share * size_of::<N>()) as u64;
                times.addition += lap();
            }
        }
        self.sum_times.set(times);
        Ok(())
    }
}

/// Which of two buffers has its turn in a round, and the other.
fn in_turn<T>([even, odd]: &mut [T; 2], round: usize) -> (&mut T, &mut T) {
    match round % 2 {
        0 => (even, odd),
        _ => (odd, even),
    }
}

impl Buffers {
    fn new(device: &Device, capacity: usize, ranks: usize) -> Result<Buffers> {
        let share = capacity.div_ceil(ranks);
        let all = || vec![0; ranks * share];
        Ok(Buffers {
            device: device.clone(),
            capacity,
            ring: Ring::new(device, 4 * capacity as u64)?,
            sent: [all(), all()],
            received: all(),
            sums: vec![0; share],
            gathered: [all(), all()],
            floats: vec![0.0; capacity],
        })
    }
}

/// Cuts all elements into pieces of `most`. Those at the end come first: a backward pass ends with a model's first parameters.
fn pieces(tensors: &[&Tensor], most: usize) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for tensor in tensors {
        let (mut from, elements) = (0, tensor.shape().elements());
        while from < elements {
            let piece = match pieces.last_mut() {
                Some(last) if last.elements < most => last,
                _ => {
                    pieces.push(Piece {
                        parts: Vec::new(),
                        elements: 0,
                    });
                    pieces.last_mut().expect("pushed above")
                }
            };
            let taken = (most - piece.elements).min(elements - from);
            piece.parts.push(tensor.part(from, [taken]));
            piece.elements += taken;
            from += taken;
        }
    }
    pieces.reverse();
    pieces
}

/// Adds up this rank's share of a piece, of which `received` has one from each rank.
fn add<N: Number>(received: &[N], sums: &mut [N]) {
    let share = sums.len();
    let (mut total, mut more) = ([0.0; BLOCK], [0.0; BLOCK]);
    for (block, sums) in sums.chunks_mut(BLOCK).enumerate() {
        let length = sums.len();
        let (total, more) = (&mut total[..length], &mut more[..length]);
        for (rank, of_rank) in received.chunks_exact(share).enumerate() {
            let values = &of_rank[block * BLOCK..][..length];
            if rank == 0 {
                N::widened(values, total);
                continue;
            }
            N::widened(values, more);
            for (total, more) in total.iter_mut().zip(&*more) {
                *total += *more;
            }
        }
        N::narrowed(total, sums);
    }
}

/// Puts the sums of a piece where its parts lie.
fn load<N: Number>(piece: &Piece, sums: &[N], floats: &mut [f32]) -> Result<()> {
    let floats = N::floats(&sums[..piece.elements], &mut floats[..piece.elements]);
    let mut from = 0;
    for part in &piece.parts {
        let end = from + part.shape().elements();
        part.write(&floats[from..end])?;
        from = end;
    }
    Ok(())
}

/// Some numbers, as MPI takes them.
fn bytes<N: Number>(words: &[u32], range: Range<usize>) -> &[u8] {
    bytemuck::cast_slice(&bytemuck::cast_slice::<u32, N>(words)[range])
}

fn bytes_mut<N: Number>(words: &mut [u32], range: Range<usize>) -> &mut [u8] {
    bytemuck::cast_slice_mut(&mut bytemuck::cast_slice_mut::<u32, N>(words)[range])
}
