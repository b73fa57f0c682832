// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's monitor protocol: one JSON object a line, answers to commands between events.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::error::{Doing, Error, Result};

/// Longest time for QEMU to answer a command. It answers at once what needs the guest's help.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to the monitor of one QEMU, which serves one at a time.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// A line of which the rest has not come.
    partial: Vec<u8>,
    events: VecDeque<Event>,
}

/// Something that QEMU told without being asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `DEVICE_DELETED`.
    pub name: String,
    /// What belongs to it.
    pub data: Value,
}

impl Qmp {
    /// Connects and leaves the mode in which only capabilities are negotiated.
    ///
    /// # Errors
    /// When nothing serves the socket, or what serves it is not QEMU.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).at("connect to", path)?;
        Self::over(stream)
    }

    fn over(stream: UnixStream) -> Result<Self> {
        let mut qmp =
            Self { stream: BufReader::new(stream), partial: Vec::new(), events: VecDeque::new() };
        let until = Instant::now() + ANSWER;
        let greeting = qmp.object(until)?.ok_or_else(|| Self::late("its greeting"))?;
        if !greeting.contains_key("QMP") {
            return Err(unread("no greeting", Value::Object(greeting)));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns what QEMU answers.
    ///
    /// # Errors
    /// When QEMU refuses it, answers late, or is gone.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        sent.doing(|| format!("send {command} to QEMU"))?;
        let until = Instant::now() + ANSWER;
        loop {
            let object = self.object(until)?.ok_or_else(|| Self::late(command))?;
            if let Some(answer) = object.get("return") {
                return Ok(answer.clone());
            }
            if let Some(error) = object.get("error") {
                let why = error["desc"].as_str().unwrap_or("without a reason");
                return Err(Error::unfit(
                    format!("QEMU refuses {command} with {arguments}: {why}"),
                    "See the machine's hardware.",
                ));
            }
            self.note(object);
        }
    }

    /// The next event that `wanted` accepts, which may have come before the call; `None` if none
    /// came within `limit`. Events before it that nobody wants are dropped.
    ///
    /// # Errors
    /// When QEMU is gone.
    pub fn event(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Option<Event>> {
        let until = Instant::now() + limit;
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(Some(event));
                }
            }
            match self.object(until)? {
                Some(object) => self.note(object),
                None => return Ok(None),
            }
        }
    }

    fn note(&mut self, mut object: Map<String, Value>) {
        let data = object.remove("data").unwrap_or_default();
        if let Some(name) = object.get("event").and_then(Value::as_str) {
            self.events.push_back(Event { name: name.into(), data });
        }
    }

    /// The next object, or `None` if none came in time.
    fn object(&mut self, until: Instant) -> Result<Option<Map<String, Value>>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Zero would mean to wait for ever.
            let wait = left.max(Duration::from_millis(1));
            self.stream.get_ref().set_read_timeout(Some(wait)).doing(|| "wait for QEMU".into())?;
            // What was read before the time is out stays in `partial`.
            match self.stream.read_until(b'\n', &mut self.partial) {
                Ok(0) => {
                    let gone = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(gone).doing(|| "hear from QEMU's monitor".into());
                }
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    let text = String::from_utf8_lossy(&line).into_owned();
                    return match serde_json::from_str(&text) {
                        Ok(Value::Object(object)) => Ok(Some(object)),
                        _ => Err(unread("not an object", Value::String(text))),
                    };
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).doing(|| "hear from QEMU's monitor".into()),
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    fn late(what: &str) -> Error {
        Error::unfit(
            format!("QEMU did not answer {what} within {ANSWER:?}"),
            "See the log of QEMU and the load of this machine.",
        )
    }
}

fn unread(what: &str, text: Value) -> Error {
    Error::Unread { program: "QEMU's monitor".into(), what: what.into(), output: text.to_string() }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A monitor that greets, accepts the capabilities and then says `lines`, each after a command.
    fn monitor(lines: &'static [&'static str]) -> (Qmp, thread::JoinHandle<Vec<Value>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || {
            let mut heard = Vec::new();
            let mut stream = BufReader::new(theirs);
            stream.get_mut().write_all(b"{\"QMP\": {}}\r\n").unwrap();
            for answer in ["{\"return\": {}}\n"].iter().chain(lines) {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                heard.push(serde_json::from_str(&line).unwrap());
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        (Qmp::over(ours).unwrap(), serving)
    }

    #[test]
    fn events_may_come_before_and_after_the_answer() {
        let (mut qmp, serving) = monitor(&["{\"event\": \"STOP\", \"data\": {\"n\": 1}}\n\
             {\"return\": [7]}\n{\"event\": \"RESUME\"}\n{\"event\": \"STOP\", \"data\": {\"n\": 2}}\n"]);
        assert_eq!(qmp.execute("query-it", json!({ "id": "a" })).unwrap(), json!([7]));
        let stop = |event: &Event| event.name == "STOP";
        let limit = Duration::from_secs(20);
        assert_eq!(qmp.event(limit, stop).unwrap().unwrap().data, json!({ "n": 1 }));
        assert_eq!(qmp.event(limit, stop).unwrap().unwrap().data, json!({ "n": 2 }));
        let heard = serving.join().unwrap();
        assert_eq!(heard[1], json!({ "execute": "query-it", "arguments": { "id": "a" } }));
        // The other end is closed now.
        assert!(qmp.event(limit, stop).is_err());
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let (mut qmp, _serving) = monitor(&[
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such socket\"}}\n",
        ]);
        let error = qmp.execute("device_add", json!({ "id": "dimm" })).unwrap_err().to_string();
        assert!(error.contains("device_add") && error.contains("no such socket"), "{error}");
    }

    #[test]
    fn a_line_may_come_in_parts() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut qmp =
            Qmp { stream: BufReader::new(ours), partial: Vec::new(), events: VecDeque::new() };
        theirs.write_all(b"{\"event\": \"RE").unwrap();
        assert_eq!(qmp.event(Duration::from_millis(5), |_| true).unwrap(), None);
        theirs.write_all(b"SET\"}\n").unwrap();
        let event = qmp.event(Duration::from_secs(20), |_| true).unwrap().unwrap();
        assert_eq!(event.name, "RESET");
    }
}
