//! Independent dispatches that run as one, each as a part of its workgroups.
//!
//! A small dispatch costs as much as starting it: on software adapters, whose workgroups are dealt out to the threads
//! beforehand, as on GPUs, which wait for one dispatch to end before the next begins. So the gradients of a product's two
//! factors become one dispatch, and so do others that [allow it](Dispatch::fusable).

mod merge;

use super::dispatch::{Dispatch, Program, Slot, is_same_buffer};
use super::groups::MOST_BINDINGS;
use crate::gpu::kernel::Access;
use crate::gpu::{AdapterClass, Kernel};
use merge::Merged;

/// How far ahead a partner is looked for that could run earlier.
const REACH: usize = 4;

/// Dispatches that run as one, at most: each has a name.
const MOST: usize = merge::PARTS.len();

/// On GPUs, the most workgroups of those that run as one. More keep a large GPU busy by themselves, and one kernel for
/// all takes the registers of the largest.
const MOST_GROUPS: u32 = 512;

/// The most bytes of intermediate values that a dispatch may keep by waiting for a partner.
const MOST_KEPT: u64 = 256 << 10;

/// Puts the dispatches that [allow it](Dispatch::fusable) and do not depend on one another together.
pub(super) fn fuse(class: AdapterClass, program: &mut Program) {
    let dispatches = std::mem::take(&mut program.dispatches);
    let alone = |dispatch| Group {
        members: vec![dispatch],
        merged: None,
    };
    let mut waiting: Vec<_> = dispatches.into_iter().map(alone).map(Some).collect();
    let cx = Context {
        class,
        slots: &program.slots,
    };
    for index in 0..waiting.len() {
        let Some(mut group) = waiting[index].take() else {
            continue;
        };
        if let Some((at, merged)) = cx.earlier(&group, &waiting, index) {
            let partner = waiting[at].take().expect("partners are waiting");
            group = group.with(partner, merged);
        } else if let Some((at, merged)) = cx.later(&group, &waiting, index) {
            let partner = waiting[at].take().expect("partners are waiting");
            waiting[at] = Some(group.with(partner, merged));
            continue;
        }
        program.dispatches.push(group.dispatch());
    }
}

/// Dispatches that run as one, and their kernel if there are several.
struct Group {
    members: Vec<Dispatch>,
    merged: Option<Merged>,
}

impl Group {
    fn with(mut self, other: Group, merged: Merged) -> Group {
        self.members.extend(other.members);
        self.merged = Some(merged);
        self
    }

    fn dispatch(mut self) -> Dispatch {
        let Some(merged) = self.merged else {
            return self.members.remove(0);
        };
        let (name, _) = self.members[0].fusable_as.expect("members allow it");
        // Where each part's workgroups end, then the parts' parameters.
        let mut params = Vec::new();
        let mut end = 0;
        for member in &self.members {
            end += groups(member);
            params.push(end);
        }
        params.resize(4, end);
        for member in &self.members {
            params.extend(&member.params);
            params.resize(params.len().next_multiple_of(4), 0);
        }
        let sum = |part: fn(&Dispatch) -> u64| self.members.iter().map(part).sum();
        let mut dispatch = Dispatch::new(Kernel::generated(name, &merged.source, merge::ENTRY))
            .params(&params)
            .groups(end as usize)
            .cost(sum(|it| it.cost.flops), sum(|it| it.cost.bytes));
        dispatch.bindings = merged.bindings;
        // Each workgroup is one of a member's.
        let iterations = self.members.iter().map(|member| member.iterations);
        dispatch.iterations = iterations.max().flatten();
        dispatch
    }
}

fn groups(dispatch: &Dispatch) -> u32 {
    dispatch.grid.iter().product()
}

/// What the search needs to know.
struct Context<'a> {
    class: AdapterClass,
    slots: &'a [Slot],
}

impl Context<'_> {
    /// The next one that may run beside `group`, ahead of everything between them.
    fn earlier(
        &self,
        group: &Group,
        waiting: &[Option<Group>],
        index: usize,
    ) -> Option<(usize, Merged)> {
        group.members[0].fusable_as?;
        let end = waiting.len().min(index + 1 + REACH);
        (index + 1..end).find_map(|at| {
            let other = waiting[at].as_ref()?;
            let mut between = waiting[index + 1..at].iter().flatten();
            let merged = self.together(group, other)?;
            let is_free = between.all(|earlier| !self.depend(earlier, other));
            is_free.then_some((at, merged))
        })
    }

    /// The next one that `group`, if it can wait, may run beside, behind everything between them.
    fn later(
        &self,
        group: &Group,
        waiting: &[Option<Group>],
        index: usize,
    ) -> Option<(usize, Merged)> {
        group.members[0]
            .fusable_as
            .filter(|_| self.is_deferrable(group))?;
        let others = waiting.iter().enumerate().skip(index + 1);
        let others = others.filter_map(|(at, other)| Some((at, other.as_ref()?)));
        let mut passed = others.take_while(|(_, other)| !self.depend(group, other));
        passed.find_map(|(at, other)| Some((at, self.together(group, other)?)))
    }

    /// Whether all members can, as far as memory is concerned too.
    fn is_deferrable(&self, group: &Group) -> bool {
        let bindings = group.members.iter().flat_map(|member| &member.bindings);
        let kept = bindings.map(|&(slot, access)| match self.slots[slot] {
            Slot::Transient { bytes } if access == Access::Read => bytes,
            _ => 0,
        });
        group.members.iter().all(|member| member.is_deferrable) && kept.sum::<u64>() <= MOST_KEPT
    }

    /// The kernel of all members, if they may run as one as far as they themselves are concerned.
    fn together(&self, one: &Group, other: &Group) -> Option<Merged> {
        let members = || one.members.iter().chain(&other.members);
        let is_small = match self.class {
            AdapterClass::Software => true,
            AdapterClass::Gpu => members().map(groups).sum::<u32>() <= MOST_GROUPS,
        };
        let most = if members().all(|member| member.is_deferrable) {
            MOST
        } else {
            2
        };
        // What they share they only write; see below.
        let are_apart = members().all(|member| member.disjoint_writes);
        let fits = one.members[0].fusable_as == other.members[0].fusable_as
            && is_small
            && members().count() <= most
            && (are_apart || !self.depend(one, other))
            && !self.conflict(one, other);
        let merged = fits.then(|| merge::merged(&members().collect::<Vec<_>>()))??;
        (merged.bindings.len() <= MOST_BINDINGS).then_some(merged)
    }

    /// Whether their order matters.
    fn depend(&self, one: &Group, other: &Group) -> bool {
        any_two(one, other, |(a, access_a), (b, access_b)| {
            (access_a == Access::Write || access_b == Access::Write)
                && self.overlap([a, b], |_, first| first)
        })
    }

    /// Whether one reads a buffer that the other writes to, if only elsewhere, or both write to it through bindings that
    /// overlap: one dispatch may not do that.
    fn conflict(&self, one: &Group, other: &Group) -> bool {
        any_two(one, other, |(a, access_a), (b, access_b)| {
            let is_written = access_a == Access::Write && a != b;
            access_a != access_b && is_same_buffer(self.slots, a, b)
                || is_written && self.overlap([a, b], |start, _| start)
        })
    }

    /// Whether two slots share bytes, from where `from` says that each begins: with its binding or with its elements.
    fn overlap(&self, slots: [usize; 2], from: impl Fn(u64, u64) -> u64) -> bool {
        let [one, other] = slots.map(|slot| match &self.slots[slot] {
            Slot::External {
                start,
                bytes,
                first,
                ..
            } => from(*start, *first)..*start + *bytes,
            _ => 0..u64::MAX,
        });
        let is_same = is_same_buffer(self.slots, slots[0], slots[1]);
        is_same && one.start < other.end && other.start < one.end
    }
}

fn any_two(
    one: &Group,
    other: &Group,
    test: impl Fn((usize, Access), (usize, Access)) -> bool,
) -> bool {
    let bindings = |group: &Group| -> Vec<(usize, Access)> {
        let members = group.members.iter();
        members.flat_map(|member| member.bindings.clone()).collect()
    };
    let others = bindings(other);
    let mut own = bindings(one).into_iter();
    own.any(|a| others.iter().any(|&b| test(a, b)))
}
