//! What sandboxes cost: whole billionths of whatever unit the operator reckons in.

use std::{
    fmt,
    ops::{AddAssign, Sub},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::Limits;

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

impl Sub for Cost {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        Self(self.0.saturating_sub(less.0))
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

/// What the operator reckons with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// Of a sandbox that runs, for each core that it may use.
    pub core_second: Cost,
    /// For each GiB of memory that it may use.
    pub gib_second: Cost,
    /// Of a sandbox that is paused, for each GiB of memory and disk that it may use.
    pub paused_gib_hour: Cost,
}

impl Tariff {
    /// The largest of each, so that no sum is beyond what is reckoned with.
    pub const MOST: Cost = Cost(1000 * UNIT);

    /// Nothing costs anything, and nothing is told of costs.
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }
}

const MILLIS_PER_SECOND: u128 = 1000;
const MILLIS_PER_HOUR: u128 = 3_600_000;
/// MiB in a GiB.
const MIB: u128 = 1024;

/// What one sandbox costs. The cost of a time is that of all the time up to its end, rounded down,
/// less that of all the time up to its beginning, rounded down as well: so whatever parts a life is
/// told in, they are together what the whole costs, to the last billionth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Billionths by 1024, a second.
    runs: u128,
    /// The same, an hour.
    stands: u128,
}

impl Price {
    pub fn of(rates: Tariff, limits: &Limits) -> Self {
        let mib = |bytes: u64| u128::from(bytes >> 20);
        let (memory, disk) = (mib(limits.memory_bytes), limits.disk_bytes.map_or(0, mib));
        let of = |rate: Cost, amount: u128| u128::from(rate.0).saturating_mul(amount);
        let cores = of(rates.core_second, u128::from(limits.cpus) * MIB);
        Self {
            runs: cores.saturating_add(of(rates.gib_second, memory)),
            stands: of(rates.paused_gib_hour, memory + disk),
        }
    }

    /// Of having run for so long (ms) up to then.
    pub fn runtime(&self, millis: u64) -> Cost {
        cost(self.runs, millis, MILLIS_PER_SECOND)
    }

    /// Of having been paused for so long (ms) up to then.
    pub fn storage(&self, millis: u64) -> Cost {
        cost(self.stands, millis, MILLIS_PER_HOUR)
    }

    /// A second of running, rounded down.
    pub fn runtime_rate(&self) -> Cost {
        cost(self.runs, 1, 1)
    }

    /// An hour of being paused, rounded down.
    pub fn storage_rate(&self) -> Cost {
        cost(self.stands, 1, 1)
    }
}

fn cost(rate: u128, millis: u64, unit: u128) -> Cost {
    let nanos = rate.saturating_mul(u128::from(millis)) / (MIB * unit);
    Cost(u64::try_from(nanos).unwrap_or(u64::MAX))
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

    fn limits(cpus: u32, memory_mib: u64, disk_mib: Option<u64>) -> Limits {
        let disk_bytes = disk_mib.map(|mib| mib << 20);
        Limits { cpus, memory_bytes: memory_mib << 20, disk_bytes, ..Limits::default() }
    }

    #[test]
    fn a_sandbox_costs_what_it_may_use() {
        let rates = Tariff {
            core_second: Cost(14_000),
            gib_second: Cost(4500),
            paused_gib_hour: Cost(100_000),
        };
        let price = Price::of(rates, &limits(2, 512, Some(1024)));
        assert_eq!(price.runtime_rate(), Cost(2 * 14_000 + 2250));
        assert_eq!(price.storage_rate(), Cost(150_000));
        assert_eq!(price.runtime(1500), Cost(45_375));
        assert_eq!(price.storage(1_800_000), Cost(75_000));
        assert_eq!(Price::of(rates, &limits(0, 512, None)).storage_rate(), Cost(50_000));
        assert_eq!(Price::of(Tariff::default(), &limits(2, 512, None)).runtime(u64::MAX), Cost(0));
    }

    #[test]
    fn the_largest_sandbox_at_the_largest_rates_overflows_nothing() {
        let rates = Tariff {
            core_second: Tariff::MOST,
            gib_second: Tariff::MOST,
            paused_gib_hour: Tariff::MOST,
        };
        let price = Price::of(rates, &limits(u32::MAX, 1 << 32, Some(1 << 32)));
        assert_eq!(price.runtime(u64::MAX), Cost(u64::MAX));
        assert!(price.storage(1) > Cost(0));
    }

    proptest! {
        #[test]
        fn in_whatever_parts_a_life_is_told_they_are_what_the_whole_costs(
            core in 0..20_000_u64,
            gib in 0..20_000_u64,
            paused in 0..2_000_000_u64,
            cpus in 0..64_u32,
            memory in 1..65_536_u64,
            disk in proptest::option::of(0..1_000_000_u64),
            parts in proptest::collection::vec((0..100_000_u64, 0..1_000_000_u64), 1..50),
        ) {
            let rates = Tariff {
                core_second: Cost(core),
                gib_second: Cost(gib),
                paused_gib_hour: Cost(paused),
            };
            let price = Price::of(rates, &limits(cpus, memory, disk));
            let (mut ran, mut stood) = (0, 0);
            let (mut runtime, mut storage) = (Cost(0), Cost(0));
            for (runs, stands) in parts {
                runtime += price.runtime(ran + runs) - price.runtime(ran);
                storage += price.storage(stood + stands) - price.storage(stood);
                ran += runs;
                stood += stands;
            }
            prop_assert_eq!(runtime, price.runtime(ran));
            prop_assert_eq!(storage, price.storage(stood));
        }

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
