// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP over the loopback device and UNIX sockets, between two threads on the two cores.
//!
//! Timed messages are waited for by looking again and again, as the vNIC's client does; one row
//! shows what blocking costs, which is how most programs use sockets. Streams block.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{Effort, cores::Cores},
    Baseline, Found, Metric, ONE_WAY, SAMPLES, messages, streams, trips,
};
use crate::error::{Doing, Error, Result};

/// Nothing here takes this long.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes that a stream's receiver reads at once, at most.
const READ: usize = 1 << 20;

/// TCP over 127.0.0.1, without delays for the sake of larger packets.
pub struct Tcp;

/// UNIX sockets of streams.
pub struct Unix;

impl Baseline for Tcp {
    fn name(&self) -> &'static str {
        "TCP"
    }

    fn round(&mut self, cores: &Cores, effort: Effort) -> Result<Vec<Found>> {
        measure(cores, effort, || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            Ok((near, far))
        })
    }
}

impl Baseline for Unix {
    fn name(&self) -> &'static str {
        "UNIX socket"
    }

    fn round(&mut self, cores: &Cores, effort: Effort) -> Result<Vec<Found>> {
        measure(cores, effort, UnixStream::pair)
    }
}

/// What both kinds of sockets have.
trait Socket: Read + Write + Send {
    fn set_nonblocking(&self, on: bool) -> io::Result<()>;
    fn set_limit(&self, limit: Duration) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Self::set_nonblocking(self, on)
    }

    fn set_limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

impl Socket for UnixStream {
    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Self::set_nonblocking(self, on)
    }

    fn set_limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

/// How a thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Looking,
    Blocking,
}

fn measure<S: Socket>(
    cores: &Cores,
    effort: Effort,
    connect: impl Fn() -> io::Result<(S, S)>,
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let connect = || connect().doing(|| "connect two sockets".into());
    for bytes in ONE_WAY {
        let times = one_way(cores, connect()?, bytes, trips(effort, bytes), Waiting::Looking)?;
        found.push(Found::new(Metric::OneWay, bytes, times));
    }
    let smallest = ONE_WAY[0];
    let count = trips(effort, smallest).div_ceil(10);
    let times = one_way(cores, connect()?, smallest, count, Waiting::Blocking)?;
    found.push(Found { how: "blocking", ..Found::new(Metric::OneWay, smallest, times) });
    for bytes in streams(effort) {
        let rates = stream(cores, connect()?, bytes, messages(effort, bytes))?;
        found.push(Found::new(Metric::Stream, bytes, rates));
    }
    Ok(found)
}

/// Does `step`, which moves a part of `bytes`, until all are moved.
fn all(bytes: &mut [u8], mut step: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let mut done = 0;
    let mut since = None;
    while done < bytes.len() {
        match step(&mut bytes[done..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => (done, since) = (done + count, None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // A clock costs little beside a system call.
                if since.get_or_insert_with(Instant::now).elapsed() > LIMIT {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Nanoseconds of one way of a message of `bytes`, each the mean of `count` there and back.
fn one_way<S: Socket>(
    cores: &Cores,
    (mut near, mut far): (S, S),
    bytes: u64,
    count: u64,
    waiting: Waiting,
) -> Result<Vec<f64>> {
    for socket in [&near, &far] {
        socket.set_limit(LIMIT).doing(|| "set a time limit".into())?;
        let looking = waiting == Waiting::Looking;
        socket.set_nonblocking(looking).doing(|| "make a socket not block".into())?;
    }
    thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let _pinned = cores.worker()?;
            let mut buffer = vec![1; bytes as usize];
            for _ in 0..(SAMPLES as u64 + 1) * count {
                all(&mut buffer, |part| far.read(part)).doing(|| "read a message".into())?;
                all(&mut buffer, |part| far.write(part)).doing(|| "answer it".into())?;
            }
            Ok::<_, Error>(())
        });
        let _pinned = cores.client()?;
        let mut buffer = vec![1; bytes as usize];
        let mut trips = || {
            let since = Instant::now();
            for _ in 0..count {
                all(&mut buffer, |part| near.write(part)).doing(|| "write a message".into())?;
                all(&mut buffer, |part| near.read(part)).doing(|| "read its answer".into())?;
            }
            Ok(since.elapsed().as_nanos() as f64 / (2 * count) as f64)
        };
        // The first time the echo starts, and caches fill.
        trips()?;
        let times = (0..SAMPLES).map(|_| trips()).collect::<Result<_>>()?;
        echo.join().expect("the echo does not panic")?;
        Ok(times)
    })
}

/// Bytes per second, each of `count` messages of `bytes`, until the receiver has said that it has all.
fn stream<S: Socket>(
    cores: &Cores,
    (mut near, mut far): (S, S),
    bytes: u64,
    count: u64,
) -> Result<Vec<f64>> {
    for socket in [&near, &far] {
        socket.set_limit(LIMIT).doing(|| "set a time limit".into())?;
    }
    let total = bytes * count;
    thread::scope(|scope| {
        let sink = scope.spawn(move || {
            let _pinned = cores.worker()?;
            let mut buffer = vec![1; READ.min(bytes as usize)];
            for _ in 0..=SAMPLES {
                let mut left = total;
                while left > 0 {
                    let most = left.min(buffer.len() as u64) as usize;
                    let got = far.read(&mut buffer[..most]).doing(|| "read a stream".into())?;
                    if got == 0 {
                        return Err(Error::unfit("the stream ended early", "Look at its sender"));
                    }
                    left -= got as u64;
                }
                far.write_all(&[1]).doing(|| "say that a stream has ended".into())?;
            }
            Ok(())
        });
        let _pinned = cores.client()?;
        let buffer = vec![1; bytes as usize];
        let mut send = || {
            let since = Instant::now();
            for _ in 0..count {
                near.write_all(&buffer).doing(|| "write a stream".into())?;
            }
            near.read_exact(&mut [0]).doing(|| "wait for the end of a stream".into())?;
            Ok(total as f64 / since.elapsed().as_secs_f64())
        };
        // The first time the sink starts, and caches fill.
        send()?;
        let rates = (0..SAMPLES).map(|_| send()).collect::<Result<_>>()?;
        sink.join().expect("the sink does not panic")?;
        Ok(rates)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_measured_in_every_way() {
        let cores = Cores::choose().unwrap();
        let effort = Effort { operations: 10, ..Effort::QUICK };
        for mut kind in [Box::new(Tcp) as Box<dyn Baseline>, Box::new(Unix)] {
            let found = kind.round(&cores, effort).unwrap();
            assert_eq!(found.len(), ONE_WAY.len() + 1 + streams(effort).count());
            assert!(found.iter().flat_map(|found| &found.values).all(|value| *value > 0.0));
            assert!(found.iter().all(|found| found.values.len() == SAMPLES), "{found:?}");
        }
    }
}
