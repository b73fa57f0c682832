// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is said of a machine that is not fit to measure on.

use anyhow::{Result, ensure};

/// Says every warning, or fails with them if they are to be errors.
pub fn before(warnings: &[String], strict: bool) -> Result<()> {
    ensure!(
        !strict || warnings.is_empty(),
        "this machine is not fit to measure on, and --strict allows nothing of this:\n  {}",
        warnings.join("\n  ")
    );
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// The same for what came up during the run, whose report is there already.
pub fn after(warnings: &[String], strict: bool) -> Result<()> {
    ensure!(
        !strict || warnings.is_empty(),
        "the figures are there, but --strict does not allow what happened meanwhile:\n  {}",
        warnings.join("\n  ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strictness_makes_errors_of_warnings() {
        let warnings = ["the machine is shared".to_string()];
        before(&warnings, false).unwrap();
        after(&warnings, false).unwrap();
        for error in [before(&warnings, true), after(&warnings, true)] {
            assert!(error.unwrap_err().to_string().contains("the machine is shared"));
        }
        before(&[], true).unwrap();
        after(&[], true).unwrap();
    }
}
