//! Genesys over TLS: by an authority of the system's or of the settings, or not at all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{Database, Scene, Setup};
use crate::tls::{Authority, authority, pem_file};

/// Serves as the answer of a login and of an execution alike.
const ANSWER: &str = r#"{"access_token":"token-1","token_type":"bearer","expires_in":3600}"#;
/// How the bodies of both end.
const ENDS: [&[u8]; 2] = [b"client_credentials", b"{}"];

/// Genesys and its login in one, on a port that is open until the run ends.
fn genesys(authority: &Authority, name: &str) -> u16 {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            thread::spawn(move || answer(stream, config));
        }
    });
    port
}

/// One request a connection.
fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while !ENDS.iter().any(|end| bytes.ends_with(end)) {
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            len => bytes.extend_from_slice(&buffer[..len]),
        }
    }
    let head = format!("HTTP/1.1 200 \r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", ANSWER.len());
    stream.write_all(format!("{head}{ANSWER}").as_bytes()).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}

#[tokio::test]
async fn an_authority_of_the_settings_is_accepted() {
    let (database, authority) = (Database::new().await, authority());
    let url = format!("https://127.0.0.1:{}", genesys(&authority, "127.0.0.1"));
    // Without leave to speak plain HTTP.
    let setup = Setup::on(&database).member("STORE", "memory").member("CLIENT_ID", "x").member("CLIENT_SECRET", "x");
    let setup = setup.member("BASE_URL", &url).member("LOGIN_URL", &format!("{url}/oauth/token"));
    let reply = setup.member("CA_FILE", pem_file(&authority).to_str().unwrap()).start().await.execute("{}").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, ANSWER));
}

#[tokio::test]
async fn a_stranger_is_not_called_and_holds_no_key() {
    let (ours, other) = (authority(), authority());
    for (name, ca_file) in [("127.0.0.1", None), ("127.0.0.1", Some(&other)), ("api.example", Some(&ours))] {
        let ca_file = ca_file.map(pem_file);
        let url = format!("https://127.0.0.1:{}", genesys(&ours, name));
        let members = [("BASE_URL", url.as_str()), ("DEADLINE", "2s")];
        let ca_file = ca_file.as_ref().map(|path| ("CA_FILE", path.to_str().unwrap()));
        let scene = Scene::with(&members.into_iter().chain(ca_file).collect::<Vec<_>>()).await;
        for _ in 0..2 {
            scene.service.execute("{}").await.is_failed();
        }
        let calls = [scene.service.outbound("genesys", "not_sent").await, scene.service.outbound("genesys", "lost").await];
        assert!(calls[0] >= 2 && calls[1] == 0, "{calls:?}");
    }
}
