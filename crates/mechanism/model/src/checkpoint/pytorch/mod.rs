//! PyTorch's zip format (`torch.save` since 1.6), restricted to state dicts of tensors.
//!
//! 1. The archive's directory says where its members lie ([`zip`]).
//! 2. `data.pkl` says which tensor is which part of which member ([`pickle`]); it is interpreted by
//!    a machine that can build dicts and tensors and nothing else.
//! 3. Members are stored without compression, so tensors are used in place.

mod pickle;
mod zip;

use super::{Entry, Flaw, Layout, MAX_RANK, StoredType};
use pickle::PickledTensor;

/// A state dict's pickle is about 200 bytes per tensor.
const MAX_PICKLE_BYTES: usize = 16 << 20;
const LEGACY_MAGIC: [u8; 4] = [0x80, 0x02, 0x8a, 0x0a];
const CURE: &str = "save it as safetensors, or with a current torch";

/// Lists the tensors of a file.
pub(super) fn read(file: &[u8]) -> Result<Vec<Entry>, Flaw> {
    if file.starts_with(&LEGACY_MAGIC) {
        return Err(Flaw::File(format!("it has the format of torch before 1.6; {CURE}")));
    }
    let archive = zip::Archive::read(file).map_err(Flaw::File)?;
    let pickles: Vec<&str> = archive.names().filter(|name| name.ends_with("/data.pkl")).collect();
    let [pickle_name] = pickles[..] else {
        return Err(Flaw::File(format!(
            "a zip archive with {} members named data.pkl is not from torch.save; {CURE}",
            pickles.len()
        )));
    };
    let prefix = pickle_name.strip_suffix("data.pkl").expect("the name was chosen by this ending");
    if let Some(order) = archive.member(&format!("{prefix}byteorder")) {
        let order = order.map_err(Flaw::File)?;
        if &file[order] != b"little" {
            return Err(Flaw::File(format!("its tensors are big-endian; {CURE}")));
        }
    }
    let pickle =
        archive.member(pickle_name).expect("the name came from the archive").map_err(Flaw::File)?;
    if pickle.len() > MAX_PICKLE_BYTES {
        return Err(Flaw::File(format!(
            "its data.pkl has {} bytes, more than any state dict",
            pickle.len()
        )));
    }
    let tensors = pickle::read(&file[pickle]).map_err(|error| {
        Flaw::File(format!("its data.pkl is no plain dict of tensors: {error}; {CURE}"))
    })?;
    let locate = |tensor| locate(&archive, prefix, tensor);
    tensors.into_iter().map(locate).collect()
}

/// Finds a tensor's bytes and checks that they are all there.
fn locate(archive: &zip::Archive<'_>, prefix: &str, tensor: PickledTensor) -> Result<Entry, Flaw> {
    let PickledTensor { name, storage, offset, shape, strides } = tensor;
    let flaw = |reason: String| Flaw::tensor(&name, reason);
    let member = archive
        .member(&format!("{prefix}data/{}", storage.key))
        .ok_or_else(|| {
            flaw(format!("its storage '{}' is not in the archive; {CURE}", storage.key))
        })?
        .map_err(flaw)?;
    if shape.len() > MAX_RANK || shape.len() != strides.len() {
        return Err(flaw(format!("shape {shape:?} and strides {strides:?} do not fit; {CURE}")));
    }
    let (dtype, size) = StoredType::named(storage.dtype);
    let size = size.expect("storages have only types of known size");
    let stored = member.len() / size;
    let outside =
        || flaw(format!("shape {shape:?} reaches beyond the {stored} elements stored; {CURE}"));
    let count = shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size))
        .ok_or_else(outside)?;
    let last = match count {
        0 => None,
        _ => std::iter::zip(&shape, &strides).try_fold(offset, |last, (&size, &stride)| {
            last.checked_add((size - 1).checked_mul(stride)?)
        }),
    };
    // `count` can exceed what is stored only when strides of 0 repeat elements; no weight does.
    if (count > 0 && last.is_none_or(|last| last >= stored)) || offset > stored || count > stored {
        return Err(outside());
    }
    let start = member.start + offset * size;
    let layout = match count == 0 || is_contiguous(&shape, &strides) {
        true => Layout::Contiguous(start..start + count * size),
        false => Layout::Strided { storage: start..member.end, strides },
    };
    Ok((name, dtype, shape, layout))
}

/// Steps over dimensions of one element do not matter.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    for (&size, &stride) in std::iter::zip(shape, strides).rev() {
        if size != 1 && stride != expected {
            return false;
        }
        expected *= size;
    }
    true
}

#[cfg(test)]
mod tests;
