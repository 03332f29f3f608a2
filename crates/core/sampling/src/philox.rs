//! Random numbers without state: a function of seed and position.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox-4x32,
//! ten rounds); the test vectors are those of its reference implementation, Random123.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The Philox-4x32-10 block function: 128 random bits for each counter and key.
#[must_use]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let (high0, low0) = wide_product(MULTIPLIERS[0], counter[0]);
        let (high1, low1) = wide_product(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

/// 64 random bits for a position of the stream of `seed`.
#[must_use]
pub fn random_u64(seed: u64, position: u64) -> u64 {
    let [p0, p1] = halves(position);
    let [word0, word1, ..] = philox4x32_10([p0, p1, 0, 0], halves(seed));
    u64::from(word1) << 32 | u64::from(word0)
}

fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let [low, high] = halves(u64::from(a) * u64::from(b));
    (high, low)
}

/// Low half first.
fn halves(x: u64) -> [u32; 2] {
    [(x & 0xFFFF_FFFF) as u32, (x >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let check = |counter, key, expected: [u32; 4]| {
            assert_eq!(philox4x32_10(counter, key), expected, "{counter:x?} {key:x?}");
        };
        check([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        check([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        check(
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        );
    }

    #[test]
    fn seeds_and_positions_give_unrelated_numbers() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..50 {
            for position in 0..50 {
                assert!(seen.insert(random_u64(seed, position)));
                assert!(seen.insert(random_u64(seed | 1 << 40, position | 1 << 40)));
            }
        }
    }
}
