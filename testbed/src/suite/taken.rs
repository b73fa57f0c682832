// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the rounds have measured so far.

use crate::measure::Measurement;

/// Measurements by what they measured, in the order of the first round.
#[derive(Debug, Default)]
pub(super) struct Taken(Vec<Vec<Measurement>>);

impl Taken {
    pub(super) fn add(&mut self, measurement: Measurement) {
        match self.0.iter_mut().find(|rounds| rounds[0].same_as(&measurement)) {
            Some(rounds) => rounds.push(measurement),
            None => self.0.push(vec![measurement]),
        }
    }

    /// One for all rounds that measured the same.
    pub(super) fn all(self) -> Vec<Measurement> {
        self.0.into_iter().filter_map(Measurement::of_rounds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Transport, Values};

    #[test]
    fn rounds_of_the_same_become_one() {
        let of = |bytes, average| {
            let values = Values::RoundTrip { average };
            Measurement::new(None, Transport::Tcp, bytes, 5, values)
        };
        let mut taken = Taken::default();
        [of(8, 1.0), of(64, 5.0), of(8, 3.0), of(8, 2.0)].into_iter().for_each(|m| taken.add(m));
        let all = taken.all();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].bytes, all[0].values.primary()), (8, 2.0));
        assert_eq!((&all[0].rounds[..], &all[1].rounds[..]), (&[1.0, 3.0, 2.0][..], &[5.0][..]));
    }
}
