// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where in a guest a program runs: in one of its network namespaces.

use std::{fmt, time::Duration};

use super::{Command, Guest, Output};
use crate::error::Result;

/// A guest, and a network namespace in it. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Place {
    guest: Guest,
    /// As ip-netns(8) knows it; `None` is the one that the guest starts with.
    namespace: Option<String>,
}

impl Place {
    /// The namespace that the guest starts with.
    pub fn of(guest: &Guest) -> Self {
        Self { guest: guest.clone(), namespace: None }
    }

    /// A namespace that was made by `ip netns add`.
    pub fn in_namespace(guest: &Guest, name: impl Into<String>) -> Self {
        Self { guest: guest.clone(), namespace: Some(name.into()) }
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// As [`Guest::command`], at this place.
    pub fn command<I>(&self, argv: I) -> Command
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        // ip(8) becomes the program: process id and signals are the program's own.
        let enter = self.namespace.iter().flat_map(|name| ["ip", "netns", "exec", name]);
        let enter = enter.map(String::from);
        self.guest.command(enter.chain(argv.into_iter().map(Into::into)))
    }

    /// As [`Guest::shell`], at this place.
    pub fn shell(&self, line: impl Into<String>) -> Command {
        self.command(["/bin/sh".into(), "-c".into(), line.into()])
    }

    /// As [`Guest::run`], at this place.
    ///
    /// # Errors
    /// As [`Command::run`].
    pub fn run<I>(&self, argv: I, limit: Duration) -> Result<Output>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.command(argv).limit(limit).run()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest {}", self.guest.name())?;
        match &self.namespace {
            Some(name) => write!(f, ", network namespace {name}"),
            None => Ok(()),
        }
    }
}
