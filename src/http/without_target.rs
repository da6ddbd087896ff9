//! Signatures that a route takes without the method and path, during a transition: counted, and now and then warned of.

use actix_web::HttpRequest;
use actix_web::web::Data;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::metrics::Metrics;

/// When each route was warned of.
pub struct Warned(DefaultKeyedRateLimiter<String>);

impl Default for Warned {
    /// A warning a minute for each route.
    fn default() -> Self {
        Self(RateLimiter::keyed(Quota::per_minute(std::num::NonZeroU32::MIN)))
    }
}

/// Counts the signature of this request, and warns of its route unless that was done within a minute.
pub(super) fn tell(request: &HttpRequest) {
    let route = request.match_pattern().unwrap_or_default();
    if let Some(metrics) = request.app_data::<Data<Metrics>>() {
        metrics.signed_without_target(&route);
    }
    if request.app_data::<Data<Warned>>().is_some_and(|warned| warned.0.check_key(&route).is_ok()) {
        tracing::warn!(route, "signature without method and path accepted; set signed_target to require once every caller signs them");
    }
}
