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

/// `--cpus` of Docker: a decimal number, in thousandths of a processor.
#[must_use]
pub fn docker_cpus(text: &str) -> Option<i64> {
    let (numerator, denominator) = decimal(text)?;
    round_up(numerator * 1000, denominator).filter(|milli| *milli > 0)
}

/// `--memory` and `--shm-size` of Docker: a number with `b`, `k`, `m`, `g` or `t`, powers of 1024
/// (docker/go-units, `RAMInBytes`).
#[must_use]
pub fn docker_bytes(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let split = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, suffix) = lower.split_at(split);
    let (numerator, denominator) = decimal(number)?;
    let up: i128 = match suffix.trim_start() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    round_up(numerator * up, denominator).filter(|bytes| *bytes > 0)
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

/// Thousandths of a processor as a quantity.
#[must_use]
pub fn cpu_quantity(milli: i64) -> String {
    if milli % 1000 == 0 {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    }
}

/// Bytes as a quantity, in the largest unit that keeps them whole.
#[must_use]
pub fn memory_quantity(bytes: i64) -> String {
    for (shift, unit) in [(30, "Gi"), (20, "Mi"), (10, "Ki")] {
        if bytes > 0 && bytes % (1_i64 << shift) == 0 {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}
