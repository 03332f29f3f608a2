use super::*;

/// A pickle from its parts.
fn program(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Pushes a [2, 3] tensor of a half storage, as torch.save spells it.
fn tensor() -> Vec<u8> {
    program(&[
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nHalfStorage\n",
        &text("7"),
        &text("cpu"),
        b"K\x09tQ",        // nine elements
        b"K\x01",          // offset
        b"K\x02K\x03\x86", // shape
        b"K\x03K\x01\x86", // strides
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
        b"tR",
    ])
}

fn expected(name: &str) -> PickledTensor {
    PickledTensor {
        name: name.into(),
        storage: Storage { dtype: "F16", key: "7".into() },
        offset: 1,
        shape: vec![2, 3],
        strides: vec![3, 1],
    }
}

#[test]
fn dicts_of_tensors_are_read() {
    let plain = program(&[b"\x80\x02}(", &text("w"), &tensor(), &text("v"), &tensor(), b"u."]);
    assert_eq!(read(&plain), Ok(vec![expected("w"), expected("v")]));
    let ordered = program(&[
        b"\x80\x02ccollections\nOrderedDict\n)Rq\x00",
        &text("w"),
        &tensor(),
        b"s}",
        &text("_metadata"),
        b"Nsb.",
    ]);
    assert_eq!(read(&ordered), Ok(vec![expected("w")]));
    let parameter = program(&[
        b"}",
        &text("w"),
        b"ctorch._utils\n_rebuild_parameter\n(",
        &tensor(),
        b"\x88)tRs.",
    ]);
    assert_eq!(read(&parameter), Ok(vec![expected("w")]));
}

fn check_refused(pickle: &[u8], word: &str) {
    let message = read(pickle).expect_err("refused").to_string();
    assert!(message.contains(word), "'{message}' lacks '{word}'");
}

#[test]
fn any_other_global_is_refused_by_name() {
    check_refused(b"cposix\nsystem\n", "posix.system");
    check_refused(&program(&[b"cos\nsystem\n(", &text("true"), b"tR."]), "os.system");
    check_refused(b"c__builtin__\neval\n", "__builtin__.eval");
    check_refused(b"ctorch\nload\n", "torch.load");
    check_refused(b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n", "__globals__");
    check_refused(&program(&[&text("os"), &text("system"), b"\x93"]), "os.system");
}

#[test]
fn other_opcodes_and_shapes_of_data_are_refused() {
    check_refused(b"", "too early");
    check_refused(b"\x80\x02", "too early");
    check_refused(b"i__main__\nx\n", "opcode 0x69");
    check_refused(b"N.", "something else than a dict");
    check_refused(&program(&[b"}", &text("w"), b"K\x01s."]), "'w' is no tensor");
    check_refused(&program(&[b"}K\x01", &tensor(), b"s."]), "text is expected");
    check_refused(&program(&[b"}(", &text("w"), &tensor(), &text("w"), &tensor(), b"u."]), "twice");
    check_refused(b"N(K\x01K\x02u.", "something else than a dict");
    check_refused(b"u", "did not start");
    check_refused(b"h\x05", "not stored");
    check_refused(b"q\x05", "empty");
    check_refused(b"K\x01)R", "no function");
    check_refused(b"ccollections\nOrderedDict\nN\x85R", "arguments");
    check_refused(b"X\xff\xff\xff\xff", "too early");
    check_refused(b"X\x02\0\0\0\xff\xff", "UTF-8");
    check_refused(b"(.", "empty");
}

#[test]
fn numbers_are_read_in_every_width() {
    let value = |pickle: &[u8]| Machine::new(pickle).run();
    assert_eq!(value(b"K\xff."), Ok(Value::Int(255)));
    assert_eq!(value(b"M\xff\xff."), Ok(Value::Int(65535)));
    assert_eq!(value(b"J\xff\xff\xff\xff."), Ok(Value::Int(-1)));
    assert_eq!(value(b"\x8a\x00."), Ok(Value::Int(0)));
    assert_eq!(value(b"\x8a\x05\0\0\0\0\x01."), Ok(Value::Int(1 << 32)));
    assert_eq!(value(b"\x8a\x01\xfe."), Ok(Value::Int(-2)));
    assert!(value(b"\x8a\x09\0\0\0\0\0\0\0\0\x01.").is_err());
}

#[test]
fn values_are_bounded() {
    // One byte makes a value of the arena, of the stack or of the memo.
    for opcode in [b")", b"(", b"\x94"] {
        check_refused(&program(&[b"N", &opcode.repeat(1 << 21)]), "more values");
    }
}

#[test]
fn deep_nesting_costs_no_stack() {
    let mut pickle = b"N".to_vec();
    pickle.extend(b"\x85".repeat(1 << 19));
    pickle.push(b'.');
    check_refused(&pickle, "something else than a dict");
}
