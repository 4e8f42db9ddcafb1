//! Quantities of Kubernetes and of Docker.

/// A Kubernetes quantity of processors, in thousandths, rounded up.
#[must_use]
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// A Kubernetes quantity of memory, in bytes, rounded up.
#[must_use]
pub fn bytes(text: &str) -> Option<i64> {
    scaled(text, 1)
}

/// Reads a decimal number with a suffix of Kubernetes (apimachinery, `resource.Quantity`), times
/// `factor`. Exponents are left out: nobody writes them by hand.
fn scaled(text: &str, factor: i128) -> Option<i64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = decimal(number)?;
    let (up, down): (i128, i128) = match suffix {
        "" => (1, 1),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        _ => return None,
    };
    round_up(numerator * up * factor, denominator * down)
}

/// A decimal number as a fraction, of so many digits that nothing built from it overflows.
fn decimal(text: &str) -> Option<(i128, i128)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str, most: usize| {
        text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole, 12) || !digits(fraction, 9) {
        return None;
    }
    let denominator = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let numerator = format!("0{whole}{fraction}").parse().ok()?;
    Some((numerator, denominator))
}

fn round_up(numerator: i128, denominator: i128) -> Option<i64> {
    i64::try_from((numerator + denominator - 1) / denominator).ok()
}
