//! The service behind a webhook, over HTTP.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use bytes::BytesMut;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};

use super::tls;
use crate::app::ports::{Forwarded, Upstream, UpstreamError};
use crate::domain::StoredReply;

/// The longest answer that is kept: as long as Cognigy reads.
const MAX_ANSWER: usize = 512 * 1024;

/// Idle connections are given up before the other side does so: Node.js closes its own after 5 s, and a request that meets
/// the closing fails.
const IDLE: Duration = Duration::from_secs(4);

/// One upstream.
pub struct Forward {
    client: Client,
    url: Url,
}

impl Forward {
    /// `timeout`: for the whole exchange. Redirects are not followed: a signed request goes where the settings say, and
    /// nowhere else.
    pub fn new(url: Url, timeout: Duration, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client_config(ca_file, true)?)
            .redirect(Policy::none())
            .no_proxy()
            .timeout(timeout)
            .pool_idle_timeout(IDLE)
            .build()?;
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

async fn read(mut response: Response) -> Result<StoredReply, UpstreamError> {
    let status = response.status().as_u16();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let headers = content_type.map(|value| ("content-type".to_owned(), value.to_owned())).into_iter().collect();
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(UpstreamError::Failed(anyhow!("its answer is longer than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(StoredReply { status, headers, body: body.freeze() })
}

/// Without the URL, which may hold a password.
fn failed(error: reqwest::Error) -> UpstreamError {
    if error.is_timeout() {
        return UpstreamError::Timeout;
    }
    UpstreamError::Failed(anyhow::Error::new(error.without_url()))
}
