//! Ids of replicas.

use tyndall_types::{DeploymentName, ReplicaId};

/// A millisecond has room for so many ids, as bits.
const COUNTER_BITS: u32 = 10;

/// Makes replica ids.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    next: u64,
}

impl Ids {
    pub(crate) fn new(seed_ms: u64) -> Self {
        Self { next: seed_ms << COUNTER_BITS }
    }

    /// The deployment's name, made safe for a file name and short enough for a socket's path, and
    /// eleven characters: start time plus counter, scrambled by a bijection of 55 bits. A controller
    /// that starts later makes others as long as the one before made fewer than 1024 a millisecond.
    pub(crate) fn next(&mut self, name: &DeploymentName) -> ReplicaId {
        self.next_with("", name)
    }

    /// That of a process that waits to become a replica, which has another one then.
    pub(crate) fn next_waiting(&mut self, name: &DeploymentName) -> ReplicaId {
        self.next_with("warm-", name)
    }

    /// Names a gang.
    pub(crate) fn next_gang(&mut self) -> String {
        self.next_word()
    }

    fn next_with(&mut self, prefix: &str, name: &DeploymentName) -> ReplicaId {
        let word = self.next_word();
        let base = name.as_str().rsplit(['/', ':']).find(|part| !part.is_empty());
        let base = base.unwrap_or("replica").chars();
        let mut id: String = prefix.chars().chain(base).take(37).collect();
        id.push('-');
        id.push_str(&word);
        ReplicaId::new(id)
    }

    fn next_word(&mut self) -> String {
        const SCRAMBLE: u64 = 0x4F_1BBC_DCBF_A53B;
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let value = self.next.wrapping_mul(SCRAMBLE);
        self.next += 1;
        let digit = |shift: u32| usize::try_from((value >> (5 * shift)) & 31).expect("five bits");
        (0..11).rev().map(|shift| char::from(DIGITS[digit(shift)])).collect()
    }
}
