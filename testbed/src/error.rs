// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The error of the testbed: what was being done, why it failed, and what mends it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use vnic_guest_agent::message::Exit;

/// Result of a testbed function.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the testbed could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried, as a verb phrase.
        doing: String,
        /// The refusal.
        source: io::Error,
    },
    /// A program on the host failed.
    #[error("{doing} failed ({status}); the whole output is in {log}, which ends:\n{tail}", log = log.display())]
    Program {
        /// What was tried.
        doing: String,
        /// How the program ended.
        status: ExitStatus,
        /// The last lines of its output.
        tail: String,
        /// The file that holds all of them.
        log: PathBuf,
    },
    /// Something is not as it must be.
    #[error("{what}. {mend}")]
    Unfit {
        /// What is wrong.
        what: String,
        /// What the reader can do about it.
        mend: String,
    },
    /// The guest is gone, or its channel is.
    #[error("guest {guest} is gone while {doing}: {cause}. Its console ends:\n{console}")]
    Gone {
        /// Name of the guest.
        guest: String,
        /// What was being done.
        doing: String,
        /// What is known of the cause.
        cause: String,
        /// The end of its console log.
        console: String,
    },
    /// A command in a guest ran longer than it was allowed to, and was killed.
    #[error(
        "`{command}` in guest {guest} was killed after {limit:?}. So far it had printed:\n{output}"
    )]
    TimedOut {
        /// Name of the guest.
        guest: String,
        /// The command line.
        command: String,
        /// The time that it had.
        limit: Duration,
        /// What it printed.
        output: String,
    },
    /// A command in a guest ended other than by returning 0.
    #[error("`{command}` in guest {guest} failed ({exit}). It had printed:\n{output}")]
    Failed {
        /// Name of the guest.
        guest: String,
        /// The command line.
        command: String,
        /// How it ended.
        exit: Exit,
        /// What it printed.
        output: String,
    },
    /// The agent of a guest refused a request.
    #[error("guest {guest} cannot {doing}: {cause}")]
    Refused {
        /// Name of the guest.
        guest: String,
        /// What was asked of it.
        doing: String,
        /// Its reason.
        cause: String,
    },
    /// A program printed something that its parser does not know.
    #[error("cannot read the output of {program}: {what}. It printed:\n{output}")]
    Unread {
        /// The program.
        program: String,
        /// What is missing.
        what: String,
        /// All that it printed.
        output: String,
    },
}

impl Error {
    pub(crate) fn unfit(what: impl fmt::Display, mend: impl fmt::Display) -> Self {
        Self::Unfit { what: what.to_string(), mend: mend.to_string() }
    }

    /// Adds to what a command or a console printed, if this is about one.
    pub(crate) fn with_output(mut self, more: &str) -> Self {
        if let Self::TimedOut { output: said, .. }
        | Self::Failed { output: said, .. }
        | Self::Gone { console: said, .. } = &mut self
        {
            said.push('\n');
            said.push_str(more);
        }
        self
    }
}

/// Names what was being done when an I/O error came.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;

    fn at(self, verb: &str, path: &Path) -> Result<T>
    where
        Self: Sized,
    {
        self.doing(|| format!("{verb} {}", path.display()))
    }
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { doing: doing(), source: error.into() })
    }
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all = text.lines().collect::<Vec<_>>();
    all[all.len().saturating_sub(lines)..].join("\n")
}
