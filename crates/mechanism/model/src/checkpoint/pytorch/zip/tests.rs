use super::*;

/// What to get wrong, or to do in another way, when writing an archive.
#[derive(Default, Clone, Copy)]
struct Style {
    zip64: bool,
    method: u16,
    flags: u16,
}

/// An archive of stored members, each of whose local headers has an extra field as padding.
fn archive(members: &[(&str, &[u8])], style: Style) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in members {
        let header = file.len() as u64;
        file.extend(LOCAL.to_le_bytes());
        file.extend([0; 22]);
        file.extend((name.len() as u16).to_le_bytes());
        file.extend(5u16.to_le_bytes());
        file.extend(name.as_bytes());
        file.extend([0x46, 0x42, 1, 0, b'Z']);
        file.extend(*data);

        let size = data.len() as u64;
        let narrow = |number: u64| if style.zip64 { u32::MAX } else { number as u32 };
        let mut extra = vec![0x46, 0x42, 0, 0];
        if style.zip64 {
            extra.extend([1, 0, 24, 0]);
            extra.extend([size, size, header].map(u64::to_le_bytes).concat());
        }
        directory.extend(CENTRAL.to_le_bytes());
        directory.extend([0; 4]);
        directory.extend(style.flags.to_le_bytes());
        directory.extend(style.method.to_le_bytes());
        directory.extend([0; 8]);
        directory.extend(narrow(size).to_le_bytes());
        directory.extend(narrow(size).to_le_bytes());
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]);
        directory.extend(narrow(header).to_le_bytes());
        directory.extend(name.as_bytes());
        directory.extend(extra);
    }
    let (count, start) = (members.len() as u64, file.len() as u64);
    let size = directory.len() as u64;
    file.extend(directory);
    if style.zip64 {
        let end64 = file.len() as u64;
        file.extend(END64.to_le_bytes());
        file.extend([0; 20]);
        file.extend([count, count, size, start].map(u64::to_le_bytes).concat());
        file.extend(END64_LOCATOR.to_le_bytes());
        file.extend([0; 4]);
        file.extend(end64.to_le_bytes());
        file.extend([0; 4]);
    }
    file.extend(END.to_le_bytes());
    file.extend([0; 4]);
    let count = if style.zip64 { u16::MAX } else { count as u16 };
    file.extend([count, count].map(u16::to_le_bytes).concat());
    let wide = |number: u64| if style.zip64 { u32::MAX } else { number as u32 };
    file.extend([wide(size), wide(start)].map(u32::to_le_bytes).concat());
    file.extend([4, 0]);
    file.extend(b"note");
    file
}

const MEMBERS: &[(&str, &[u8])] =
    &[("a/data.pkl", b"pickle"), ("a/data/0", b"numbers"), ("a/empty", b"")];

fn check_reads(file: &[u8]) {
    let archive = Archive::read(file).expect("a good archive");
    assert_eq!(archive.names().count(), MEMBERS.len());
    for (name, data) in MEMBERS {
        let range = archive.member(name).expect("it is there").expect("it is stored");
        assert_eq!(&file[range], *data);
    }
    assert!(archive.member("a/data/1").is_none());
}

#[test]
fn both_sizes_of_directory_are_read() {
    check_reads(&archive(MEMBERS, Style::default()));
    check_reads(&archive(MEMBERS, Style { zip64: true, ..Style::default() }));
}

#[test]
fn compressed_and_encrypted_members_are_refused() {
    for style in [Style { method: 8, ..Style::default() }, Style { flags: 1, ..Style::default() }] {
        let file = archive(MEMBERS, style);
        let archive = Archive::read(&file).expect("a good directory");
        let reason = archive.member("a/data/0").expect("it is there").expect_err("refused");
        assert!(reason.contains("'a/data/0' is compressed or encrypted"), "{reason}");
    }
}

#[test]
fn every_truncation_is_refused() {
    for zip64 in [false, true] {
        let file = archive(MEMBERS, Style { zip64, ..Style::default() });
        // The note at the end may be cut.
        for length in 0..file.len() - 4 {
            assert!(Archive::read(&file[..length]).is_err(), "{length} of {}", file.len());
        }
    }
}

#[test]
fn doubled_names_are_refused() {
    let file = archive(&[("a", b"1"), ("a", b"2")], Style::default());
    assert!(Archive::read(&file).err().is_some_and(|reason| reason.contains("'a' twice")));
}
