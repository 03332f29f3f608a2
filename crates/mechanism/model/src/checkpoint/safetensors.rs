//! The safetensors header: eight bytes of length, JSON, then the tensors' bytes without gaps.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{Entry, Flaw, Layout, MAX_RANK, StoredType};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const DAMAGED: &str = "download or save the checkpoint again";

/// Lists the tensors of a file.
pub(super) fn read(file: &[u8]) -> Result<Vec<Entry>, Flaw> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        let reason = format!("{} bytes are too few for a safetensors file; {DAMAGED}", file.len());
        return Err(Flaw::File(reason));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(Flaw::File(format!(
            "it states a header of {length} bytes, but {} bytes follow: \
             truncated, or no safetensors file; {DAMAGED}",
            rest.len()
        )));
    }
    let (header, data) = rest.split_at(length as usize);
    let Header(tensors) = serde_json::from_slice(header)
        .map_err(|error| Flaw::File(format!("its header is not valid: {error}; {DAMAGED}")))?;
    let mut entries = Vec::with_capacity(tensors.len());
    let mut ranges = Vec::with_capacity(tensors.len());
    for (name, raw) in tensors {
        let (start, end) = check(&name, &raw, data.len())?;
        ranges.push((start, end, name.clone()));
        let (dtype, _) = StoredType::named(&raw.dtype);
        let base = file.len() - data.len();
        let shape = raw.shape.iter().map(|&size| size as usize).collect();
        entries.push((name, dtype, shape, Layout::Contiguous(base + start..base + end)));
    }
    check_cover(ranges, data.len())?;
    Ok(entries)
}

/// The tensor's byte range within the data, if it agrees with type and shape.
fn check(name: &str, raw: &RawTensor, data_len: usize) -> Result<(usize, usize), Flaw> {
    let [start, end] = raw.data_offsets;
    if start > end {
        return Err(Flaw::tensor(
            name,
            format!("its data ends ({end}) before it starts ({start}); {DAMAGED}"),
        ));
    }
    if end > data_len as u64 {
        return Err(Flaw::tensor(
            name,
            format!(
                "its data ends at {end}, but the file has {data_len} bytes of data: \
                 truncated; {DAMAGED}"
            ),
        ));
    }
    if raw.shape.len() > MAX_RANK {
        return Err(Flaw::tensor(name, format!("it has {} dimensions", raw.shape.len())));
    }
    if let (_, Some(size)) = StoredType::named(&raw.dtype) {
        let bytes = raw.shape.iter().try_fold(size as u64, |bytes, &size| bytes.checked_mul(size));
        if bytes != Some(end - start) {
            return Err(Flaw::tensor(
                name,
                format!(
                    "shape {:?} of {} does not take the {} bytes it has; {DAMAGED}",
                    raw.shape,
                    raw.dtype,
                    end - start
                ),
            ));
        }
    }
    // Both are at most `data_len`, a usize.
    Ok((start as usize, end as usize))
}

/// The format demands that tensors neither overlap nor leave gaps.
fn check_cover(mut ranges: Vec<(usize, usize, String)>, data_len: usize) -> Result<(), Flaw> {
    ranges.sort_unstable();
    let mut covered = 0;
    for (start, end, name) in ranges {
        if start < covered {
            return Err(Flaw::tensor(
                &name,
                format!("its data overlaps another tensor's; {DAMAGED}"),
            ));
        }
        if start > covered {
            let reason =
                format!("{} bytes before it belong to no tensor; {DAMAGED}", start - covered);
            return Err(Flaw::tensor(&name, reason));
        }
        covered = end;
    }
    match data_len - covered {
        0 => Ok(()),
        rest => Err(Flaw::File(format!("its last {rest} bytes belong to no tensor; {DAMAGED}"))),
    }
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A map that does not accept the same name twice.
struct Header(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let tensor = map.next_value()?;
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("tensor '{name}' is listed twice")));
            }
            tensors.push((name, tensor));
        }
        Ok(Header(tensors))
    }
}
