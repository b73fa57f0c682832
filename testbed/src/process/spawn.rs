// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Starts children that die with this process.
//!
//! The kernel sends the parent-death signal when the *thread* that started the child ends, so all
//! children are started by one thread that lives as long as the process.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{Sender, channel},
    },
    thread,
};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

type Job = (Command, Sender<io::Result<Child>>);

/// Starts `command`; the kernel kills it when this process ends.
///
/// # Errors
/// Those of [`Command::spawn`].
pub fn spawn(mut command: Command) -> io::Result<Child> {
    die_with_parent(&mut command);
    static JOBS: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (jobs, queue) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in queue {
                // Whoever asked is waiting for the answer; if not, the child is dropped and reaped by no one.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = channel();
    let gone = || io::Error::other("the thread that starts processes has ended");
    jobs.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

#[allow(unsafe_code)] // `pre_exec` is the only way to set the parent-death signal of a child.
fn die_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs between fork and exec, and makes two system calls: it neither
    // allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = thread::spawn(move || spawn(command)).join().unwrap().unwrap();
        drop(child.stdin.take());
        // Killed by the parent-death signal, it would not end by itself with status 0.
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let error = spawn(Command::new("/no/such/program")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
