//! What sandboxes cost: whole billionths of whatever unit the operator reckons in.

use std::{fmt, ops::AddAssign};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount, in billionths. As JSON a decimal number: up to a million units, which is 15 digits,
/// it is read by whoever takes it for a double, or for a decimal number, as exactly what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cost(u64);

const UNIT: u64 = 1_000_000_000;

impl Cost {
    pub fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub fn nanos(self) -> u64 {
        self.0
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, more: Self) {
        self.0 = self.0.saturating_add(more.0);
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / UNIT, self.0 % UNIT)
    }
}

impl Serialize for Cost {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // The nearest double, of which the shortest text is written: these digits.
        to.serialize_f64(self.0 as f64 / UNIT as f64)
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let units = f64::deserialize(from)?;
        let nanos = (units * UNIT as f64).round();
        if !(0.0..=u64::MAX as f64).contains(&nanos) {
            return Err(de::Error::custom("a cost is no less than 0"));
        }
        Ok(Self(nanos as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cost_is_told_in_units() {
        assert_eq!(Cost(1).to_string(), "0.000000001");
        assert_eq!(Cost(12 * UNIT + 50).to_string(), "12.000000050");
        assert_eq!(serde_json::to_string(&Cost(1_500_000_000)).unwrap(), "1.5");
        assert!(serde_json::from_str::<Cost>("-1").is_err());
    }

    proptest! {
        #[test]
        fn up_to_a_million_units_the_json_has_the_very_digits(nanos in 0..1_000_000 * UNIT) {
            let text = serde_json::to_string(&Cost(nanos)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Cost>(&text).unwrap(), Cost(nanos));
            // As a decimal number, without a detour by doubles.
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
            let shift = 9 + exponent.parse::<i32>().unwrap() - fraction.len() as i32;
            let number: u128 = format!("{whole}{fraction}").parse().unwrap();
            let exact = match u32::try_from(shift) {
                Ok(shift) => number * 10_u128.pow(shift),
                Err(_) => {
                    let unit = 10_u128.pow(shift.unsigned_abs());
                    prop_assert_eq!(number % unit, 0, "{}", text);
                    number / unit
                }
            };
            prop_assert_eq!(exact, u128::from(nanos), "{}", text);
        }
    }
}
