//! The service behind a webhook, over HTTP.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, Url};

use super::outbound::{body, client};
use crate::app::ports::{Forwarded, Upstream, UpstreamError};
use crate::domain::StoredReply;

/// The longest answer that is kept: as long as Cognigy reads.
const MAX_ANSWER: usize = 512 * 1024;

/// One upstream.
pub struct Forward {
    client: Client,
    url: Url,
}

impl Forward {
    /// `timeout`: for the whole exchange.
    pub fn new(url: Url, timeout: Duration, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let client = client(ca_file, timeout)?;
        Ok(Self { client, url })
    }
}

#[async_trait]
impl Upstream for Forward {
    async fn send(&self, request: Forwarded) -> Result<StoredReply, UpstreamError> {
        let mut call = self
            .client
            .post(self.url.clone())
            .header("Idempotency-Key", request.key.to_string())
            .header("X-Request-Id", request.request_id.as_str())
            .body(request.body);
        if let Some(content_type) = request.content_type.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
            call = call.header(CONTENT_TYPE, content_type);
        }
        let response = call.send().await.map_err(failed)?;
        read(response).await
    }
}

async fn read(response: Response) -> Result<StoredReply, UpstreamError> {
    let status = response.status().as_u16();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let headers = content_type.map(|value| ("content-type".to_owned(), value.to_owned())).into_iter().collect();
    let body = body(response, MAX_ANSWER).await.map_err(|error| match error.downcast_ref::<reqwest::Error>() {
        Some(late) if late.is_timeout() => UpstreamError::Timeout,
        _ => UpstreamError::Failed(error),
    })?;
    let reply = StoredReply { status, headers, body };
    reply.sendable().ok_or_else(|| UpstreamError::Failed(anyhow!("status {status} is not that of a final response")))
}

/// Without the URL, which may hold a password.
fn failed(error: reqwest::Error) -> UpstreamError {
    if error.is_timeout() {
        return UpstreamError::Timeout;
    }
    UpstreamError::Failed(anyhow::Error::new(error.without_url()))
}
