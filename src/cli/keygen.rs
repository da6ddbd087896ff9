//! `keygen`: a new signing secret.

use super::say;

/// Bytes out of the system's generator: as many as the hash has, as RFC 2104 section 3 advises.
const BYTES: usize = 32;

pub(super) fn run() -> anyhow::Result<()> {
    say(new_secret()?);
    Ok(())
}

/// In hexadecimal. The text itself is the secret: nobody has to decode it.
pub(super) fn new_secret() -> anyhow::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
