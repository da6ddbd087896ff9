//! Connections as they are on a bad day.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use http_body_util::channel::{Channel, Sender};
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, RequestBuilder};

use super::super::target::Target;
use super::super::verdict::Verdict;

/// Between two pieces of a body: longer than two packets that belong together are apart.
const PAUSE: Duration = Duration::from_millis(300);

/// A request whose body is yet to come, through the sender.
fn opened(target: &Target, body: &str) -> (Sender<Bytes, Infallible>, RequestBuilder) {
    let (sender, channel) = Channel::new(1);
    (sender, target.proven(body).header(CONTENT_LENGTH, body.len()).body(Body::wrap(channel)))
}

pub(super) async fn slow_body(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample());
    let (mut sender, request) = opened(target, &body);
    let (first, second) = body.as_bytes().split_at(body.len() / 2);
    let (first, second) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(second));
    let sent = async {
        // Where the service does not wait for the rest, its answer tells.
        let _refused = sender.send_data(first).await;
        tokio::time::sleep(PAUSE).await;
        let _refused = sender.send_data(second).await;
        drop(sender);
    };
    let (answer, ()) = join(target.send(request), sent).await;
    answer?.output()?;
    Ok(String::new())
}

pub(super) async fn broken_off(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample());
    let (mut sender, request) = opened(target, &body);
    let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    let half_sent = async {
        let _refused = sender.send_data(half).await;
        tokio::time::sleep(PAUSE).await;
    };
    // Whichever ends first, the connection ends with it.
    tokio::select! {
        _ = target.send(request) => {}
        () = half_sent => {}
    }
    target.look_up(&target.sample()).await?;
    Ok(String::new())
}
