//! The directory of a zip archive whose members are stored as they are.

use std::collections::BTreeMap;
use std::ops::Range;

const END: u32 = 0x0605_4b50;
const END_LEN: usize = 22;
const END64_LOCATOR: u32 = 0x0706_4b50;
const END64_LOCATOR_LEN: usize = 20;
const END64: u32 = 0x0606_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const CENTRAL_LEN: usize = 46;
const LOCAL: u32 = 0x0403_4b50;
const LOCAL_LEN: usize = 30;
const ENCRYPTED: u16 = 1;
const STORED: u16 = 0;

/// An archive's members by name. Reasons for failures are plain text.
pub(super) struct Archive<'a> {
    file: &'a [u8],
    members: BTreeMap<String, Member>,
}

struct Member {
    flags: u16,
    method: u16,
    compressed: u64,
    size: u64,
    header: u64,
}

impl<'a> Archive<'a> {
    /// Reads the central directory.
    pub(super) fn read(file: &'a [u8]) -> Result<Archive<'a>, String> {
        let (count, start, end) = find_directory(file)?;
        let mut members = BTreeMap::new();
        let mut at = start;
        for _ in 0..count {
            let (name, member, next) = read_member(&file[..end], at)
                .ok_or("the zip directory is damaged: truncated, or no file of torch.save")?;
            if members.insert(name.clone(), member).is_some() {
                return Err(format!("the zip directory lists '{name}' twice"));
            }
            at = next;
        }
        Ok(Archive { file, members })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Where a member's bytes lie; `None` if there is no such member.
    pub(super) fn member(&self, name: &str) -> Option<Result<Range<usize>, String>> {
        let member = self.members.get(name)?;
        if member.method != STORED
            || member.flags & ENCRYPTED != 0
            || member.compressed != member.size
        {
            return Some(Err(format!("member '{name}' is compressed or encrypted")));
        }
        Some(
            self.range(member)
                .ok_or_else(|| format!("member '{name}' lies outside the file: truncated")),
        )
    }

    fn range(&self, member: &Member) -> Option<Range<usize>> {
        let header = usize::try_from(member.header).ok()?;
        let fixed = self.file.get(header..header.checked_add(LOCAL_LEN)?)?;
        if u32_at(fixed, 0)? != LOCAL {
            return None;
        }
        let variable = u16_at(fixed, 26)? as usize + u16_at(fixed, 28)? as usize;
        let start = header + LOCAL_LEN + variable;
        let end = start.checked_add(usize::try_from(member.size).ok()?)?;
        (end <= self.file.len()).then_some(start..end)
    }
}

/// Number of members, start and end of the central directory.
fn find_directory(file: &[u8]) -> Result<(u64, usize, usize), String> {
    let damaged = || "no zip directory at its end: truncated, or no file of torch.save".to_owned();
    let last = file.len().checked_sub(END_LEN).ok_or_else(damaged)?;
    let first = last.saturating_sub(u16::MAX as usize);
    let end = (first..=last).rev().find(|&at| u32_at(file, at) == Some(END)).ok_or_else(damaged)?;
    directory_at(file, end).ok_or_else(damaged)
}

fn directory_at(file: &[u8], end: usize) -> Option<(u64, usize, usize)> {
    let mut count = u64::from(u16_at(file, end + 10)?);
    let mut size = u64::from(u32_at(file, end + 12)?);
    let mut start = u64::from(u32_at(file, end + 16)?);
    let mut limit = end;
    let overflow =
        count == u64::from(u16::MAX) || size == u64::from(u32::MAX) || start == u64::from(u32::MAX);
    let locator = end.checked_sub(END64_LOCATOR_LEN);
    let locator = locator.filter(|&at| overflow && u32_at(file, at) == Some(END64_LOCATOR));
    if let Some(locator) = locator {
        let end64 = usize::try_from(u64_at(file, locator + 8)?).ok()?;
        if u32_at(file, end64)? != END64 {
            return None;
        }
        count = u64_at(file, end64 + 32)?;
        size = u64_at(file, end64 + 40)?;
        start = u64_at(file, end64 + 48)?;
        limit = end64;
    }
    let stop = usize::try_from(start.checked_add(size)?).ok()?;
    (stop <= limit).then_some((count, start as usize, stop))
}

/// The member's name and facts, and where the next entry starts.
fn read_member(directory: &[u8], at: usize) -> Option<(String, Member, usize)> {
    let fixed = directory.get(at..at.checked_add(CENTRAL_LEN)?)?;
    if u32_at(fixed, 0)? != CENTRAL {
        return None;
    }
    let name_len = u16_at(fixed, 28)? as usize;
    let extra_len = u16_at(fixed, 30)? as usize;
    let comment_len = u16_at(fixed, 32)? as usize;
    let name_at = at + CENTRAL_LEN;
    let name = directory.get(name_at..name_at + name_len)?;
    let extra = directory.get(name_at + name_len..name_at + name_len + extra_len)?;
    let mut member = Member {
        flags: u16_at(fixed, 8)?,
        method: u16_at(fixed, 10)?,
        compressed: u64::from(u32_at(fixed, 20)?),
        size: u64::from(u32_at(fixed, 24)?),
        header: u64::from(u32_at(fixed, 42)?),
    };
    widen(&mut member, extra)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some((name, member, name_at + name_len + extra_len + comment_len))
}

/// Takes those numbers that did not fit 32 bits from the ZIP64 field.
fn widen(member: &mut Member, mut extra: &[u8]) -> Option<()> {
    let narrow = u64::from(u32::MAX);
    if ![member.size, member.compressed, member.header].contains(&narrow) {
        return Some(());
    }
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0)?, u16_at(extra, 2)? as usize);
        let mut field = extra.get(4..4 + length)?;
        extra = &extra[4 + length..];
        if id == 1 {
            for number in [&mut member.size, &mut member.compressed, &mut member.header] {
                if *number == narrow {
                    *number = u64_at(field, 0)?;
                    field = &field[8..];
                }
            }
            return Some(());
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests;
