//! How a signature is spelled that cannot be read as the settings have it.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::domain::{Encoding, Reason};

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// Bytes of a whole tag.
const WHOLE: usize = 32;

/// Why a signature cannot be read. `is_start`: whether these bytes are the start of a right one.
pub(super) fn misspelt(signature: &str, expected: Encoding, is_start: impl Fn(&[u8]) -> bool) -> Reason {
    let without_blanks = signature.trim();
    let without_quotes = unquoted(without_blanks);
    let without_ours = without_quotes.strip_prefix("sha256=").unwrap_or(without_quotes);
    let bare = without_prefix(without_ours);
    let wrapped = [
        (signature, without_blanks, Reason::Blanks),
        (without_blanks, without_quotes, Reason::Quotes),
        (without_ours, bare, Reason::Prefix),
    ];
    let wrapping = wrapped.into_iter().find(|(with, without, _)| with != without).map(|(_, _, reason)| reason);
    match (read(bare, expected), wrapping) {
        (Reading::Whole(_), Some(reason)) | (Reading::Whole(Some(reason)), None) => reason,
        (Reading::Other(bytes), _) if is_as_long_as_another_hash(&bytes) && !is_start(&bytes) => Reason::OtherHash,
        (Reading::Other(bytes), _) if (1..WHOLE).contains(&bytes.len()) => Reason::Truncated,
        (Reading::Whole(None), None) | (Reading::Other(_), _) => Reason::Malformed,
    }
}

/// Without quotes around it.
pub(super) fn unquoted(text: &str) -> &str {
    let within = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

/// Without whatever ends with the last sign that is none of an encoding, and without `0x`. The equals signs at the end are padding.
fn without_prefix(text: &str) -> &str {
    let end = text.trim_end_matches('=').len();
    let rest = text[..end].rfind([' ', '=', ',', ':']).map_or(text, |at| &text[at + 1..]);
    rest.strip_prefix("0x").unwrap_or(rest)
}

enum Reading {
    /// A whole tag, spelled in another way than expected, if it is.
    Whole(Option<Reason>),
    /// Bytes that are none.
    Other(Vec<u8>),
}

fn read(text: &str, expected: Encoding) -> Reading {
    // A digit may have been cut off by itself.
    let digits = if text.len() < 2 * WHOLE { text.get(..text.len() & !1) } else { Some(text) };
    if let Some(bytes) = digits.and_then(|digits| hex::decode(digits).ok()) {
        return match expected {
            _ if bytes.len() != WHOLE => Reading::Other(bytes),
            Encoding::Hex => Reading::Whole(None),
            Encoding::Base64 => Reading::Whole(Some(Reason::HexForBase64)),
        };
    }
    let is_plain = text.len().is_multiple_of(4) && !text.contains(['-', '_']);
    let bytes = BASE64.decode(text).or_else(|_| BASE64_URL.decode(text)).unwrap_or_default();
    match (bytes.len(), expected) {
        (WHOLE, _) if !is_plain => Reading::Whole(Some(Reason::Base64Url)),
        (WHOLE, Encoding::Hex) => Reading::Whole(Some(Reason::Base64ForHex)),
        (WHOLE, Encoding::Base64) => Reading::Whole(None),
        _ if bytes.len() == 2 * WHOLE && hex::decode(&bytes).is_ok() => Reading::Whole(Some(Reason::EncodedTwice)),
        _ => Reading::Other(bytes),
    }
}

/// MD5, SHA-1, SHA-224, SHA-384, SHA-512.
fn is_as_long_as_another_hash(bytes: &[u8]) -> bool {
    [16, 20, 28, 48, 64].contains(&bytes.len())
}
