// SPDX-License-Identifier: Apache-2.0 OR MIT
//! dev
use vnic_testbed::{
    compare::{Comparison, entry::Kept},
    page::{Inputs, render},
};
fn main() {
    let mut inputs = Inputs::default();
    let mut args = std::env::args().skip(1);
    let out = args.next().unwrap();
    for a in args {
        if let Some((o, n)) = a.split_once('=') {
            let (o, n) = (Kept::read(o.as_ref()).unwrap(), Kept::read(n.as_ref()).unwrap());
            let c = Comparison::new(o.entries(), n.entries());
            println!("{}", vnic_testbed::compare::table::render(&c));
            inputs.comparisons.push(c);
            continue;
        }
        match Kept::read(a.as_ref()).unwrap() {
            Kept::Bench(r) => inputs.benches.push(*r),
            Kept::Testbed(r) => inputs.testbed = Some(*r),
        }
    }
    std::fs::write(out, render(&inputs)).unwrap();
}
