// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every operation in every size, with contents and surroundings checked.

use vnic_abi::cqe::{CqeFlags, WcOpcode, WcStatus};
use vnic_abi::wqe::Sge;
use vnic_testbed::process_guest::UserBuffer;
use vnic_testbed::process_guest::verbs::{
    ALL_ACCESS, ConnectOptions, Mr, Qp, QpOptions, SendWr, connect,
};

use crate::common::{Pair, assert_same, pattern};
use crate::faults::wait_until;

const SIZES: [u64; 15] =
    [0, 1, 2, 63, 64, 65, 128, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1];

/// Offsets of source and target: aligned, odd, and across a page border.
const OFFSETS: [(u64, u64); 4] = [(0, 0), (1, 0), (7, 4093), (4095, 13)];

const GUARD: u8 = 0xa5;

/// Room for the largest message behind the largest offset, and a guard behind it.
const LEN: u64 = (1 << 20) + 4 * 4096;

/// Checks that exactly `wanted` lies at `offset`, with untouched memory around it.
#[track_caller]
fn assert_only(buffer: &UserBuffer, offset: u64, wanted: &[u8], what: &str) {
    let around = 256;
    let before = offset.saturating_sub(around);
    let end = offset + wanted.len() as u64;
    let after = (end + around).min(buffer.len());
    assert_same(&buffer.read(offset, wanted.len() as u64), wanted, what);
    let guard = |bytes: Vec<u8>| bytes.iter().all(|&byte| byte == GUARD);
    assert!(guard(buffer.read(before, offset - before)), "{what}: bytes before the target changed");
    assert!(guard(buffer.read(end, after - end)), "{what}: bytes behind the target changed");
}

fn each_size(mut check: impl FnMut(u64, u64, u64, &str)) {
    for (i, size) in SIZES.into_iter().enumerate() {
        let (from, to) = OFFSETS[i % OFFSETS.len()];
        check(size, from, to, &format!("{size} bytes from {from} to {to}"));
        let (from, to) = OFFSETS[(i + 1) % OFFSETS.len()];
        check(size, from, to, &format!("{size} bytes from {from} to {to}"));
    }
}

#[test]
fn eight_bytes_arrive() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(4096);
    let (to, to_mr) = pair.b.region(4096);
    from.write(8, b"8 bytes!");
    let sge = from_mr.sge(from.addr() + 8, 8);
    qa.post_send(&SendWr::write(&[sge], to.addr() + 16, to_mr.rkey()).id(77));
    let done = qa.send_cq.expect(77);
    assert_eq!((done.opcode, done.qpn, done.wqe_count), (WcOpcode::RdmaWrite, qa.qpn(), 1));
    assert_eq!(to.read(16, 8), b"8 bytes!");
    assert!(qb.recv_cq.poll().is_none());
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn write_in_every_size() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(LEN);
    let (to, to_mr) = pair.b.region(LEN);
    each_size(|size, at, target, what| {
        let data = pattern(size + at, size);
        from.write(at, &data);
        to.fill(GUARD);
        let sge = from_mr.sge(from.addr() + at, size as u32);
        qa.post_send(&SendWr::write(&[sge], to.addr() + target, to_mr.rkey()).id(size));
        qa.send_cq.expect(size);
        assert_only(&to, target, &data, what);
    });
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn read_in_every_size() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.a.region(LEN);
    let (from, from_mr) = pair.b.region(LEN);
    each_size(|size, at, target, what| {
        let data = pattern(size + at, size);
        from.write(at, &data);
        to.fill(GUARD);
        let sge = to_mr.sge(to.addr() + target, size as u32);
        qa.post_send(&SendWr::read(&[sge], from.addr() + at, from_mr.rkey()).id(size));
        let done = qa.send_cq.expect(size);
        assert_eq!((done.opcode, u64::from(done.byte_len)), (WcOpcode::RdmaRead, size), "{what}");
        assert_only(&to, target, &data, what);
    });
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn send_in_every_size_with_and_without_immediate() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(LEN);
    let (to, to_mr) = pair.b.region(LEN);
    each_size(|size, at, target, what| {
        for imm in [None, Some([1, 2, 3, size as u8])] {
            let data = pattern(size + at, size);
            from.write(at, &data);
            to.fill(GUARD);
            // One byte more than the message, which must stay as it is.
            qb.post_recv(size + 1, &[to_mr.sge(to.addr() + target, size as u32 + 1)]);
            let wr = SendWr::send(&[from_mr.sge(from.addr() + at, size as u32)]).id(size);
            qa.post_send(&imm.map_or(wr.clone(), |imm| wr.imm(imm)));
            assert_eq!(qa.send_cq.expect(size).opcode, WcOpcode::Send);
            let done = qb.recv_cq.expect(size + 1);
            assert_eq!((done.opcode, u64::from(done.byte_len)), (WcOpcode::Recv, size), "{what}");
            assert_eq!(done.qpn, qb.qpn());
            assert_eq!(done.flags.contains(CqeFlags::WITH_IMM), imm.is_some(), "{what}");
            assert_eq!(done.imm, imm.unwrap_or(done.imm), "{what}");
            assert_only(&to, target, &data, what);
        }
    });
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn write_with_immediate_in_every_size() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(LEN);
    let (to, to_mr) = pair.b.region(LEN);
    each_size(|size, at, target, what| {
        let data = pattern(size + at, size);
        from.write(at, &data);
        to.fill(GUARD);
        // The receive element is consumed, its buffer is not used.
        qb.post_recv(1, &[]);
        let sge = from_mr.sge(from.addr() + at, size as u32);
        let wr = SendWr::write(&[sge], to.addr() + target, to_mr.rkey()).imm([9, 8, 7, 6]);
        qa.post_send(&wr.id(size));
        assert_eq!(qa.send_cq.expect(size).opcode, WcOpcode::RdmaWrite);
        let done = qb.recv_cq.expect(1);
        assert_eq!((done.opcode, done.imm), (WcOpcode::RecvRdmaWithImm, [9, 8, 7, 6]), "{what}");
        assert!(done.flags.contains(CqeFlags::WITH_IMM), "{what}");
        assert_eq!(u64::from(done.byte_len), size, "{what}");
        assert_only(&to, target, &data, what);
    });
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

/// The bytes are there before the element that tells of them, which ends the wait as soon as it comes.
#[test]
fn a_write_with_immediate_waits_for_an_element() {
    let pair = Pair::new();
    // 491 ms, as IBTA numbers it: nothing but the element ends the wait.
    let slow = ConnectOptions { min_rnr_timer: 31, ..ConnectOptions::default() };
    let (qa, qb) = pair.qps_with(&slow);
    let (from, from_mr) = pair.a.region(LEN);
    let (to, to_mr) = pair.b.region(LEN);
    for (round, size) in [1, 64, 65_537, 1 << 20].into_iter().enumerate() {
        let data = pattern(size, size);
        from.write(0, &data);
        let sge = from_mr.sge(from.addr(), size as u32);
        qa.post_send(&SendWr::write(&[sge], to.addr(), to_mr.rkey()).imm([1, 2, 3, 4]).id(size));
        wait_until("the bytes", || to.read(0, size) == data);
        assert!(qa.send_cq.poll().is_none(), "nobody was told of {size} bytes");
        qb.post_recv(round as u64, &[]);
        let done = qb.recv_cq.expect(round as u64);
        assert_eq!((u64::from(done.byte_len), done.imm), (size, [1, 2, 3, 4]));
        qa.send_cq.expect(size);
    }
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

/// Cuts `len` bytes at `addr` into pieces of odd sizes, with empty entries between them.
fn pieces(mr: &Mr, addr: u64, len: u64, count: u64) -> Vec<Sge> {
    let mut sges = Vec::new();
    let mut at = 0;
    for i in 0..count {
        let end = if i + 1 == count { len } else { len * (i + 1) / count + i % 2 };
        sges.push(mr.sge(addr + at, (end - at) as u32));
        // An empty entry names nothing, whatever it says.
        sges.push(Sge { addr: (!0u64).into(), length: 0.into(), lkey: 0xdead_beef.into() });
        at = end;
    }
    sges
}

#[test]
fn scatter_and_gather_lists() {
    let pair = Pair::new();
    let options = QpOptions { max_send_sge: 8, max_recv_sge: 8, ..QpOptions::default() };
    let make = |end: &vnic_testbed::process_guest::verbs::Endpoint| {
        let cq = end.cq(64);
        Qp::new(&end.pd, &cq, &cq, end.gid, options)
    };
    let (qa, qb) = (make(&pair.a), make(&pair.b));
    connect(&qa, &qb);
    let (here, here_mr) = pair.a.region(LEN);
    let (there, there_mr) = pair.b.region(LEN);
    for (from_count, to_count) in [(1, 4), (3, 1), (4, 3)] {
        for len in [11, 4096, 70_001] {
            let what = format!("{len} bytes in {from_count} to {to_count} pieces");
            let data = pattern(len, len);
            here.write(3, &data);
            there.fill(GUARD);
            let from = pieces(&here_mr, here.addr() + 3, len, from_count);
            let to = pieces(&there_mr, there.addr() + 4090, len, to_count);

            qb.post_recv(2, &to);
            qa.post_send(&SendWr::send(&from).id(1));
            qa.send_cq.expect(1);
            assert_eq!(u64::from(qb.recv_cq.expect(2).byte_len), len);
            assert_only(&there, 4090, &data, &what);

            there.fill(GUARD);
            qa.post_send(&SendWr::write(&from, there.addr() + 55, there_mr.rkey()).id(2));
            qa.send_cq.expect(2);
            assert_only(&there, 55, &data, &what);

            here.fill(GUARD);
            let back = pieces(&here_mr, here.addr() + 1001, len, to_count);
            qa.post_send(&SendWr::read(&back, there.addr() + 55, there_mr.rkey()).id(3));
            qa.send_cq.expect(3);
            assert_only(&here, 1001, &data, &what);
        }
    }
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

#[test]
fn inline_data_is_taken_at_posting_time() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(4096);
    for len in [0, 1, 31, 32, 33, 127, 128] {
        let data = pattern(len, len);
        to.fill(GUARD);
        qb.post_recv(1, &[to_mr.sge(to.addr() + 5, 200)]);
        qa.post_send(&SendWr::send(&[]).inline(&data).id(len));
        qa.send_cq.expect(len);
        assert_eq!(u64::from(qb.recv_cq.expect(1).byte_len), len);
        assert_only(&to, 5, &data, "inline SEND");

        qa.post_send(&SendWr::write(&[], to.addr() + 1001, to_mr.rkey()).inline(&data).id(len));
        qa.send_cq.expect(len);
        assert_only(&to, 1001, &data, "inline WRITE");
    }
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn unsignalled_requests_complete_with_the_next_signalled_one() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(4096);
    // More than the ring holds: room comes back only by the running count in completions.
    for round in 0..40_u64 {
        for i in 0..15 {
            let wr = SendWr::write(&[], to.addr() + i * 8, to_mr.rkey());
            qa.post_send(&wr.inline(&(round * 100 + i).to_le_bytes()).unsignaled());
        }
        let wr = SendWr::write(&[], to.addr() + 15 * 8, to_mr.rkey());
        qa.post_send(&wr.inline(&(round * 100 + 15).to_le_bytes()).id(round));
        let done = qa.send_cq.expect(round);
        assert_eq!(u64::from(done.wqe_count), (round + 1) * 16);
        for i in 0..16 {
            assert_eq!(to.read(i * 8, 8), (round * 100 + i).to_le_bytes());
        }
    }
    assert!(qa.send_cq.poll().is_none());
    assert_eq!(qa.send_room(), 64);
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn a_queue_pair_that_signals_everything_does() {
    let pair = Pair::new();
    let make = |end: &vnic_testbed::process_guest::verbs::Endpoint| {
        let cq = end.cq(64);
        let options = QpOptions { sig_all: true, ..QpOptions::default() };
        Qp::new(&end.pd, &cq, &cq, end.gid, options)
    };
    let (qa, qb) = (make(&pair.a), make(&pair.b));
    connect(&qa, &qb);
    let (to, to_mr) = pair.b.region(64);
    for id in 0..3 {
        qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"x").unsignaled().id(id));
    }
    for id in 0..3 {
        qa.send_cq.expect(id);
    }
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn a_queue_pair_can_talk_to_itself() {
    let pair = Pair::new();
    let send_cq = pair.a.cq(64);
    let recv_cq = pair.a.cq(64);
    let qp = Qp::new(&pair.a.pd, &send_cq, &recv_cq, pair.a.gid, QpOptions::default());
    connect(&qp, &qp);
    let (buffer, mr) = pair.a.region(1 << 20);
    let data = pattern(5, 100_000);
    buffer.write(3, &data);
    let far = 500_001;
    qp.post_recv(9, &[mr.sge(buffer.addr() + far, 200_000)]);
    qp.post_send(&SendWr::send(&[mr.sge(buffer.addr() + 3, 100_000)]).id(1));
    send_cq.expect(1);
    assert_eq!(recv_cq.expect(9).byte_len, 100_000);
    assert_same(&buffer.read(far, 100_000), &data, "SEND to itself");
    let sge = mr.sge(buffer.addr() + 200_000, 100_000);
    qp.post_send(&SendWr::read(&[sge], buffer.addr() + far, mr.rkey()).id(2));
    send_cq.expect(2);
    assert_same(&buffer.read(200_000, 100_000), &data, "READ from itself");
    drop((qp, send_cq, recv_cq, mr));
    pair.finish();
}

#[test]
fn two_queue_pairs_of_one_guest_talk() {
    let pair = Pair::new();
    let (one, two) = (pair.a.qp(), pair.a.qp());
    connect(&one, &two);
    let (buffer, mr) = pair.a.region(8192);
    let data = pattern(1, 4000);
    buffer.write(0, &data);
    one.post_send(&SendWr::write(&[mr.sge(buffer.addr(), 4000)], buffer.addr() + 4001, mr.rkey()));
    one.send_cq.expect(0);
    assert_same(&buffer.read(4001, 4000), &data, "WRITE within a guest");
    drop((one, two, mr));
    pair.finish();
}

#[test]
fn requests_of_a_queue_pair_take_effect_in_order() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.region(1 << 20);
    let (there, there_mr) = pair.b.region(1 << 20);
    for round in 0..20_u64 {
        // A large WRITE, a small one over its end, a READ that must see both, and one more WRITE that
        // the READ must not see since it is fenced behind it.
        let large = pattern(round, 300_000);
        here.write(0, &large);
        let sge = here_mr.sge(here.addr(), 300_000);
        qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).unsignaled());
        let small = SendWr::write(&[], there.addr() + 299_996, there_mr.rkey());
        qa.post_send(&small.inline(&[round as u8; 4]).unsignaled());
        let back = here_mr.sge(here.addr() + 400_000, 300_000);
        qa.post_send(&SendWr::read(&[back], there.addr(), there_mr.rkey()).unsignaled());
        let last = SendWr::write(&[], there.addr() + 7, there_mr.rkey()).fenced();
        qa.post_send(&last.inline(b"later").id(round));
        qa.send_cq.expect(round);
        let mut wanted = large;
        wanted[299_996..].copy_from_slice(&[round as u8; 4]);
        assert_same(&here.read(400_000, 300_000), &wanted, "what the READ saw");
        assert_eq!(there.read(7, 5), b"later");
    }
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

#[test]
fn the_last_byte_of_a_write_arrives_last() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(1 << 20);
    let (to, to_mr) = pair.b.region(1 << 20);
    for round in 0..300_u64 {
        let (_, at) = OFFSETS[round as usize % OFFSETS.len()];
        let len = [2, 8, 63, 65, 200, 5000, 64 << 10, 300_001][round as usize % 8];
        let mut data = pattern(round, len);
        // Not what is there before.
        *data.last_mut().expect("not empty") = 1 + (round % 100) as u8;
        from.write(0, &data);
        to.write(at, &vec![GUARD; len as usize]);
        let sge = from_mr.sge(from.addr(), len as u32);
        qa.post_send(&SendWr::write(&[sge], to.addr() + at, to_mr.rkey()).id(round));
        let last = at + len - 1;
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while to.read(last, 1) == [GUARD] {
            assert!(std::time::Instant::now() < limit, "the last byte never comes");
        }
        // Whoever polls the last byte takes the rest for granted.
        assert_same(&to.read(at, len), &data, &format!("round {round}, {len} bytes"));
        qa.send_cq.expect(round);
    }
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn a_region_may_have_addresses_of_its_own() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, _whole) = pair.b.region(3 * 4096);
    let keys = pair
        .b
        .driver
        .mr_create_with(&vnic_abi::ctrl::MrCreate {
            pd: pair.b.pd.handle().into(),
            access: ALL_ACCESS.bits().into(),
            start: (to.addr() + 100).into(),
            length: 8000.into(),
            iova: 0x5000_0000.into(),
        })
        .expect("MR_CREATE");
    to.fill(GUARD);
    let wr = SendWr::write(&[], 0x5000_0000 + 4500, keys.rkey.get());
    qa.post_send(&wr.inline(b"shifted").id(1));
    qa.send_cq.expect(1);
    assert_only(&to, 4600, b"shifted", "WRITE by iova");
    let wr = SendWr::write(&[], 0x5000_0000 + 7999, keys.rkey.get());
    qa.post_send(&wr.inline(b"ab").id(2));
    assert_eq!(qa.send_cq.wait().status, WcStatus::RemAccessErr);
    pair.b.driver.mr_destroy(keys.handle.get()).expect("MR_DESTROY");
    drop((qa, qb, _whole));
    pair.finish();
}

#[test]
fn many_queue_pairs_at_once() {
    let pair = Pair::new();
    let (from, from_mr) = pair.a.region(1 << 20);
    let (to, to_mr) = pair.b.region(1 << 20);
    from.write(0, &pattern(3, 1 << 20));
    to.fill(0);
    let qps: Vec<_> = (0..16).map(|_| pair.qps()).collect();
    std::thread::scope(|scope| {
        for (i, (qa, _)) in qps.iter().enumerate() {
            let (from, from_mr, to, to_mr) = (&from, &from_mr, &to, &to_mr);
            scope.spawn(move || {
                let at = i as u64 * 65_536;
                for step in 0..64 {
                    let at = at + step * 1024;
                    let sge = from_mr.sge(from.addr() + at, 1024);
                    qa.post_send(&SendWr::write(&[sge], to.addr() + at, to_mr.rkey()).id(step));
                    if step % 8 == 7 {
                        for id in step - 7..=step {
                            qa.send_cq.expect(id);
                        }
                    }
                }
            });
        }
    });
    assert_same(&to.read(0, 1 << 20), &pattern(3, 1 << 20), "all stripes");
    drop((qps, from_mr, to_mr));
    pair.finish();
}
