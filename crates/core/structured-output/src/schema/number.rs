//! Bounds of numbers and `multipleOf`.

use serde_json::{Number, Value};

use super::keyword::Kind;
use super::{Node, Result, error};

/// 2^53: beyond it, whole numbers are not exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Whether a number is beyond [`EXACT`], also where it would be rounded to that.
pub(super) fn is_beyond_exact(number: &Number) -> bool {
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(whole), ..) => whole > EXACT as u64,
        (_, Some(whole), _) => whole.unsigned_abs() > EXACT as u64,
        (_, _, Some(number)) => number.abs() > EXACT,
        _ => true,
    }
}

/// What numeric keywords anywhere in a document ask for. Schemas can be merged, so that keywords
/// of one place meet those of another; what llguidance gets wrong then is refused here.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Excluded whole bounds of numbers that need not be whole: bound, is it a lower one, pointer.
    excluded: Vec<(f64, bool, String)>,
    /// Bounds with a fraction: bound, is it a lower one.
    fractions: Vec<(f64, bool)>,
    /// Divisors as coefficient and number of decimals, with the last one's pointer.
    divisors: Vec<(u32, u32)>,
    divisor_at: String,
}

impl Bounds {
    /// # Errors
    /// Two bounds between which zero decimals would slip, or divisors without a common multiple.
    pub(super) fn check(&self) -> Result<()> {
        for (bound, is_lower, at) in &self.excluded {
            let near = |(other, other_is_lower): &(f64, bool)| {
                is_lower != other_is_lower && (other - bound).abs() < 1.0
            };
            if self.fractions.iter().any(near) {
                let cause = "a whole number is excluded within a range shorter than 1";
                return Err(error(at, cause, "use minimum and maximum"));
            }
        }
        let decimals = self.divisors.iter().map(|(_, decimals)| *decimals).max().unwrap_or(0);
        let mut product = 1u32;
        for (coefficient, own) in &self.divisors {
            let scale = 10u32.checked_pow(decimals - own);
            let scaled = scale.and_then(|scale| scale.checked_mul(*coefficient));
            match scaled.and_then(|scaled| product.checked_mul(scaled)) {
                Some(next) => product = next,
                None if self.divisors.len() > 1 => {
                    let cause = "the values of multipleOf have no small common multiple";
                    return Err(error(&self.divisor_at, cause, "use fewer or rounder ones"));
                }
                None => {}
            }
        }
        Ok(())
    }
}

pub(super) fn keyword(
    bounds: &mut Bounds,
    node: &mut Node,
    key: &str,
    value: &Value,
) -> Result<()> {
    let at = node.pointer(key);
    let (Some(number), Value::Number(exact)) = (value.as_f64(), value) else {
        return Err(error(&at, format!("{value} is no number"), "use a number"));
    };
    if !node.may_be(Kind::Number) && !node.may_be(Kind::Integer) {
        return Ok(());
    }
    if key == "multipleOf" {
        return divisor(bounds, node, number, value);
    }
    let is_lower = matches!(key, "minimum" | "exclusiveMinimum");
    let changed = is_beyond_exact(exact);
    if changed && (number > 0.0) == is_lower {
        let cause = format!("{value} is beyond 2^53, up to where numbers are exact");
        return Err(error(&at, cause, "use a bound nearer to 0"));
    }
    let number = if changed { EXACT.copysign(number) } else { number };
    let fraction = number.fract() != 0.0;
    if fraction {
        bounds.fractions.push((number, is_lower));
    } else if key.starts_with("exclusive") && node.may_be(Kind::Number) {
        bounds.excluded.push((number, is_lower, at));
    }
    match Number::from_f64(number) {
        Some(number) if changed => node.set(key, number),
        _ => node.set(key, value.clone()),
    }
    Ok(())
}

fn divisor(bounds: &mut Bounds, node: &mut Node, number: f64, value: &Value) -> Result<()> {
    let at = node.pointer("multipleOf");
    let Some(decimal) = decimal(number) else {
        let cause = format!("multipleOf {value} cannot be enforced");
        return Err(error(&at, cause, "use a positive number with few digits"));
    };
    if !bounds.divisors.contains(&decimal) {
        bounds.divisors.push(decimal);
        bounds.divisor_at = at;
    }
    node.set("multipleOf", value.clone());
    Ok(())
}

/// Coefficient and decimals of a number, found as llguidance finds them, if they are exact.
fn decimal(number: f64) -> Option<(u32, u32)> {
    if !(number > 0.0 && number <= f64::from(u32::MAX)) {
        return None;
    }
    let mut coefficient = number;
    let mut decimals = 0;
    while coefficient.fract() != 0.0 && decimals < 9 {
        coefficient *= 10.0;
        decimals += 1;
    }
    let exact = coefficient.fract() == 0.0
        && coefficient <= f64::from(u32::MAX)
        && coefficient / 10f64.powi(decimals as i32) == number;
    exact.then_some((coefficient as u32, decimals))
}
