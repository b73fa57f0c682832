// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What fuzzers call, one function for each input that somebody else controls. `cargo xtask fuzz` runs them with a
//! fuzzer that looks for new paths; the unit tests below run them with bytes of chance.
//!
//! | target | whose input | must hold |
//! |---|---|---|
//! | [`command`] | a guest's control queue | nothing panics, and no page outside RAM is taken |
//! | [`element`] | a guest's send queue | what is parsed lies in the element |
//! | [`frame`] | a peer daemon's relay | what is parsed is written as it came |
//! | [`word`] | a peer daemon's control connection | the same, and it does not grow |
//! | [`preamble`] | anybody who calls the wire's socket | the same |
//! | [`peer`](peer::run) | a peer daemon's relay, with guests behind it | bounds hold, each request ends once at most |
//! | [`pair`](pair::run) | chance: two honest daemons, with pages, receives and links that come and go | every byte arrives, once and in order |

mod guest;
pub mod pair;
pub mod peer;

use crate::ctrl;
use crate::engine::request::{LocalBytes, SendRequest};
use crate::ring::sq::Element;
use crate::wire::frame::{Answer, Frame, HEADER, What};
use crate::wire::hello::Word;
use crate::wire::secure::Preamble;
use vnic_iommu::addr::{Gpa, PAGE_SIZE};

/// Bytes that say what happens next, until there are no more.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    /// The next byte.
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte, or zero behind the end.
    fn or_zero(&mut self) -> u8 {
        self.byte().unwrap_or_default()
    }

    /// A number below `below`, which is not zero.
    fn below(&mut self, below: u64) -> u64 {
        let word = u64::from(self.or_zero()) << 8 | u64::from(self.or_zero());
        word % below
    }

    /// So many bytes, if there are that many.
    fn bytes(&mut self, len: usize) -> &[u8] {
        let (these, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        these
    }
}

/// A command of a guest, with what it finds in its RAM: the first half of `data` is the command, the rest a list of pages.
pub fn command(data: &[u8]) {
    const RAM: u64 = 1 << 20;
    let (bytes, list) = data.split_at(data.len().min(160));
    let ram = vnic_iommu::testing::anonymous_ram(RAM as usize);
    let _ = ram.write(Gpa(0x1000), &list[..list.len().min(PAGE_SIZE as usize)]);
    let pages = match ctrl::parse(bytes, &ram) {
        Ok(ctrl::Command::CqCreate(params)) => params.pages,
        Ok(ctrl::Command::QpCreate(params)) => params.pages,
        _ => Vec::new(),
    };
    assert!(pages.iter().all(|page| page.0 % PAGE_SIZE == 0 && page.0 < RAM), "{pages:?}");
}

/// An element of a send queue, whose stride the first byte chooses.
pub fn element(data: &[u8]) {
    let mut script = Script(data);
    let stride = 64 << (script.or_zero() % 4);
    let mut bytes = script.bytes(stride).to_vec();
    bytes.resize(stride, 0);
    let element = Element::from_bytes(&bytes);
    let Ok(request) = SendRequest::parse(&element) else { return };
    match request.local.of(&element) {
        LocalBytes::Inline(bytes) => assert_eq!(request.total, bytes.len() as u64),
        LocalBytes::List(list) => assert_eq!(request.total, list.total()),
    }
}

/// A frame of a peer daemon.
pub fn frame(data: &[u8]) {
    let Ok(frame) = Frame::parse(data) else { return };
    let mut room = [0; HEADER + 16];
    let (len, bytes) = match &frame {
        Frame::Request(request) => (request.write_head(&mut room), request.bytes),
        Frame::Answer(answer @ Answer { what: What::Data { bytes, .. }, .. }) => {
            (answer.write_head(&mut room), *bytes)
        }
        Frame::Answer(answer) => (answer.write_head(&mut room), &[][..]),
    };
    let again = [&room[..len], bytes].concat();
    assert_eq!(Frame::parse(&again), Ok(frame));
}

/// A word of a peer daemon.
pub fn word(data: &[u8]) {
    if let Some(word) = Word::read(data) {
        let again = word.bytes();
        assert!(again.len() <= data.len(), "it grew");
        assert_eq!(Word::read(&again), Some(word));
    }
}

/// What somebody says first who calls.
pub fn preamble(data: &[u8]) {
    let mut rest = data;
    if let Ok(preamble) = Preamble::read(&mut rest) {
        let again = preamble.write();
        assert_eq!(&data[..data.len() - rest.len()], &again[..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..most)
    }

    proptest! {
        #[test]
        fn parsers_take_anything(data in bytes(300)) {
            command(&data);
            element(&data);
            frame(&data);
            word(&data);
            preamble(&data);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn a_peer_may_say_anything(data in bytes(2000)) {
            peer::run(&data);
        }

        #[test]
        fn honest_daemons_lose_nothing_and_repeat_nothing(data in bytes(1000)) {
            pair::run(&data);
        }
    }
}
