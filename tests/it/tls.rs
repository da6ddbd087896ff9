//! Postgres and Redis over TLS: verified, by a private authority too, and never silently without.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use uuid::Uuid;

use crate::redis_refusals::is_told;
use crate::support::{Cluster, Database, Outcome, Redis, Setup, Tool, scratch_file, wait_until};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn pem_file(authority: &Authority) -> PathBuf {
    scratch_file(authority.pem())
}

/// A certificate for `name`, and its key.
fn certificate(authority: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// Puts a certificate for `name` where Postgres looks for it, owned by the user that it runs as.
fn install(authority: &Authority, data_dir: &Path, name: &str) {
    let (certificate, key) = certificate(authority, name);
    let owner = std::fs::metadata(data_dir.join("PG_VERSION")).unwrap();
    for (file, pem) in [("server.crt", certificate), ("server.key", key)] {
        let path = data_dir.join(file);
        std::fs::write(&path, pem).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

struct Stage {
    _cluster: Cluster,
    database: Database,
    port: u16,
    authority: Authority,
}

/// A cluster that listens on TCP with a certificate for `name`.
async fn stage(name: &str) -> Stage {
    let authority = authority();
    let mut cluster = Cluster::start(&[("fsync", "off")]).await;
    install(&authority, cluster.data_dir(), name);
    let port = cluster.listen(&[("ssl", "on")]).await;
    let database = cluster.database().await;
    Stage { _cluster: cluster, database, port, authority }
}

impl Stage {
    fn url(&self, host: &str, mode: &str) -> String {
        let name = self.database.url.rsplit('/').next().unwrap();
        format!("postgresql://cxda_service@{host}:{}/{name}?sslmode={mode}", self.port)
    }

    /// `serve`'s first step, without the wait for a database that is not up yet.
    async fn status(&self, url: &str, ca: Option<&Path>) -> Outcome {
        let tool = Tool::new(&["migrate", "status"]).set("DATABASE_URL", url).set("CXDA_DATABASE__STARTUP_WAIT", "0");
        match ca {
            Some(path) => tool.set("CXDA_DATABASE__CA_FILE", path.to_str().unwrap()).run().await,
            None => tool.run().await,
        }
    }
}

#[tokio::test]
async fn a_private_authority_is_accepted_by_setting_and_every_session_is_encrypted() {
    let stage = stage("127.0.0.1").await;
    let ca = pem_file(&stage.authority);
    let setup = Setup::on(&stage.database).set("DATABASE_URL", stage.url("127.0.0.1", "require"));
    let service = setup.set("CXDA_DATABASE__CA_FILE", ca.to_str().unwrap()).start().await;
    assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
    let sql = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'cxda_service'";
    let row = stage.database.owner.query_one(sql, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) >= 1, "no session is encrypted");
    assert_eq!(row.get::<_, i64>(1), 0, "a session is not encrypted");
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let stage = stage("127.0.0.1").await;
    let url = stage.url("127.0.0.1", "require");
    let (right, wrong) = (pem_file(&stage.authority), pem_file(&authority()));
    assert_eq!(stage.status(&url, Some(&right)).await.code, Some(0));
    for ca in [None, Some(wrong.as_path())] {
        let outcome = stage.status(&url, ca).await;
        assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    }
    let setup = Setup::on(&stage.database).set("DATABASE_URL", &url).set("CXDA_DATABASE__STARTUP_WAIT", "0");
    let outcome = setup.set("CXDA_DATABASE__CA_FILE", wrong.to_str().unwrap()).refused().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let stage = stage("db.example").await;
    let ca = pem_file(&stage.authority);
    for host in ["127.0.0.1", "localhost"] {
        let outcome = stage.status(&stage.url(host, "require"), Some(&ca)).await;
        assert_eq!(outcome.code, Some(1), "{host}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let mut cluster = Cluster::start(&[("fsync", "off")]).await;
    let port = cluster.listen(&[]).await;
    let database = cluster.database().await;
    let stage = Stage { _cluster: cluster, database, port, authority: authority() };
    assert_eq!(stage.status(&stage.url("127.0.0.1", "disable"), None).await.code, Some(0));
    let outcome = stage.status(&stage.url("127.0.0.1", "require"), None).await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
}

#[tokio::test]
async fn a_ca_file_that_is_no_good_is_told() {
    let stage = stage("127.0.0.1").await;
    for path in [Path::new("/nowhere/ca.pem"), &scratch_file("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")] {
        let outcome = stage.status(&stage.url("127.0.0.1", "require"), Some(path)).await;
        assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
        assert!(outcome.printed().contains(path.to_str().unwrap()), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_found() {
    let stage = stage("127.0.0.1").await;
    let name = stage.database.url.rsplit('/').next().unwrap();
    let url =
        format!("postgresql://cxda_service@127.0.0.1:1,127.0.0.1:{}/{name}?target_session_attrs=read-write&sslmode=disable", stage.port);
    let service = Setup::on(&stage.database).set("DATABASE_URL", url).start().await;
    assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
}

#[tokio::test]
async fn of_several_hosts_one_that_swallows_every_packet_costs_its_time_and_no_more() {
    let stage = stage("127.0.0.1").await;
    // A full backlog drops what comes next, as a host does that has no power.
    let full = full_backlog().await;
    let name = stage.database.url.rsplit('/').next().unwrap();
    let silent = full.0.local_addr().unwrap().port();
    let url = format!("postgresql://cxda_service@127.0.0.1:{silent},127.0.0.1:{}/{name}?sslmode=disable", stage.port);
    let setup = Setup::on(&stage.database).set("DATABASE_URL", url).set("CXDA_DATABASE__CONNECT_TIMEOUT", "300ms");
    let service = setup.start().await;
    assert_eq!(service.lookup("acme42", &[Uuid::from_u128(7)]).await.status, 200);
}

/// A listener that nobody accepts from, and connections enough that it takes no more.
async fn full_backlog() -> (tokio::net::TcpListener, Vec<tokio::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await {
        waiting.push(stream);
    }
    (listener, waiting)
}

#[tokio::test]
async fn redis_by_a_private_authority_is_used_and_by_an_unknown_one_is_not() {
    let authority_of_redis = authority();
    let (certificate, key) = certificate(&authority_of_redis, "127.0.0.1");
    let (redis, port) = Redis::start_with_tls(&scratch_file(certificate), &scratch_file(key)).await;

    let database = Database::new().await;
    let id = database.customer("acme42", "Ann").await;
    let setup = |ca: &Path| {
        let setup = Setup::on(&database).set("REDIS_URL", format!("rediss://127.0.0.1:{port}")).set("CXDA_CACHE__LOCAL_CAPACITY", "0");
        setup.set("CXDA_REDIS__CA_FILE", ca.to_str().unwrap()).set("CXDA_CACHE__TIMEOUT", "1s")
    };
    let wrong = setup(&pem_file(&authority())).start().await;
    assert_eq!(wrong.lookup("acme42", &[id]).await.cache(), "bypass");
    assert_eq!(redis.run::<usize>(&["DBSIZE"]).await, 0);
    is_told(&database, &wrong, &["redis"], "CERTIFICATE").await;

    let right = setup(&pem_file(&authority_of_redis)).start().await;
    wait_until("the cache serves", async || (right.lookup("acme42", &[id]).await.cache() == "hit").then_some(())).await;
}
