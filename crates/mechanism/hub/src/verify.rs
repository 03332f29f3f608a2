//! Does a file hold what the hub announced?

use crate::error::HubError;
use crate::id::is_hex;
use sha1::Digest as _;

/// What the hub says of a file's content: its etag. Large files have the SHA-256 of their bytes,
/// small ones git's SHA-1 of a header and the bytes; other etags say nothing about the content.
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    GitBlob(sha1::Sha1),
    None,
}

impl Hasher {
    /// For this etag; `size` goes into git's header.
    pub(crate) fn new(etag: &str, size: Option<u64>) -> Self {
        match size {
            _ if is_hex(etag, 64) => Self::Sha256(sha2::Sha256::new()),
            Some(size) if is_hex(etag, 40) => {
                let mut sha1 = sha1::Sha1::new();
                sha1.update(format!("blob {size}\0"));
                Self::GitBlob(sha1)
            }
            _ => Self::None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
            Self::None => {}
        }
    }

    /// Compares with the etag.
    pub(crate) fn check(self, file: &str, etag: &str) -> Result<(), HubError> {
        let (what, got) = match self {
            Self::Sha256(hasher) => ("sha256", hex(&hasher.finalize())),
            Self::GitBlob(hasher) => ("git sha1", hex(&hasher.finalize())),
            Self::None => return Ok(()),
        };
        if got == etag {
            return Ok(());
        }
        Err(HubError::Damaged { file: file.to_owned(), what, got, expected: etag.to_owned() })
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_etag_are_checked() {
        // `printf hello | sha256sum`, `printf hello | git hash-object --stdin`
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        for etag in [sha256, git] {
            let mut hasher = Hasher::new(etag, Some(5));
            hasher.update(b"hel");
            hasher.update(b"lo");
            hasher.check("f", etag).unwrap();
            let mut hasher = Hasher::new(etag, Some(5));
            hasher.update(b"hellO");
            assert!(matches!(hasher.check("f", etag), Err(HubError::Damaged { .. })));
        }
        let mut other = Hasher::new("abc-1", Some(5));
        other.update(b"anything");
        other.check("f", "abc-1").unwrap();
    }
}
