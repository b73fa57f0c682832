// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two small samples, compared by rank: the Mann-Whitney test, and the Hodges-Lehmann interval that
//! belongs to it.
//!
//! Both ask only that a round of one run is as likely to be anywhere as a round of another, if nothing
//! has changed: not how times are distributed, which is with tails and in lumps. They are exact for the
//! handful of rounds that a run has, where resampling a median would promise more than it keeps, and
//! they shrug off the one round in which something else was going on.

/// Probability that an interval leaves the truth out.
pub const ERROR: f64 = 0.05;

/// Numbers up to which probabilities are counted; above, the normal distribution is as good.
const EXACT: usize = 40;

/// Quantile of the normal distribution that belongs to [`ERROR`].
const DEVIATIONS: f64 = 1.959_964;

/// How far one sample lies from another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The median distance of all pairs.
    pub estimate: f64,
    /// Where it lies with 95 % confidence; `None` if there are too few numbers for that.
    pub interval: Option<(f64, f64)>,
    /// Probability of ranks that are at least as uneven, if nothing has changed.
    pub p: f64,
}

/// Compares two samples. `distance` is how far its second argument is from its first, and grows with
/// the second. `None` if a sample is empty.
pub fn shift(old: &[f64], new: &[f64], distance: impl Fn(f64, f64) -> f64) -> Option<Shift> {
    let pairs = old.iter().flat_map(|old| new.iter().map(|new| distance(*old, *new)));
    let mut pairs = pairs.collect::<Vec<_>>();
    pairs.sort_unstable_by(f64::total_cmp);
    let estimate =
        f64::midpoint(*pairs.get((pairs.len().checked_sub(1)?) / 2)?, pairs[pairs.len() / 2]);
    let outside = outside(old.len(), new.len());
    let interval = (outside > 0).then(|| (pairs[outside - 1], pairs[pairs.len() - outside]));
    Some(Shift { estimate, interval, p: p_value(old, new) })
}

/// The least p-value that samples of these sizes can have.
pub fn least_p(old: usize, new: usize) -> f64 {
    // One of all the ways to choose the ranks of one sample, at either end.
    let ways = (1..=old).map(|k| (new + k) as f64 / k as f64).product::<f64>();
    (2.0 / ways).min(1.0)
}

/// Pairs, counted from either end, of which the interval begins with the last; 0 without an interval.
fn outside(old: usize, new: usize) -> usize {
    let pairs = old * new;
    if old + new > EXACT {
        let deviation = (pairs as f64 * (old + new + 1) as f64 / 12.0).sqrt();
        return (pairs as f64 / 2.0 - DEVIATIONS * deviation).floor().max(0.0) as usize;
    }
    let ranks = (1..=old + new).map(|rank| 2 * rank).collect::<Vec<_>>();
    let sums = sums(&ranks, new);
    // The distribution of the number of pairs in disorder begins at the least sum of ranks.
    let tail = sums[new * (new + 1)..].iter().step_by(2).scan(0.0, |sum, part| {
        *sum += part;
        Some(*sum)
    });
    tail.take_while(|tail| *tail <= ERROR / 2.0).count()
}

fn p_value(old: &[f64], new: &[f64]) -> f64 {
    let all = old.iter().chain(new).copied().collect::<Vec<_>>();
    let ranks = doubled_ranks(&all);
    let sum = ranks[old.len()..].iter().sum::<usize>();
    // The mean of doubled ranks is one more than their number.
    let mean = new.len() * (all.len() + 1);
    let distance = sum.abs_diff(mean);
    if all.len() <= EXACT {
        let sums = sums(&ranks, new.len()).into_iter().enumerate();
        let uneven = sums.filter(|(sum, _)| sum.abs_diff(mean) >= distance).map(|(_, part)| part);
        return uneven.sum::<f64>().min(1.0);
    }
    let spread =
        ranks.iter().map(|rank| (*rank as f64 - (all.len() + 1) as f64).powi(2)).sum::<f64>();
    let pairs = (old.len() * new.len()) as f64;
    let variance = pairs * spread / (all.len() * (all.len() - 1)) as f64;
    if variance == 0.0 { 1.0 } else { beyond(((distance as f64) - 1.0).max(0.0) / variance.sqrt()) }
}

/// Twice the rank of each number; equal numbers share theirs, so that the double is whole.
fn doubled_ranks(all: &[f64]) -> Vec<usize> {
    let rank = |value: &f64| {
        let below = all.iter().filter(|other| other.total_cmp(value).is_lt()).count();
        let equal = all.iter().filter(|other| other.total_cmp(value).is_eq()).count();
        2 * below + equal + 1
    };
    all.iter().map(rank).collect()
}

/// Probability of each sum of `count` of these ranks, if all choices are alike.
fn sums(ranks: &[usize], count: usize) -> Vec<f64> {
    let most = ranks.iter().sum::<usize>();
    // By how many are chosen, then by their sum.
    let mut ways = vec![vec![0.0f64; most + 1]; count + 1];
    ways[0][0] = 1.0;
    for rank in ranks {
        for chosen in (0..count).rev() {
            let (before, after) = ways.split_at_mut(chosen + 1);
            let targets = after[0][*rank..].iter_mut();
            targets.zip(&before[chosen]).for_each(|(to, from)| *to += from);
        }
    }
    let last = ways.pop().unwrap_or_default();
    let all = last.iter().sum::<f64>();
    last.into_iter().map(|ways| ways / all).collect()
}

/// Probability that a normal deviate is at least this far from its mean (Abramowitz and Stegun,
/// 7.1.26, to 1.5e-7).
fn beyond(deviations: f64) -> f64 {
    let x = deviations / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let factors = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    factors.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t) * (-x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(old: &[f64], new: &[f64]) -> Shift {
        shift(old, new, |old, new| new - old).unwrap()
    }

    #[test]
    fn p_values_are_those_of_the_tables() {
        // Complete separation of 3 and 3: 2 of 20 arrangements; of 5 and 5: 2 of 252.
        assert!((plain(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]).p - 0.1).abs() < 1e-12);
        let (low, high) = ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]);
        assert!((plain(&low, &high).p - 2.0 / 252.0).abs() < 1e-12);
        assert!((least_p(5, 5) - 2.0 / 252.0).abs() < 1e-12);
        assert_eq!(least_p(0, 5), 1.0);
        // U = 1 of 9 pairs: 4 of 20 arrangements are as uneven.
        assert!((plain(&[1.0, 2.0, 4.0], &[3.0, 5.0, 6.0]).p - 0.2).abs() < 1e-12);
    }

    #[test]
    fn the_interval_leaves_out_as_many_pairs_as_the_tables_say() {
        // Critical values of U, two-sided, 5 %; the interval begins at the next pair.
        for (old, new, critical) in
            [(4, 4, 0), (5, 5, 2), (8, 8, 13), (9, 9, 17), (10, 10, 23), (20, 20, 127)]
        {
            assert_eq!(outside(old, new), critical + 1, "{old} and {new}");
        }
        assert_eq!(outside(3, 3), 0, "3 and 3 have no interval at all");
        // Where counting ends and approximating begins, there is no step.
        assert!(outside(20, 21).abs_diff(outside(20, 20)) <= 8);
    }

    #[test]
    fn the_estimate_is_the_median_pair() {
        let found = plain(&[1.0, 2.0, 3.0, 4.0, 5.0], &[11.0, 12.0, 13.0, 14.0, 900.0]);
        assert_eq!(found.estimate, 10.0);
        let (low, high) = found.interval.unwrap();
        assert!(low > 0.0 && low <= 10.0 && high >= 10.0, "{low} {high}");
        assert_eq!(shift(&[], &[1.0], |_, new| new), None);
    }

    #[test]
    fn equal_numbers_are_no_change() {
        let same = plain(&[70.0; 9], &[70.0; 9]);
        assert_eq!((same.estimate, same.interval, same.p), (0.0, Some((0.0, 0.0)), 1.0));
        let many = plain(&[70.0; 60], &[70.0; 60]);
        assert_eq!((many.estimate, many.p), (0.0, 1.0));
    }

    #[test]
    fn many_numbers_are_as_few() {
        let of = |from: usize, count: usize| {
            (0..count).map(|index| ((index * 37 + from) % 100) as f64).collect::<Vec<_>>()
        };
        let (exact, normal) = (plain(&of(0, 20), &of(11, 20)).p, plain(&of(0, 21), &of(11, 21)).p);
        assert!((exact - normal).abs() < 0.1, "{exact} {normal}");
        assert!((beyond(DEVIATIONS) - ERROR).abs() < 1e-6 && (beyond(0.0) - 1.0).abs() < 1e-6);
    }
}
