//! Numbers that look random, from seeds that are printed.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed that `NVSTAGE_SEED` asks for, or the known ones and a new one.
pub fn seeds(known: &[u64]) -> Vec<u64> {
    let asked = std::env::var("NVSTAGE_SEED").ok().map(|text| text.parse().expect("NVSTAGE_SEED"));
    match asked {
        Some(seed) => vec![seed],
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            known.iter().copied().chain([now.as_millis() as u64]).collect()
        }
    }
}

/// Numbers that look random (xorshift64*).
pub struct Random(u64);

impl Random {
    #[allow(clippy::print_stdout, reason = "a failure is repeated by its seed")]
    pub fn new(seed: u64) -> Self {
        println!("NVSTAGE_SEED={seed}");
        // Zero would stay zero.
        Self(seed.max(1))
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}
