//! Which numbers of a JSON text a double holds (IEEE 754 binary64), at a cost that is linear in the number's length.

use std::fmt::Write as _;

/// Digits that tell every double from every other.
const MAX_DIGITS: usize = 17;

/// Digits that a double always holds: `DBL_DIG` of C.
const SAFE_DIGITS: usize = 15;

/// Powers of ten between which [`SAFE_DIGITS`] are safe: outside, doubles are subnormal or infinite.
const SAFE_POWERS: std::ops::RangeInclusive<i64> = -307..=307;

/// Writes a number in canonical form (RFC 8785 section 3.2.2.3, ECMA-262 section 6.1.6.1.20); `None` where a double cannot hold it.
pub(super) fn write(number: &str, output: &mut String) -> Option<()> {
    let decimal = Decimal::read(number);
    if decimal.is_safe() {
        // No shorter number is the same double, so its digits are those that ECMAScript prints.
        decimal.write(number.starts_with('-'), output);
    } else {
        output.push_str(ryu_js::Buffer::new().format_finite(decimal.exact(number)?));
    }
    Some(())
}

/// A number without its sign, as its significant digits: from the first to the last that is not zero.
#[derive(PartialEq, Eq)]
struct Decimal {
    /// The first of them; zeros behind.
    digits: [u8; MAX_DIGITS],
    /// How many there are, perhaps more than fit into `digits`; 0 for zero.
    len: usize,
    /// The power of ten of the last one.
    last: i64,
}

impl Decimal {
    fn read(number: &str) -> Self {
        let unsigned = number.strip_prefix('-').unwrap_or(number);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let mut decimal = Self { digits: [0; MAX_DIGITS], len: 0, last: 0 };
        let whole_digits = mantissa.find('.').unwrap_or(mantissa.len());
        // Of the digit that was read last.
        let mut power = i64::try_from(whole_digits).unwrap_or(i64::MAX);
        // Digits since the first significant one.
        let mut read = 0;
        for digit in mantissa.bytes().filter(u8::is_ascii_digit).map(|byte| byte - b'0') {
            power -= 1;
            if digit == 0 && read == 0 {
                continue;
            }
            if let Some(place) = decimal.digits.get_mut(read) {
                *place = digit;
            }
            read += 1;
            if digit != 0 {
                (decimal.len, decimal.last) = (read, power);
            }
        }
        if decimal.len > 0 {
            // An exponent of more digits than this holds is that of no double but zero.
            decimal.last = decimal.last.saturating_add(exponent.trim_start_matches('+').parse().unwrap_or(i64::MIN));
        }
        decimal
    }

    /// The double that a number which is not safe stands for; `None` where a double cannot hold it. It holds a number that is a print of that double,
    /// the shortest or that of 17 digits, or a whole number below 2^128 that is the double's very value. So two numbers that become
    /// one double are prints of it.
    fn exact(&self, number: &str) -> Option<f64> {
        if self.len > MAX_DIGITS {
            return self.whole(number);
        }
        let double: f64 = number.parse().ok()?;
        let is_print = |print: &str| Self::read(print) == *self;
        let holds = double.is_finite() && (is_print(&format!("{double:e}")) || is_print(&format!("{double:.16e}")));
        holds.then_some(double)
    }

    /// Writes a safe decimal as ECMAScript does.
    fn write(&self, is_negative: bool, output: &mut String) {
        let digits: [u8; MAX_DIGITS] = self.digits.map(|digit| digit + b'0');
        let digits = digits.get(..self.len).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default();
        if digits.is_empty() {
            // `-0` is 0.
            return output.push('0');
        }
        if is_negative {
            output.push('-');
        }
        let zeros = |output: &mut String, count: i64| (0..count).for_each(|_| output.push('0'));
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
                let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
                output.push_str(first);
                if !rest.is_empty() {
                    output.extend([".", rest]);
                }
                // A text takes all that is written to it.
                let _ = write!(output, "e{:+}", point - 1);
            }
        }
    }

    /// The power of ten of the first digit.
    fn first(&self) -> i64 {
        self.last.saturating_add(i64::try_from(self.len).unwrap_or(i64::MAX)) - 1
    }

    fn is_safe(&self) -> bool {
        self.len == 0 || (self.len <= SAFE_DIGITS && SAFE_POWERS.contains(&self.first()))
    }

    /// A whole number of more digits than a double's print has.
    fn whole(&self, number: &str) -> Option<f64> {
        let zeros = u32::try_from(self.last).ok()?;
        let digits = number.bytes().take_while(|byte| !matches!(byte, b'e' | b'E')).filter(u8::is_ascii_digit);
        let mut significant = digits.skip_while(|digit| *digit == b'0').take(self.len);
        let value = significant.try_fold(0_u128, |value, digit| value.checked_mul(10)?.checked_add(u128::from(digit - b'0')))?;
        let value = value.checked_mul(10_u128.checked_pow(zeros)?)?;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is lost is looked for"
        )]
        let (double, held) = (value as f64, value as f64 as u128);
        (held == value && value < u128::MAX).then_some(if number.starts_with('-') { -double } else { double })
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
    }
}
