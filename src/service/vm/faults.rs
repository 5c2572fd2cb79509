//! Failures on purpose, for tests that hold creation to its undo. In a release build there are none.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::error::{Error, Kind, Result};

/// Which step fails, by the name of the VM.
static PLANNED: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// Lets the creation of the VM `vm` fail at `step`, once. Steps are `volume-0`, `volume-1`, …,
/// `content` (what cloud-init or Ignition reads is to be written into its new volume), `define`,
/// `autostart`, `start` and `end`; each fails before its work is done.
pub fn fail_at(vm: &str, step: &str) {
    PLANNED.lock().unwrap_or_else(PoisonError::into_inner).insert(vm.to_owned(), step.to_owned());
}

/// Fails if it was planned to.
pub(super) fn point(vm: &str, step: &str) -> Result<()> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    let mut planned = PLANNED.lock().unwrap_or_else(PoisonError::into_inner);
    if planned.get(vm).is_none_or(|wanted| wanted != step) {
        return Ok(());
    }
    planned.remove(vm);
    Err(Error::new(Kind::LibvirtRefused, format!("the step {step} of VM {vm:?} failed on purpose")))
}
