// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a program of the host with its output in a log, and shows the last line as progress.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use super::progress::Step;
use crate::{
    error::{Doing, Error, Result, tail},
    process::{cleanup, spawn},
};

/// Lines of output that an error repeats.
const TAIL: usize = 40;

/// Runs `command` to its end, appending all that it prints to `log`.
pub(crate) fn run(mut command: Command, doing: &str, log: &Path, step: &Step) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(log).at("open", log)?;
    let (reader, writer) = std::io::pipe().doing(|| "make a pipe".into())?;
    let second = writer.try_clone().doing(|| "copy a descriptor".into())?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    let program = command.get_program().to_string_lossy().into_owned();
    // `spawn` drops the command and with it our ends of the pipe, so that it ends with the program.
    let mut child = spawn(command).doing(|| format!("start {program}"))?;
    let _registered = cleanup::child(&child).doing(|| format!("watch {program}"))?;
    let mut text = String::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).doing(|| format!("read from {program}"))? > 0 {
        file.write_all(&line).at("write", log)?;
        let shown = String::from_utf8_lossy(&line);
        step.detail(shown.trim_end());
        text.push_str(&shown);
        line.clear();
    }
    let status = child.wait().doing(|| format!("wait for {program}"))?;
    if status.success() {
        return Ok(());
    }
    let tail = tail(&text, TAIL);
    Err(Error::Program { doing: doing.into(), status, tail, log: log.into() })
}
