//! What a plain word of YAML stands for. Ray reads files with PyYAML, which follows YAML 1.1: `yes`
//! and `on` are true there, and `010` is eight.

use super::node::Value;

pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    whole(text).or_else(|| number(text)).unwrap_or_else(|| Value::Text(text.to_owned()))
}

fn whole(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, &digits[..]),
    };
    let signed = if negative { format!("-{digits}") } else { digits.to_owned() };
    i64::from_str_radix(&signed, radix).ok().map(Value::Whole)
}

fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    match unsigned.to_ascii_lowercase().as_str() {
        ".inf" => return Some(Value::Number(sign * f64::INFINITY)),
        ".nan" => return Some(Value::Number(f64::NAN)),
        _ => {}
    }
    // What Rust takes beyond YAML are words: `inf`, `nan`, `infinity`.
    let starts_like_one = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let value = text.replace('_', "").parse().ok().filter(|_| starts_like_one)?;
    Some(Value::Number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_yaml_1_1() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (word, expected) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("on", Value::Bool(true)),
            ("No", Value::Bool(false)),
            ("nO", text("nO")),
            ("0", Value::Whole(0)),
            ("-12", Value::Whole(-12)),
            ("1_000", Value::Whole(1000)),
            ("0x1F", Value::Whole(31)),
            ("010", Value::Whole(8)),
            ("09", Value::Number(9.0)),
            ("1.5", Value::Number(1.5)),
            (".5", Value::Number(0.5)),
            ("1e3", Value::Number(1000.0)),
            ("-.inf", Value::Number(f64::NEG_INFINITY)),
            ("99999999999999999999", Value::Number(1e20)),
            ("inf", text("inf")),
            ("nan", text("nan")),
            ("1.2.3", text("1.2.3")),
            ("main:app", text("main:app")),
            ("-", text("-")),
        ] {
            assert_eq!(resolve(word), expected, "{word:?}");
        }
    }
}
