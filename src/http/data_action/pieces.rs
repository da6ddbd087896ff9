//! What benches time by itself.

use super::{Body, answer};
use crate::app::lookup::LookupAnswer;
use crate::http::Bounds;
use crate::http::signed::SignedBody;

/// Reads a body whose signature is right, and gives the number of its ids; `None` where it is refused.
pub fn parse(body: &[u8], bounds: &Bounds) -> Option<usize> {
    Body::parse(body, bounds).ok().map(|body| body.batch.ids().len())
}

/// The JSON of an answer.
pub fn render(answer: &LookupAnswer, cap: usize) -> Vec<u8> {
    answer::render(answer, cap)
}
