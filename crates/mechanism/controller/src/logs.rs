//! The node's log file, read from its end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// At most so much is read at a time.
const MAX_BYTES: u64 = 1 << 20;

/// What of the file is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogRange {
    /// From there on; absent is so many lines before the end.
    pub(crate) offset: Option<u64>,
    /// Lines at most, the newest.
    pub(crate) lines: u64,
}

/// Whole lines of the file, and where they end.
pub(crate) fn read(path: &Path, wanted: LogRange) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let earliest = length.saturating_sub(MAX_BYTES);
    // A file that is shorter than it was has been begun anew.
    let offset = wanted.offset.filter(|offset| *offset <= length);
    let begin = offset.unwrap_or(earliest).max(earliest);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    // Where the begin was cut off, it lies in the middle of a line.
    let is_cut = begin > 0 && offset != Some(begin);
    let first = bytes.iter().position(|byte| *byte == b'\n').filter(|_| is_cut);
    let first = first.map_or(0, |at| at + 1);
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&bytes[first..end]).into_owned();
    let end = begin + end as u64;
    if offset.is_some() {
        return Ok((text, end));
    }
    let lines: Vec<&str> = text.lines().collect();
    let most = usize::try_from(wanted.lines).unwrap_or(usize::MAX);
    let newest = &lines[lines.len().saturating_sub(most)..];
    Ok((newest.iter().map(|line| format!("{line}\n")).collect(), end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_newest_lines_and_then_what_follows() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "one\ntwo\nthree\nhal").unwrap();
        let newest = LogRange { offset: None, lines: 2 };
        let (text, offset) = read(file.path(), newest).unwrap();
        assert_eq!(text, "two\nthree\n");
        writeln!(file, "f").unwrap();
        let next = LogRange { offset: Some(offset), lines: 2 };
        assert_eq!(read(file.path(), next).unwrap().0, "half\n");
        let gone = LogRange { offset: Some(1000), lines: 1 };
        assert_eq!(read(file.path(), gone).unwrap().0, "half\n");
    }
}
