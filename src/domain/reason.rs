//! The reasons for which a request does not prove who sends it: for the log, and for whoever runs `verify`. Callers are never told.

/// Makes the enum, and what is known of each reason, out of one table.
macro_rules! reasons {
    ($($name:ident $code:literal $sentence:literal)*) => {
        /// Why a request does not prove who sends it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $sentence] $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its stable name in logs.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it means.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

reasons! {
    // What is there at all.
    NoSignature "no_signature" "the header of the signature is missing"
    NoTimestamp "no_timestamp" "the header of the signed timestamp is missing"
    HeaderTwice "header_twice" "a header that proves the caller is there twice, or an API key in two ways"
    DotInHeader "dot_in_header" "the value of a signed header holds a dot"
    ApiKeysOff "api_keys_off" "an API key was sent where no key of the settings has one"

    // How the signature is spelled.
    Blanks "blanks" "there are blanks or a newline around the signature"
    Quotes "quotes" "there are quotes around what was sent"
    Prefix "prefix" "something else than sha256= stands before the signature"
    HexForBase64 "hex_for_base64" "the signature is spelled in hex where the settings expect base64 (signing.encoding)"
    Base64ForHex "base64_for_hex" "the signature is spelled in base64 where the settings expect hex (signing.encoding)"
    Base64Url "base64url" "the signature is spelled in base64 for URLs, or without its padding"
    EncodedTwice "encoded_twice" "the signature was encoded twice: its digits in hex were spelled in base64"
    Truncated "truncated" "the signature is not whole: its end is missing"
    OtherHash "other_hash" "the signature is as long as that of another hash than SHA-256"
    SecretAsSignature "secret_as_signature" "a secret or an API key was sent as the signature: change it, others have seen it"
    Malformed "malformed" "the signature is not a whole HMAC-SHA256 in any usual spelling"

    // Whose it is, and of when.
    ExpiredKey "expired_key" "the key has expired"
    OtherKey "other_key" "another key was named than the one that was used (X-CXone-Key-Id)"
    UnknownKeyId "unknown_key_id" "the settings have no key of the id that was named (X-CXone-Key-Id)"
    Clock "clock" "the signed timestamp is too far from this clock (signing.tolerance)"
    Milliseconds "milliseconds" "the timestamp, or the one that was signed, is in milliseconds: it must be in seconds"
    TimestampMalformed "timestamp_malformed" "the signed timestamp is no Unix time in seconds"

    // What was done to the body.
    TrailingNewline "trailing_newline" "a newline was added to the body's end after signing"
    NewlineLost "newline_lost" "the newline at the body's end was lost after signing"
    LineEnds "line_ends" "the body's line ends were changed after signing (LF, CR LF)"
    SignedCompact "reserialized" "the body was signed in compact form and serialised again before sending"
    SignedIndented "reserialized" "the body was signed with indentation and serialised again before sending"
    SignedSpaced "reserialized" "the body was signed with blanks after commas and colons and serialised again before sending"
    SignedSorted "reserialized" "the body was signed with its members sorted and serialised again before sending"
    SignedEscaped "reserialized" "the body was signed with letters escaped (\\u00e4) and serialised again before sending"
    EmptyBody "empty_body" "nothing was signed: an empty body"
    Utf16 "utf16" "the body was signed in UTF-16 and sent in UTF-8"
    Latin1 "latin1" "the body was signed in another of Latin-1 and UTF-8 than it was sent in"
    ByteOrderMark "byte_order_mark" "a byte order mark was added or lost after signing"
    FormEncoded "form_encoded" "the body was form-encoded after signing"

    // What the signature covers.
    BodyAlone "body_alone" "the signature covers the body alone: sign what the settings name before it too, such as {timestamp}.{body}"
    NoTarget "no_target" "the signature does not cover the method and path: sign `{METHOD} {path}.` before everything else (`signed_target`)"
    TargetUnexpected "target_unexpected" "the signature covers a method and path, and this route wants them not signed (`signed_target`)"
    JoinedOtherwise "joined_otherwise" "what is signed with the body is joined to it in another way: each value and a dot, then the body"

    // What it was made with.
    SecretNewline "secret_newline" "the signer's secret has a newline at its end"
    SecretBlanks "secret_blanks" "the signer's secret has blanks or quotes around it that the one of the settings lacks, or lacks them"
    SecretHex "secret_hex" "the signer decoded the secret from hex: its text is the secret"
    SecretBase64 "secret_base64" "the signer decoded the secret from base64: its text is the secret"
    SecretNotDecoded "secret_not_decoded" "the signer did not decode the secret, which is base64 after whsec_"
    WrongSecret "wrong_secret" "the signature is of no key of the settings, for this body or any usual change of it: probably the wrong secret"
    SecretAsApiKey "secret_as_api_key" "the secret of a key was sent as an API key: change it, others have seen it"
    WrongApiKey "wrong_api_key" "the API key is that of no key of the settings"

    NotExamined "not_examined" "the body is too long to be looked into, or the time for that is used up by others"
}
