//! `healthcheck`: asks the admin listener of the service on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Settings, say};

const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(settings: &Settings) -> anyhow::Result<()> {
    let address = reachable(settings.load()?.admin.listen);
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let response = client.get(format!("http://{address}/readyz")).send().await.with_context(|| format!("ask {address}"))?;
    let status = response.status();
    let body = response.text().await.unwrap_or_default();
    ensure!(status.is_success(), "{status}: {body}");
    say(body);
    Ok(())
}

/// An address to call for one to listen on: "any" is no place to go to.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
