//! Weights rounded to groups of 8 or 4 bits: made at the first load, kept beside the checkpoint.
//!
//! The file is `.tyndall/weights-int8.grouped` in the checkpoint's directory, or one named by its
//! key in the directory that the caller offers, where the first cannot be written. It is mapped and
//! used in place like the checkpoint, so that replicas share it.
//!
//! Format: 4 KiB of header, then every matrix in the order of [`Weights::matrices_mut`], each from a
//! multiple of 64 bytes on, as [`Cpu::quantize`] writes it. The header is a magic number with the
//! format's version, the file's length, the key, and the hash of a sample: the first and the last
//! 64 bytes of each matrix. Sizes follow from the model's shapes, so that nothing in the file can
//! lead a reader astray.
//!
//! The key is a hash of the version, the shapes and types, and of the sources: each file's name,
//! length and time of modification, and each tensor's name, type, shape and place. Another
//! checkpoint under the same name thus has another key. A file with another key, length or sample
//! is not used but replaced. A new file appears whole, by a rename after its bytes are on the disk;
//! who makes it holds a lock, so that a second replica waits for it rather than make its own. The
//! wait is bounded by the replica's start-up timeout.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tyndall_kernels::{Cpu, GroupedType, KernelError, MappedFile, Weight};
use tyndall_types::protocol::Quantization;

use crate::checkpoint::{Checkpoint, TensorBytes};
use crate::weights::{LoadError, MatrixWeight, Weights};

/// Changes with the format and with the layout of the matrices.
const MAGIC: &[u8; 8] = b"TYNGRP01";
const HEADER_BYTES: usize = 4096;
const ALIGN: usize = 64;
/// Bytes at each end of a matrix that are checked when the file is opened.
const SAMPLE_BYTES: usize = 64;
/// Beside the checkpoint.
const DIR: &str = ".tyndall";

/// Where rounded weights are kept when they cannot be beside the checkpoint, and who hears of it.
pub struct QuantizeOptions<'a> {
    /// A directory of the program's own; absent keeps them in memory then.
    pub fallback_dir: Option<&'a Path>,
    /// Called from the loading thread.
    pub on_event: &'a mut dyn FnMut(QuantizeEvent<'_>),
}

/// The kernels' name for what a deployment asks for.
pub fn grouped_type(quantization: Quantization) -> Option<GroupedType> {
    match quantization {
        Quantization::None => None,
        Quantization::Int8 => Some(GroupedType::Int8),
        Quantization::Int4 => Some(GroupedType::Int4),
    }
}

/// What happens while weights are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizeEvent<'a> {
    /// A file from an earlier load is used.
    Reused {
        /// The file.
        path: &'a Path,
    },
    /// A file is there but not usable, and will be replaced.
    Refused {
        /// The file.
        path: &'a Path,
        /// What is wrong with it.
        reason: &'a str,
    },
    /// Rounding begins; it is done once per checkpoint.
    Started {
        /// How many weights.
        num_weights: u64,
    },
    /// The rounded weights are in a file.
    Kept {
        /// The file.
        path: &'a Path,
        /// Its length.
        bytes: u64,
    },
    /// They could not be written there.
    NotKept {
        /// The directory.
        dir: &'a Path,
        /// What the system says.
        reason: &'a str,
    },
}

/// A matrix of the file.
struct Place {
    grouped: GroupedType,
    shape: [usize; 2],
    bytes: Range<usize>,
}

/// What a file must be.
struct Layout {
    places: Vec<Place>,
    file_bytes: usize,
    key: [u8; 32],
}

/// Replaces every matrix that a step reads as a whole by its rounded form.
///
/// # Errors
/// [`LoadError::Quantize`]; a directory that cannot be written is an event, no error.
pub(crate) fn quantize(
    dir: &Path,
    checkpoint: &Checkpoint,
    weights: &mut Weights,
    (asked, cpu): (GroupedType, &Cpu),
    options: &mut QuantizeOptions<'_>,
) -> Result<(), LoadError> {
    weights.separate_head();
    let mut matrices = weights.matrices_mut();
    let layout = Layout::new(dir, checkpoint, &matrices, asked)?;
    let paths = paths(dir, options.fallback_dir, asked, &layout.key);
    for path in &paths {
        match open(path, &layout) {
            Ok(Some(map)) => {
                (options.on_event)(QuantizeEvent::Reused { path });
                bind(&map, &layout, &mut matrices);
                return Ok(());
            }
            Ok(None) => {}
            Err(reason) => {
                (options.on_event)(QuantizeEvent::Refused { path, reason: &reason });
            }
        }
    }
    let count = |place: &Place| place.shape[0] as u64 * place.shape[1] as u64;
    let num_weights = layout.places.iter().map(count).sum();
    let mut started = false;
    for path in &paths {
        let parent = path.parent().unwrap_or(dir);
        let lock = match lock(parent) {
            Ok(lock) => lock,
            Err(error) => {
                not_kept(options, parent, &error);
                continue;
            }
        };
        // Whoever had the lock before may have made it.
        let map = match open(path, &layout) {
            Ok(Some(map)) => {
                (options.on_event)(QuantizeEvent::Reused { path });
                Some(map)
            }
            Ok(None) | Err(_) => {
                if !std::mem::replace(&mut started, true) {
                    (options.on_event)(QuantizeEvent::Started { num_weights });
                }
                write(path, &layout, &matrices, cpu, options)?
            }
        };
        drop(lock);
        if let Some(map) = map {
            bind(&map, &layout, &mut matrices);
            return Ok(());
        }
    }
    if !started {
        (options.on_event)(QuantizeEvent::Started { num_weights });
    }
    for (place, matrix) in std::iter::zip(&layout.places, &mut matrices) {
        let mut bytes = vec![0; place.bytes.len()];
        round(cpu, matrix, place, &mut bytes).map_err(failed)?;
        matrix.replace(place.grouped, TensorBytes::Owned(bytes.into()));
    }
    Ok(())
}

/// The type of a matrix. The head stays at 8 bits: its errors go straight into the logits.
pub(crate) fn type_of(asked: GroupedType, is_head: bool) -> GroupedType {
    if is_head { GroupedType::Int8 } else { asked }
}

impl Layout {
    fn new(
        dir: &Path,
        checkpoint: &Checkpoint,
        matrices: &[&mut MatrixWeight],
        asked: GroupedType,
    ) -> Result<Layout, LoadError> {
        let mut places = Vec::with_capacity(matrices.len());
        let mut end = HEADER_BYTES;
        for (index, matrix) in matrices.iter().enumerate() {
            let grouped = type_of(asked, index + 1 == matrices.len());
            let shape = matrix.shape();
            let start = end.next_multiple_of(ALIGN);
            end = start + grouped.matrix_bytes(shape[0], shape[1]).map_err(failed)?;
            places.push(Place { grouped, shape, bytes: start..end });
        }
        let key = key(checkpoint, &places)
            .map_err(|source| LoadError::Sources { source, dir: dir.into() })?;
        Ok(Layout { places, file_bytes: end, key })
    }

    /// The whole header of a file whose matrices are `map`'s.
    fn header(&self, sample: [u8; 32]) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend((self.file_bytes as u64).to_le_bytes());
        header.extend(self.key);
        header.extend(sample);
        header.resize(HEADER_BYTES, 0);
        header
    }
}

/// Identifies what the numbers were made from.
fn key(checkpoint: &Checkpoint, places: &[Place]) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(MAGIC);
    for Place { grouped, shape, .. } in places {
        hasher.update(format!("{grouped:?} {shape:?}\n").as_bytes());
    }
    for file in checkpoint.files() {
        let modified = fs::metadata(&file.path)?.modified()?;
        // Only equality counts, so that a time before 1970 may be any constant.
        let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = file.path.file_name().unwrap_or_default();
        let length = file.map.bytes().len();
        hasher.update(format!("{name:?} {length} {modified}\n").as_bytes());
    }
    for name in checkpoint.names() {
        hasher.update(format!("{name:?} {:?}\n", checkpoint.get(name)).as_bytes());
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Where the file may be, best first.
fn paths(dir: &Path, fallback: Option<&Path>, asked: GroupedType, key: &[u8; 32]) -> Vec<PathBuf> {
    let kind = match asked {
        GroupedType::Int8 => "int8",
        GroupedType::Int4 => "int4",
    };
    let beside = dir.join(DIR).join(format!("weights-{kind}.grouped"));
    let hex: String = key[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let other = fallback.map(|dir| dir.join(format!("{hex}-{kind}.grouped")));
    std::iter::once(beside).chain(other).collect()
}

/// The file at `path`, if it is there and right; what is wrong with it, if it is not right.
fn open(path: &Path, layout: &Layout) -> Result<Option<Arc<MappedFile>>, String> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let map = match MappedFile::open(path) {
        Ok(map) => map,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    verify(&map, layout).map_err(str::to_owned)?;
    Ok(Some(Arc::new(map)))
}

fn verify(map: &MappedFile, layout: &Layout) -> Result<(), &'static str> {
    let bytes = map.bytes();
    if bytes.get(..MAGIC.len()) != Some(MAGIC) {
        return Err("it is of another version, or no such file at all");
    }
    if bytes.len() != layout.file_bytes {
        return Err("it has another length than the model's shapes ask for");
    }
    let key = MAGIC.len() + 8..MAGIC.len() + 8 + layout.key.len();
    if bytes[key] != layout.key {
        return Err("it was made from another checkpoint");
    }
    if bytes[..HEADER_BYTES] != layout.header(sample(layout, |place| &bytes[place.bytes.clone()])) {
        return Err("it is damaged");
    }
    Ok(())
}

/// The hash of both ends of every matrix.
fn sample<'a>(layout: &Layout, matrix: impl Fn(&Place) -> &'a [u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for place in &layout.places {
        sample_matrix(&mut hasher, matrix(place));
    }
    *hasher.finalize().as_bytes()
}

fn sample_matrix(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    let size = SAMPLE_BYTES.min(bytes.len());
    hasher.update(&bytes[..size]);
    hasher.update(&bytes[bytes.len() - size..]);
}

/// Makes the directory and takes its lock, which ends with the handle and with the process.
fn lock(dir: &Path) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("weights.lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Rounds all matrices into a new file and maps it; none where it could not be written.
fn write(
    path: &Path,
    layout: &Layout,
    matrices: &[&mut MatrixWeight],
    cpu: &Cpu,
    options: &mut QuantizeOptions<'_>,
) -> Result<Option<Arc<MappedFile>>, LoadError> {
    // One name, as the lock is held: what a killed process left is overwritten.
    let temporary = path.with_extension("partial");
    let written = write_file(&temporary, layout, matrices, cpu)
        .and_then(|()| fs::rename(&temporary, path).map_err(Stop::Io))
        .and_then(|()| MappedFile::open(path).map_err(Stop::Io));
    match written {
        Ok(map) => {
            let bytes = layout.file_bytes as u64;
            (options.on_event)(QuantizeEvent::Kept { path, bytes });
            Ok(Some(Arc::new(map)))
        }
        Err(stop) => {
            // It may not even exist; the next attempt would overwrite it.
            fs::remove_file(&temporary).unwrap_or(());
            match stop {
                Stop::Kernel(source) => Err(failed(source)),
                Stop::Io(error) => {
                    not_kept(options, path.parent().unwrap_or(path), &error);
                    Ok(None)
                }
            }
        }
    }
}

/// Why a file was not written.
enum Stop {
    Io(io::Error),
    Kernel(KernelError),
}

fn write_file(
    path: &Path,
    layout: &Layout,
    matrices: &[&mut MatrixWeight],
    cpu: &Cpu,
) -> Result<(), Stop> {
    let mut file = File::create(path).map_err(Stop::Io)?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for (place, matrix) in std::iter::zip(&layout.places, matrices) {
        bytes.resize(place.bytes.len(), 0);
        round(cpu, matrix, place, &mut bytes).map_err(Stop::Kernel)?;
        sample_matrix(&mut hasher, &bytes);
        file.seek(SeekFrom::Start(place.bytes.start as u64)).map_err(Stop::Io)?;
        file.write_all(&bytes).map_err(Stop::Io)?;
    }
    let header = layout.header(*hasher.finalize().as_bytes());
    file.seek(SeekFrom::Start(0)).map_err(Stop::Io)?;
    file.write_all(&header).map_err(Stop::Io)?;
    file.sync_all().map_err(Stop::Io)
}

fn bind(map: &Arc<MappedFile>, layout: &Layout, matrices: &mut [&mut MatrixWeight]) {
    for (place, matrix) in std::iter::zip(&layout.places, matrices) {
        let bytes = TensorBytes::Mapped(Arc::clone(map), place.bytes.clone());
        matrix.replace(place.grouped, bytes);
    }
}

fn round(
    cpu: &Cpu,
    matrix: &MatrixWeight,
    place: &Place,
    bytes: &mut [u8],
) -> Result<(), KernelError> {
    match matrix.view()? {
        Weight::Plain(plain) => cpu.quantize(plain, place.grouped, bytes),
        Weight::Grouped(_) => unreachable!("only fresh weights of a checkpoint are rounded"),
    }
}

fn not_kept(options: &mut QuantizeOptions<'_>, dir: &Path, error: &io::Error) {
    (options.on_event)(QuantizeEvent::NotKept { dir, reason: &error.to_string() });
}

fn failed(source: KernelError) -> LoadError {
    LoadError::Quantize { source }
}
