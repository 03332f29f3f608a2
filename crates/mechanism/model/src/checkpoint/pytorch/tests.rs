use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::StoredType;
use tyndall_kernels::DType;

fn fixture() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/opt-pytorch-f16/pytorch_model.bin");
    std::fs::read(path).expect("a committed file")
}

fn reason(file: &[u8]) -> String {
    match read(file) {
        Err(Flaw::File(reason)) => reason,
        Err(Flaw::Tensor { name, reason }) => format!("'{name}': {reason}"),
        Ok(_) => panic!("it is accepted"),
    }
}

#[test]
fn a_file_of_torch_save_is_read_in_place() {
    let file = fixture();
    let entries = read(&file).expect("a good file");
    let (_, dtype, shape, layout) = entries
        .iter()
        .find(|(name, ..)| name == "decoder.embed_tokens.weight")
        .expect("the embedding");
    assert_eq!((dtype, &shape[..]), (&StoredType::Float(DType::F16), &[304, 64][..]));
    let Layout::Contiguous(range) = layout else { panic!("it is contiguous") };
    assert_eq!(range.len(), 304 * 64 * 2);
}

#[test]
fn files_of_another_kind_are_refused() {
    assert!(reason(b"").contains("no zip directory"));
    assert!(reason(&[0; 4000]).contains("no zip directory"));
    assert!(reason(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("before 1.6"));
    let mut empty = b"PK\x05\x06".to_vec();
    empty.resize(22, 0);
    assert!(reason(&empty).contains("0 members named data.pkl"));
}

#[test]
fn a_truncated_file_is_refused() {
    let file = fixture();
    for length in [file.len() - 1, file.len() / 2, 100] {
        assert!(reason(&file[..length]).contains("truncated"), "{length}");
    }
}

/// Replaces bytes of the same length, wherever they are.
fn replaced(file: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut file = file.to_vec();
    let mut found = 0;
    for at in 0..file.len() - from.len() {
        if &file[at..at + from.len()] == from {
            file[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0, "the pattern is not there");
    file
}

#[test]
fn hostile_pickles_are_refused() {
    let global = b"ctorch._utils\n_rebuild_tensor_v2\n";
    let evil = format!("{:#<1$}\n", "cos\nsystem", global.len() - 1);
    let evil = replaced(&fixture(), global, evil.as_bytes());
    assert!(reason(&evil).contains("os.system"), "{}", reason(&evil));
    let huge = replaced(&fixture(), b"M0\x01K@\x86", b"M0\xffK@\x86");
    assert!(reason(&huge).contains("beyond"), "{}", reason(&huge));
    let big_endian = replaced(&fixture(), b"little", b"biggie");
    assert!(reason(&big_endian).contains("big-endian"));
}

#[test]
fn contiguity_ignores_steps_of_single_rows() {
    assert!(is_contiguous(&[2, 3], &[3, 1]));
    assert!(is_contiguous(&[1, 3], &[77, 1]));
    assert!(is_contiguous(&[], &[]));
    assert!(!is_contiguous(&[2, 3], &[1, 2]));
    assert!(!is_contiguous(&[2, 3], &[4, 1]));
}

/// A program builds no more than it spells out.
fn check_sizes(program: &[u8]) -> Result<(), TestCaseError> {
    let tensors = pickle::read(program).unwrap_or_default();
    prop_assert!(
        tensors.iter().map(|tensor| 1 + tensor.name.len()).sum::<usize>() <= program.len()
    );
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes).is_err());
        check_sizes(&bytes)?;
    }

    /// Opcodes at random reach deeper than bytes at random.
    #[test]
    fn no_program_makes_the_machine_panic(
        opcodes in prop::collection::vec(prop::sample::select(
            &b"\x80\x95(NKMJ\x88\x89\x8aX\x8cc)]}qhrj\x94t\x85\x86\x87suaeb\x93QR.\x00\x01\x02ctorch\nHalfStorage\n"[..],
        ), 0..200),
    ) {
        check_sizes(&opcodes)?;
    }

    #[test]
    fn no_change_makes_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut file = fixture();
        // Only headers, pickle and directory matter: the first and the last pages.
        let edge = 12 << 10;
        for (at, byte) in changes {
            let at = at.index(2 * edge);
            let at = if at < edge { at } else { file.len() - 1 - (at - edge) };
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        for (_, _, _, layout) in read(&file).into_iter().flatten() {
            let range = match layout {
                Layout::Contiguous(range) => range,
                Layout::Strided { storage, .. } => storage,
            };
            prop_assert!(range.start <= range.end && range.end <= file.len());
        }
    }
}
