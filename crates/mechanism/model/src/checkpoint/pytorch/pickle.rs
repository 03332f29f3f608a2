//! A pickle machine that can build dicts of tensors and nothing else.
//!
//! A pickle is a program, and a full interpreter runs whatever functions it names. This one knows
//! four by name and refuses any other; none of them does more than make a value below. Values live
//! in an arena and refer to each other by index, so neither depth nor sharing in hostile input
//! costs more than its length; and since a value takes a hundred times the byte that makes it,
//! their number has a limit.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// A tensor of a state dict: a strided view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PickledTensor {
    pub(super) name: String,
    pub(super) storage: Storage,
    /// In elements from the storage's start.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements.
    pub(super) strides: Vec<usize>,
}

/// A member of the archive that holds elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Safetensors' name of the element type.
    pub(super) dtype: &'static str,
    pub(super) key: String,
}

/// Keys are small numbers in decimal.
const MAX_KEY_BYTES: usize = 64;

/// Most values at a time in each of the places that hold them: a tensor makes about ten.
const MAX_VALUES: usize = 1 << 20;

/// Where and why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PickleError {
    at: usize,
    reason: String,
}

impl fmt::Display for PickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.reason, self.at)
    }
}

/// Runs the pickle and returns the tensors of the dict it leaves.
pub(super) fn read(pickle: &[u8]) -> Result<Vec<PickledTensor>, PickleError> {
    let mut machine = Machine::new(pickle);
    let top = machine.run();
    top.and_then(|top| machine.state_dict(top))
        .map_err(|reason| PickleError { at: machine.at, reason })
}

/// What a global name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// A storage class, by safetensors' name of its element type.
    StorageType(&'static str),
}

const GLOBALS: &[(&str, &str, Global)] = &[
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch", "FloatStorage", Global::StorageType("F32")),
    ("torch", "HalfStorage", Global::StorageType("F16")),
    ("torch", "BFloat16Storage", Global::StorageType("BF16")),
    ("torch", "DoubleStorage", Global::StorageType("F64")),
    ("torch", "LongStorage", Global::StorageType("I64")),
    ("torch", "IntStorage", Global::StorageType("I32")),
    ("torch", "ShortStorage", Global::StorageType("I16")),
    ("torch", "CharStorage", Global::StorageType("I8")),
    ("torch", "ByteStorage", Global::StorageType("U8")),
    ("torch", "BoolStorage", Global::StorageType("BOOL")),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    None,
    Bool,
    Int(i64),
    Global(Global),
    /// An index into the arena.
    Node(usize),
    /// Where a group of stack values starts.
    Mark,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(PickledTensor),
}

struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    arena: Vec<Node>,
}

type Outcome<T> = Result<T, String>;

impl<'a> Machine<'a> {
    fn new(pickle: &'a [u8]) -> Self {
        Machine { pickle, at: 0, stack: Vec::new(), memo: HashMap::new(), arena: Vec::new() }
    }

    /// Executes opcodes up to STOP and returns the value on top.
    fn run(&mut self) -> Outcome<Value> {
        loop {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            let done =
                self.push_constant(opcode)? || self.use_memo(opcode)? || self.build(opcode)?;
            if !done {
                return Err(format!("opcode 0x{opcode:02x} is not one that state dicts need"));
            }
            let most = self.arena.len().max(self.stack.len()).max(self.memo.len());
            if most > MAX_VALUES {
                return Err("it makes more values than any state dict".into());
            }
        }
    }

    /// Opcodes that frame the program or push a value they spell out.
    fn push_constant(&mut self, opcode: u8) -> Outcome<bool> {
        let value = match opcode {
            0x80 => {
                self.take(1)?; // PROTO
                return Ok(true);
            }
            0x95 => {
                self.take(8)?; // FRAME
                return Ok(true);
            }
            b'(' => Value::Mark,
            b'N' => Value::None,
            0x88 | 0x89 => Value::Bool,
            b'K' => Value::Int(self.take(1)?[0].into()),
            b'M' => Value::Int(u16::from_le_bytes(self.chunk()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.chunk()?).into()),
            0x8a => self.long()?,
            b'X' => {
                let length = u32::from_le_bytes(self.chunk()?) as usize;
                self.text(length)?
            }
            0x8c => {
                let length = self.take(1)?[0] as usize;
                self.text(length)?
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                find_global(module, name)?
            }
            b')' => self.add(Node::Tuple(Vec::new())),
            b']' => self.add(Node::List(Vec::new())),
            b'}' => self.add(Node::Dict(Vec::new())),
            _ => return Ok(false),
        };
        self.stack.push(value);
        Ok(true)
    }

    fn use_memo(&mut self, opcode: u8) -> Outcome<bool> {
        let slot = match opcode {
            b'q' | b'h' => self.take(1)?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.chunk()?),
            0x94 => self.memo.len() as u32, // MEMOIZE
            _ => return Ok(false),
        };
        if matches!(opcode, b'h' | b'j') {
            let value = *self.memo.get(&slot).ok_or("a value is recalled that was not stored")?;
            self.stack.push(value);
        } else {
            let value = *self.stack.last().ok_or("the stack is empty")?;
            self.memo.insert(slot, value);
        }
        Ok(true)
    }

    /// Opcodes that combine values of the stack.
    fn build(&mut self, opcode: u8) -> Outcome<bool> {
        match opcode {
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub((opcode - 0x84) as usize);
                let items = self.stack.split_off(start.ok_or("the stack is empty")?);
                self.push(Node::Tuple(items));
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.top_dict()?.push((key, value));
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                let (pairs, odd) = items.as_chunks::<2>();
                if !odd.is_empty() {
                    return Err("a dict has a key without a value".into());
                }
                let pairs: Vec<_> = pairs.iter().map(|&[key, value]| (key, value)).collect();
                self.top_dict()?.extend(pairs);
            }
            b'a' => {
                let item = self.pop()?;
                self.top_list()?.push(item);
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.top_list()?.extend(items);
            }
            b'b' => {
                // BUILD sets attributes; torch records versions so, which mean nothing to us.
                self.pop()?;
                self.top_dict()?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = find_global(self.as_text(module)?, self.as_text(name)?)?;
                self.stack.push(global);
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Node::Storage(storage));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let value = self.call(function, arguments)?;
                self.stack.push(value);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn call(&mut self, function: Value, arguments: Value) -> Outcome<Value> {
        let arguments = self.as_tuple(arguments)?;
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), []) => Ok(self.add(Node::Dict(Vec::new()))),
            (
                Value::Global(Global::RebuildTensor),
                &[storage, offset, shape, strides, _requires_grad, _hooks, ..],
            ) => {
                let Some(Node::Storage(storage)) = self.node(storage) else {
                    return Err("a tensor is built from something else than a storage".into());
                };
                let tensor = PickledTensor {
                    name: String::new(),
                    storage: storage.clone(),
                    offset: as_size(offset)?,
                    shape: self.as_sizes(shape)?,
                    strides: self.as_sizes(strides)?,
                };
                Ok(self.add(Node::Tensor(tensor)))
            }
            (Value::Global(Global::RebuildParameter), &[tensor, ..])
                if matches!(self.node(tensor), Some(Node::Tensor(_))) =>
            {
                Ok(tensor)
            }
            (Value::Global(_), _) => {
                Err("a function is called with arguments that torch.save does not write".into())
            }
            _ => Err("something is called that is no function".into()),
        }
    }

    /// A persistent id is `("storage", class, key, device, number of elements)`.
    fn storage(&self, id: Value) -> Outcome<Storage> {
        let wrong = || "a persistent id is no storage".to_owned();
        let &[kind, Value::Global(Global::StorageType(dtype)), key, _device, _count] =
            self.as_tuple(id)?
        else {
            return Err(wrong());
        };
        let key = self.as_text(key)?;
        // Each tensor copies its key, so the key's length must not multiply.
        if self.as_text(kind)? != "storage" || key.len() > MAX_KEY_BYTES {
            return Err(wrong());
        }
        Ok(Storage { dtype, key: key.to_owned() })
    }

    fn state_dict(&self, top: Value) -> Outcome<Vec<PickledTensor>> {
        let Some(Node::Dict(pairs)) = self.node(top) else {
            return Err("it holds something else than a dict".into());
        };
        let mut tensors = Vec::with_capacity(pairs.len());
        let mut seen = HashSet::new();
        for &(key, value) in pairs {
            let name = self.as_text(key)?;
            if !seen.insert(name) {
                return Err(format!("entry '{name}' is there twice"));
            }
            let Some(Node::Tensor(tensor)) = self.node(value) else {
                return Err(format!("entry '{name}' is no tensor"));
            };
            tensors.push(PickledTensor { name: name.to_owned(), ..tensor.clone() });
        }
        Ok(tensors)
    }

    fn add(&mut self, node: Node) -> Value {
        self.arena.push(node);
        Value::Node(self.arena.len() - 1)
    }

    fn push(&mut self, node: Node) {
        let value = self.add(node);
        self.stack.push(value);
    }

    fn pop(&mut self) -> Outcome<Value> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err("the stack is empty".into()),
            Some(value) => Ok(value),
        }
    }

    fn pop_to_mark(&mut self) -> Outcome<Vec<Value>> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let mark = mark.ok_or("a group ends that did not start")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => self.arena.get(index),
            _ => None,
        }
    }

    fn top_dict(&mut self) -> Outcome<&mut Vec<(Value, Value)>> {
        match self.stack.last() {
            Some(&Value::Node(index)) => match &mut self.arena[index] {
                Node::Dict(pairs) => Ok(pairs),
                _ => Err("entries are added to something else than a dict".into()),
            },
            _ => Err("entries are added to something else than a dict".into()),
        }
    }

    fn top_list(&mut self) -> Outcome<&mut Vec<Value>> {
        match self.stack.last() {
            Some(&Value::Node(index)) => match &mut self.arena[index] {
                Node::List(items) => Ok(items),
                _ => Err("items are added to something else than a list".into()),
            },
            _ => Err("items are added to something else than a list".into()),
        }
    }

    fn as_text(&self, value: Value) -> Outcome<&str> {
        match self.node(value) {
            Some(Node::Text(text)) => Ok(text),
            _ => Err("a text is expected where something else is".into()),
        }
    }

    fn as_tuple(&self, value: Value) -> Outcome<&[Value]> {
        match self.node(value) {
            Some(Node::Tuple(items)) => Ok(items),
            _ => Err("a tuple is expected where something else is".into()),
        }
    }

    fn as_sizes(&self, value: Value) -> Outcome<Vec<usize>> {
        let items = self.as_tuple(value)?;
        if items.len() > super::MAX_RANK {
            return Err(format!("a tensor has {} dimensions", items.len()));
        }
        items.iter().map(|&item| as_size(item)).collect()
    }

    fn take(&mut self, count: usize) -> Outcome<&'a [u8]> {
        let bytes = self.pickle[self.at..].get(..count).ok_or("it ends too early")?;
        self.at += count;
        Ok(bytes)
    }

    fn chunk<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("exactly N bytes were taken"))
    }

    /// LONG1: little-endian two's complement of up to 255 bytes; sizes need at most eight.
    fn long(&mut self) -> Outcome<Value> {
        let length = self.take(1)?[0] as usize;
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        // Nine bytes with a leading zero do not occur: no size has 64 bits.
        wide.get_mut(..length).ok_or("a number has more than 64 bits")?.copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, length: usize) -> Outcome<Value> {
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        Ok(self.add(Node::Text(text.to_owned())))
    }

    fn line(&mut self) -> Outcome<&'a str> {
        let rest = &self.pickle[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("it ends too early")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "a name is not UTF-8".into())
    }
}

fn find_global(module: &str, name: &str) -> Outcome<Value> {
    let known = GLOBALS.iter().find(|&&(m, n, _)| (m, n) == (module, name));
    known.map(|&(_, _, global)| Value::Global(global)).ok_or_else(|| {
        format!("it wants to use '{}', which is refused", format!("{module}.{name}").escape_debug())
    })
}

fn as_size(value: Value) -> Outcome<usize> {
    match value {
        Value::Int(number) => usize::try_from(number).map_err(|_| format!("{number} is no size")),
        _ => Err("a size is expected where something else is".into()),
    }
}

#[cfg(test)]
mod tests;
