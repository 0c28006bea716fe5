//! Kernels' WGSL as a tree: modules of declarations in which every mention of another declaration is known.
//!
//! What a kernel is made of comes together here: files import one another (`import shadegrad::team;`), declarations take
//! the place of others of their name, and what the entry point doesn't need is left out. The planner transforms such trees:
//! `tape/plan/horizontal` and `tape/plan/uniform`. naga reads what comes of it, and is the judge of everything within a
//! function; what it says is about [a place](Module::place) in a file.

mod declaration;
mod module;
mod parse;

pub(crate) use declaration::{Declaration, Field, Kind, declared_type, workgroup_size};
pub(crate) use module::Module;
