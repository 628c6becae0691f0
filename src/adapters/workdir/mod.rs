//! Workdirs and output files on the local disk: the ports `Workdirs` and `OutputStore`.
//!
//! In: an attempt and what its workdir is filled with; paths that a caller asks for. Out: prepared directories,
//! lists, file pieces, diffs, patches, a branch, stored output.
//!
//! Everything in a workdir is hostile once a worker ran there, so two rules hold in this folder:
//! - git never looks at a workdir after a worker may have been in it. [`walk`] reads the tree without following a link,
//!   [`import`] hands the bytes to `git fast-import` in a bare repository of ours, [`compare`] compares two trees there.
//! - a path given from outside is opened component by component ([`confined`]) and never through a link.
//!
//! Where things lie (see `docs/design/workdirs.md`): `<root>/<task>/<attempt>/work` is the workdir, `<root>/<task>/instance`
//! says whose it is;
//! `<store>/<task>/<attempt>/` holds `repo.git`, `state.json` and `changes.patch`.

mod blocking;
mod clone;
mod compare;
mod confined;
mod copy;
mod git;
mod import;
mod layout;
mod listing;
mod local;
mod manifest;
mod names;
mod output;
mod owner;
mod prepare;
mod reading;
mod remove;
mod settings;
mod source;
mod text;
mod usage;
mod walk;

pub use local::LocalWorkdirs;
pub(in crate::adapters) use names::{components, refused, show};
pub use output::LocalOutput;
pub use owner::{marked_workdirs, remove_marked};
pub(in crate::adapters) use reading::content_of;
pub(in crate::adapters) use remove::remove_all;
pub use settings::{WorkdirLimits, WorkdirSettings};
pub(in crate::adapters) use usage::{Usage, used};
