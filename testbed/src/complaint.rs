// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a kernel says that something is wrong with it, in its log.

use crate::{
    error::{Error, Result},
    guest::Guest,
};

/// Parts of lines that no healthy kernel logs. Memory debugging says "BUG", too.
const COMPLAINTS: [&str; 24] = [
    "WARNING:",
    "BUG:",
    "BUG ",
    "Oops",
    "Call Trace:",
    "general protection fault",
    "refcount_t:",
    "possible circular locking",
    "possible recursive locking",
    "suspicious RCU usage",
    "blocked for more than",
    "unregister_netdevice: waiting",
    // Somebody wrote into a page that was free.
    "pagealloc: memory corruption",
    "pagealloc: single bit error",
    // Tables and counts of pages that do not agree.
    "Bad page map",
    "Bad page state",
    "Bad rss-counter",
    "bad pmd",
    "bad pud",
    "swap_info_get:",
    "list_add corruption",
    "list_del corruption",
    "Out of memory",
    "I/O error",
];

/// The lines of a kernel's log that are complaints.
pub fn complaints(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
}

/// Fails if the kernel of a guest has complained about anything.
///
/// # Errors
/// [`Error::Unfit`] with the first complaint; [`Error::Gone`] if the guest is.
pub fn kernel_is_content(guest: &Guest) -> Result<()> {
    match complaints(&guest.dmesg()?).next() {
        Some(line) => Err(Error::unfit(
            format!("the kernel of guest {} complained: {line}", guest.name()),
            "Its log tells more.",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found() {
        let log = "[    1.0] all well\n[    2.0] WARNING: CPU: 0 PID: 1 at x.c:1 x+0x1/0x2\n\
                   [    3.0] pagealloc: memory corruption\n[    4.0] debug: fine\n";
        let found = complaints(log).collect::<Vec<_>>();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("x.c:1") && found[1].contains("corruption"));
        assert_eq!(complaints("[    1.0] all well\n").next(), None);
    }
}
