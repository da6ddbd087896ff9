//! Which numbers of a JSON text a double holds (IEEE 754 binary64), at a cost that is linear in the number's length.

/// Digits that tell every double from every other.
const MAX_DIGITS: usize = 17;

/// Digits that a double always holds: `DBL_DIG` of C.
const SAFE_DIGITS: usize = 15;

/// Powers of ten between which [`SAFE_DIGITS`] are safe: below, doubles are subnormal.
const SAFE_POWERS: std::ops::RangeInclusive<i64> = -307..=308;

/// The first digits of the greatest double, so many that are safe.
const MAX_SAFE: u64 = 179_769_313_486_231;

/// Writes a number in canonical form (RFC 8785 section 3.2.2.3, ECMA-262 section 6.1.6.1.20); `None` where a double cannot hold it.
pub(super) fn write(number: &str, output: &mut String) -> Option<()> {
    if is_canonical(number) {
        output.push_str(number);
        return Some(());
    }
    let mut decimal = Decimal::read(number);
    if !decimal.is_safe() {
        let double: f64 = number.parse().ok()?;
        let shortest = Decimal::read(zmij::Buffer::new().format(double));
        if decimal != shortest && !decimal.is_held(number, double) {
            return None;
        }
        decimal = shortest;
    }
    decimal.write(number.starts_with('-'), output);
    Some(())
}

/// Whether a number is a whole one of few digits, which are its canonical form.
fn is_canonical(number: &str) -> bool {
    let digits = number.strip_prefix('-').filter(|digits| *digits != "0").unwrap_or(number);
    digits.len() <= SAFE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A number without its sign, as its significant digits: from the first to the last that is not zero.
#[derive(PartialEq, Eq)]
struct Decimal {
    /// The digits as a whole number, where there are at most [`MAX_DIGITS`].
    digits: u64,
    /// How many there are; 0 for zero.
    len: usize,
    /// The power of ten of the last one.
    last: i64,
}

impl Decimal {
    fn read(number: &str) -> Self {
        let unsigned = number.strip_prefix('-').unwrap_or(number);
        let end = unsigned.bytes().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(unsigned.len());
        let (mantissa, exponent) = unsigned.split_at(end);
        let mut decimal = Self { digits: 0, len: 0, last: 0 };
        let mut is_fraction = false;
        // Since the last significant digit.
        let mut zeros = 0;
        for byte in mantissa.bytes() {
            if byte == b'.' {
                is_fraction = true;
                continue;
            }
            decimal.last -= i64::from(is_fraction);
            if byte == b'0' {
                zeros += u32::from(decimal.len > 0);
                continue;
            }
            if zeros > 0 {
                decimal.digits = decimal.digits.wrapping_mul(10_u64.wrapping_pow(zeros));
                decimal.len += zeros as usize;
                zeros = 0;
            }
            decimal.digits = decimal.digits.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            decimal.len += 1;
        }
        if decimal.len == 0 {
            return Self { digits: 0, len: 0, last: 0 };
        }
        decimal.last += i64::from(zeros);
        if let Some(exponent) = exponent.get(1..) {
            // An exponent of more digits than this holds is that of no double but zero.
            decimal.last = decimal.last.saturating_add(exponent.parse().unwrap_or(i64::MIN));
        }
        decimal
    }

    /// Whether it has so few digits that no shorter number is the same double.
    fn is_safe(&self) -> bool {
        let Some(short_of) = SAFE_DIGITS.checked_sub(self.len) else { return false };
        let is_finite = || self.first() < *SAFE_POWERS.end() || (0..short_of).fold(self.digits, |digits, _| digits * 10) <= MAX_SAFE;
        self.len == 0 || (SAFE_POWERS.contains(&self.first()) && is_finite())
    }

    /// Whether a double holds a number that is not its print by ECMAScript: one of 17 digits, or a whole number below 2^128 that is the
    /// double's very value. So two numbers that become one double are prints of it.
    ///
    /// Of two shortest numbers that are equally near, ECMAScript prints the even one, and Rust's standard library the greater.
    fn is_held(&self, number: &str, double: f64) -> bool {
        if self.len > MAX_DIGITS {
            return self.is_value(number, double);
        }
        Self::read(&format!("{double:e}")) == *self || Self::read(&format!("{double:.16e}")) == *self
    }

    /// Writes it as ECMAScript does.
    fn write(&self, is_negative: bool, output: &mut String) {
        if self.len == 0 {
            // `-0` is 0.
            return output.push('0');
        }
        if is_negative {
            output.push('-');
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(self.digits);
        let zeros = |output: &mut String, count: i64| output.extend((0..count).map(|_| '0'));
        // How many digits stand before the decimal point.
        let point = self.first() + 1;
        let (before, after) = usize::try_from(point).ok().and_then(|point| digits.split_at_checked(point)).unwrap_or((digits, ""));
        match point {
            1..=21 if after.is_empty() => {
                output.push_str(digits);
                zeros(output, self.last);
            }
            1..=21 => output.extend([before, ".", after]),
            -5..=0 => {
                output.push_str("0.");
                zeros(output, -point);
                output.push_str(digits);
            }
            _ => {
                let (first, rest) = digits.split_at(1);
                output.push_str(first);
                if !rest.is_empty() {
                    output.extend([".", rest]);
                }
                output.push_str(if point > 0 { "e+" } else { "e" });
                output.push_str(itoa::Buffer::new().format(point - 1));
            }
        }
    }

    /// The power of ten of the first digit.
    fn first(&self) -> i64 {
        self.last.saturating_add(i64::try_from(self.len).unwrap_or(i64::MAX)) - 1
    }

    /// Whether a whole number of more digits than a double's print has is the double's very value.
    fn is_value(&self, number: &str, double: f64) -> bool {
        let digits = number.bytes().take_while(|byte| !matches!(byte, b'e' | b'E')).filter(u8::is_ascii_digit);
        let mut significant = digits.skip_while(|digit| *digit == b'0').take(self.len);
        let value = significant.try_fold(0_u128, |value, digit| value.checked_mul(10)?.checked_add(u128::from(digit - b'0')));
        let power = u32::try_from(self.last).ok().and_then(|zeros| 10_u128.checked_pow(zeros));
        let value = value.zip(power).and_then(|(value, power)| value.checked_mul(power));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a double beyond the range becomes its end")]
        let held = double.abs() as u128;
        value.is_some_and(|value| value == held && value < u128::MAX)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The double that the canonical form of a number stands for.
    pub(in super::super) fn exact(number: &str) -> Option<f64> {
        let mut canonical = String::new();
        write(number, &mut canonical)?;
        canonical.parse().ok()
    }

    #[test]
    fn a_whole_number_is_held_in_full_below_two_to_the_128th() {
        for (text, double) in [
            ("18014398509481984", 18_014_398_509_481_984.0),
            ("1180591620717411303424", 1_180_591_620_717_411_303_424.0),
            ("-1180591620717411303424", -1_180_591_620_717_411_303_424.0),
            ("1180591620717411303.424e3", 1_180_591_620_717_411_303_424.0),
        ] {
            assert_eq!(exact(text), Some(double), "{text}");
        }
        for text in ["1180591620717411303425", "340282366920938463463374607431768211455", "1180591620717411303424.5"] {
            assert_eq!(exact(text), None, "{text}");
        }
    }

    #[test]
    fn both_prints_of_a_double_between_two_shortest_numbers_are_written_as_ecmascript_prints_it() {
        // 71662156745217.125 and 1658206780088562.25.
        for (printed, double) in [("71662156745217.12", 573_297_253_961_737.0 / 8.0), ("1658206780088562.2", 6_632_827_120_354_249.0 / 4.0)]
        {
            for text in [printed.to_owned(), format!("{double}"), format!("{double:.16e}")] {
                let mut canonical = String::new();
                assert_eq!(write(&text, &mut canonical), Some(()), "{text}");
                assert_eq!(canonical, printed, "{text}");
            }
        }
    }

    #[test]
    fn zeros_around_a_number_change_nothing() {
        for text in ["0.10", "0.1", "1e-1", "100e-3", "0.0000001e6", "0.1e+0"] {
            assert_eq!(exact(text), Some(0.1), "{text}");
        }
        for text in ["0", "-0", "0.000", "0e5", "0e99999999999999999999"] {
            assert_eq!(exact(text), Some(0.0), "{text}");
        }
        assert_eq!(exact("1e-320"), Some(1e-320));
        assert_eq!(exact("123456e-325"), None, "a subnormal holds fewer digits");
        assert_eq!(exact("1e999"), None);
        assert_eq!(exact("1.79769313486231e308"), Some(1.797_693_134_862_31e308));
        assert_eq!(exact("1.79769313486232e308"), None, "beyond the greatest double");
    }
}
