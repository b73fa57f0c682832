// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Numbers that nobody may guess: memory keys and queue pair numbers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use vnic_abi::status::Status;

/// Attempts to find a free number before giving up; at half load, one in 2^64 fails.
const ATTEMPTS: usize = 64;

/// A random number below 2^`bits`, from the operating system.
fn random(bits: u32) -> Option<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).ok()?;
    Some(u32::from_le_bytes(bytes) >> (32 - bits))
}

/// Puts `value` under a random free number of `bits` bits, not below `first`.
///
/// # Errors
///
/// [`Status::Limit`] if no free number was found or the system gives no randomness.
pub fn insert_random<T>(
    map: &mut HashMap<u32, T>,
    bits: u32,
    first: u32,
    value: T,
) -> Result<u32, Status> {
    for _ in 0..ATTEMPTS {
        let number = random(bits).ok_or(Status::Limit)?;
        if number < first {
            continue;
        }
        if let Entry::Vacant(entry) = map.entry(number) {
            entry.insert(value);
            return Ok(number);
        }
    }
    Err(Status::Limit)
}

/// A free random number for `map`, without inserting anything.
///
/// # Errors
///
/// As [`insert_random`].
pub fn fresh<T>(map: &HashMap<u32, T>, bits: u32, first: u32) -> Result<u32, Status> {
    (0..ATTEMPTS)
        .filter_map(|_| random(bits))
        .find(|number| *number >= first && !map.contains_key(number))
        .ok_or(Status::Limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_in_range_and_run_out() {
        let mut map = HashMap::new();
        for _ in 0..12 {
            let number = insert_random(&mut map, 4, 2, ()).unwrap();
            assert!((2..16).contains(&number));
        }
        assert_eq!(map.len(), 12);
        for number in 0..16 {
            map.insert(number, ());
        }
        assert_eq!(insert_random(&mut map, 4, 2, ()), Err(Status::Limit));
    }
}
