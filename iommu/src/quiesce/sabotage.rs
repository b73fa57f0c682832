// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps of the protocol that a build for testing the tests can leave out.
//!
//! A stress test that never fails says little. A build with `--cfg vnic_sabotage` in `RUSTFLAGS`
//! leaves out the step that `VNIC_SABOTAGE` names in its environment, and the stress must find that.
//! In any other build the question is a constant, and no step can be left out by any setting. The
//! configuration is no cargo feature, so that no dependency and no `--all-features` can switch it on,
//! and it refuses to compile without debug assertions, as in releases.

/// A step of the device's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(vnic_sabotage), allow(dead_code))] // reason: only such a build tells them apart
pub(crate) enum Step {
    /// The full fence D2 of a burst.
    ///
    /// Without it, nothing orders D1 against the loads of D3 and D4. How late a processor makes D1
    /// visible depends on its store buffer and on what else empties that; so that the fault does not
    /// hide behind a locked instruction that happens to be in between, D1 is then held back as long
    /// as x86 could at most: until the first bytes are about to be stored.
    Fence,
    /// The look at the generation, D3.
    Generation,
    /// That D5 comes after the accesses D4.
    LateLeave,
}

/// Whether this build leaves `step` out: never.
#[cfg(not(vnic_sabotage))]
#[inline]
pub(crate) const fn leaves_out(_step: Step) -> bool {
    false
}

#[cfg(all(vnic_sabotage, not(debug_assertions)))]
compile_error!("a sabotaged device writes to memory that is not its own: it is for tests only");

/// Whether this run leaves `step` out.
#[cfg(vnic_sabotage)]
#[inline]
pub(crate) fn leaves_out(step: Step) -> bool {
    use std::sync::LazyLock;
    static LEFT_OUT: LazyLock<Option<Step>> = LazyLock::new(|| {
        let asked = std::env::var("VNIC_SABOTAGE").ok()?;
        match asked.as_str() {
            "fence" => Some(Step::Fence),
            "generation" => Some(Step::Generation),
            "late-leave" => Some(Step::LateLeave),
            _ => panic!("VNIC_SABOTAGE={asked}: fence, generation or late-leave"),
        }
    });
    *LEFT_OUT == Some(step)
}

/// What this run leaves out, for whoever starts it to be told.
pub fn sabotage() -> Option<&'static str> {
    [(Step::Fence, "fence"), (Step::Generation, "generation"), (Step::LateLeave, "late-leave")]
        .into_iter()
        .find_map(|(step, name)| leaves_out(step).then_some(name))
}
