// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Numbers as the page writes them.

use crate::bench::{Unit, table};

/// A unit as it is written where any character can be.
pub fn unit(name: &str) -> &str {
    if name == "us" { "µs" } else { name }
}

/// A phrase that stands by itself begins with a capital; a name stays as it is.
pub fn sentence(phrase: &str) -> String {
    let word = phrase.split([' ', ',', ':']).next().unwrap_or_default();
    let mut letters = phrase.chars();
    match letters.next() {
        Some(first) if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') => {
            first.to_uppercase().chain(letters).collect()
        }
        _ => phrase.into(),
    }
}

/// A number with the unit that suits it.
pub fn value(kind: Unit, value: f64) -> String {
    let (name, scale) = table::scale(kind, value.abs());
    let digits = if kind == Unit::Count { number(value) } else { table::number(value / scale) };
    format!("{digits} {}", unit(name)).trim_end().into()
}

/// Three significant digits, or all before the point, with thousands set apart; whole numbers stay whole.
pub fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e4 {
        return format!("{value:.0}");
    }
    let text = table::number(value);
    let digits = text.trim_start_matches('-');
    if value.abs() < 1e4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text;
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let mut apart = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            // A narrow space that does not break.
            apart.push('\u{202f}');
        }
        apart.push(digit);
    }
    format!("{sign}{apart}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_sentences() {
        let texts =
            ["register", "wake-up from idle", "ib_write_lat", "vNIC against", "8 B", "", "été"];
        let expected =
            ["Register", "Wake-up from idle", "ib_write_lat", "vNIC against", "8 B", "", "été"];
        assert_eq!(texts.map(sentence), expected);
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        let texts = [0.0, 3.0, 1.2345, 1234.0, 13_649.2, 1e7, -20_000.0].map(number);
        let narrow = |text: &str| text.replace('_', "\u{202f}");
        let expected = ["0", "3", "1.23", "1234", "13_649", "10_000_000", "-20_000"].map(narrow);
        assert_eq!(texts, expected);
        assert_eq!(value(Unit::Nanoseconds, 1500.0), "1.50 µs");
        assert_eq!(value(Unit::Count, 256.0), "256");
    }
}
