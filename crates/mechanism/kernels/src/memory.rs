//! File mappings for weights and lazily touched memory for the KV cache.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};

/// A read-only shared mapping of a whole file: replicas of a model share its page cache.
///
/// The file must not be cut short while it is mapped: touching a page behind its new end kills the
/// process with SIGBUS, as with every file mapping. Replace checkpoints by renaming, never in place.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`. Reads nothing yet.
    ///
    /// # Errors
    /// Whatever opening or mapping the file reports; the caller knows the path.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private to readers and never written through. Memory safety needs
        // that nobody changes the bytes while they are borrowed; model directories are immutable
        // by contract (see the type's documentation), and numbers are valid in any bit pattern.
        let map = unsafe { Mmap::map(&file)? };
        Ok(MappedFile { map })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Asks the kernel to read `range` (bytes, clamped to the file) ahead; returns at once.
    ///
    /// # Errors
    /// What `madvise` reports.
    pub fn advise_willneed(&self, range: Range<usize>) -> io::Result<()> {
        let (start, len) = self.clamp(range);
        if len == 0 {
            return Ok(());
        }
        self.map.advise_range(Advice::WillNeed, start, len)
    }

    /// Reads `range` (bytes, clamped to the file) and maps its pages; blocks until that is done,
    /// so call it from a background thread. Kernels before 5.14 get a read-ahead instead.
    ///
    /// # Errors
    /// What `madvise` reports, such as an input/output error of the disk.
    pub fn prefault(&self, range: Range<usize>) -> io::Result<()> {
        let (start, len) = self.clamp(range);
        if len == 0 {
            return Ok(());
        }
        match self.map.advise_range(Advice::PopulateRead, start, len) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                self.map.advise_range(Advice::WillNeed, start, len)
            }
            done => done,
        }
    }

    fn clamp(&self, range: Range<usize>) -> (usize, usize) {
        let end = range.end.min(self.map.len());
        let start = range.start.min(end);
        (start, end - start)
    }
}

/// Anonymous zeroed memory that costs nothing until touched and reserves no swap.
#[derive(Debug)]
pub struct ZeroedMemory {
    map: Option<MmapMut>,
}

impl ZeroedMemory {
    /// Maps `bytes` bytes.
    ///
    /// # Errors
    /// What `mmap` reports, such as an exhausted address space.
    pub fn new(bytes: usize) -> io::Result<ZeroedMemory> {
        if bytes == 0 {
            return Ok(ZeroedMemory { map: None });
        }
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        Ok(ZeroedMemory { map: Some(map) })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// The bytes, writable.
    #[expect(clippy::should_implement_trait, reason = "the trait would hide the cost of touching")]
    pub fn as_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or(&mut [])
    }

    /// Gives the pages back to the system; the bytes read as zero again.
    ///
    /// # Errors
    /// What `mmap` reports.
    pub fn clear(&mut self) -> io::Result<()> {
        *self = ZeroedMemory::new(self.bytes().len())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_shows_its_bytes_and_prefaults_any_range() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = MappedFile::open(&path).unwrap();
        for range in [0..100_000, 5..17, 99_999..200_000, 300_000..400_000, 7..7] {
            map.prefault(range.clone()).unwrap();
            map.advise_willneed(range).unwrap();
        }
        assert_eq!(map.bytes(), bytes);
        assert!(MappedFile::open(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        let map = MappedFile::open(&path).unwrap();
        map.prefault(0..10).unwrap();
        assert!(map.bytes().is_empty());
    }

    #[test]
    fn zeroed_memory_is_zero_writable_and_can_be_cleared() {
        let mut memory = ZeroedMemory::new(1 << 20).unwrap();
        assert!(memory.bytes().iter().all(|&b| b == 0));
        memory.as_mut()[12_345] = 7;
        assert_eq!(memory.bytes()[12_345], 7);
        memory.clear().unwrap();
        assert_eq!(memory.bytes()[12_345], 0);
        assert!(ZeroedMemory::new(0).unwrap().as_mut().is_empty());
    }
}
