//! Chance that can be had again: SplitMix64 from a seed that is printed.

use std::time::{SystemTime, UNIX_EPOCH};

pub struct Random(u64);

impl Random {
    /// Seeded by `VAPOR_TEST_SEED`, or by the clock; says which seed it is.
    pub fn seeded(what: &str) -> Random {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let given = std::env::var("VAPOR_TEST_SEED").ok();
        let seed = given.map_or(clock, |text| text.parse().expect("VAPOR_TEST_SEED is a number"));
        println!("{what}: VAPOR_TEST_SEED={seed}");
        Random(seed)
    }

    /// Another source, for another worker.
    pub fn fork(&mut self) -> Random {
        Random(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
