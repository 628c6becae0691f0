//! Chargehand's own git (not the worker's) at a gate that the test shuts and opens, so that whatever reads a result stands still
//! for as long as the test wants.
//!
//! In: [`HeldGit::programs`] for the product's `Setup`. Out: a shut gate holds every git that Chargehand starts from then on.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::harness_outside::until;

/// A `git` before the real one in the `PATH`.
pub(crate) struct HeldGit {
    programs: TempDir,
}

impl HeldGit {
    /// With the gate open.
    pub(crate) fn new() -> Self {
        let programs = tempfile::tempdir().unwrap();
        let git = programs.path().join("git");
        let held = Self { programs };
        let path = std::env::var("PATH").unwrap();
        let script = format!(
            "#!/bin/sh\n[ -n \"$CHARGEHAND_OWNER\" ] && PATH='{path}' exec git \"$@\"\n\
             if [ -e '{0}' ]; then echo \"$*\" >> '{1}'; fi\nwhile [ -e '{0}' ]; do sleep 0.05; done\nPATH='{path}' exec git \"$@\"\n",
            held.gate().display(),
            held.asked().display()
        );
        std::fs::write(&git, script).unwrap();
        std::fs::set_permissions(&git, std::fs::Permissions::from_mode(0o755)).unwrap();
        held
    }

    /// The directory of the program.
    pub(crate) fn programs(&self) -> PathBuf {
        self.programs.path().to_owned()
    }

    fn gate(&self) -> PathBuf {
        self.programs.path().join("shut")
    }

    fn asked(&self) -> PathBuf {
        self.programs.path().join("asked")
    }

    pub(crate) fn shut(&self) {
        std::fs::write(self.gate(), "").unwrap();
    }

    pub(crate) fn open(&self) {
        std::fs::remove_file(self.gate()).unwrap();
    }

    /// Waits until a git stands at the gate.
    pub(crate) async fn holds(&self) {
        let asked = self.asked();
        until("git was asked", || async { asked.exists().then_some(()) }).await;
    }
}
