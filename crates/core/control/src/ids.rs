//! Ids of replicas.

use tyndall_types::{DeploymentName, ReplicaId};

/// Makes replica ids.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    next: u64,
}

impl Ids {
    pub(crate) fn new(seed_ms: u64) -> Self {
        Self { next: seed_ms }
    }

    /// The deployment's name, made safe for a file name and short enough for a socket's path, and
    /// eight characters: start time plus counter, scrambled by a bijection of 40 bits, so that no
    /// two are equal in 34 years unless more than one a millisecond is made.
    pub(crate) fn next(&mut self, name: &DeploymentName) -> ReplicaId {
        const SCRAMBLE: u64 = 0x9E_3779_B97F;
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let value = self.next.wrapping_mul(SCRAMBLE);
        self.next += 1;
        let base = name.as_str().rsplit(['/', ':']).find(|part| !part.is_empty());
        let mut id: String = base.unwrap_or("replica").chars().take(40).collect();
        id.push('-');
        for shift in (0..8).rev() {
            let digit = usize::try_from((value >> (5 * shift)) & 31).expect("five bits");
            id.push(char::from(DIGITS[digit]));
        }
        ReplicaId::new(id)
    }
}
