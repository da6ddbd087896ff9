//! Redis or Postgres as it is reached by what stands between it and the service.

use std::io;
use std::path::PathBuf;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::config::{Config, Host};
use tokio_util::either::Either;

use super::{Database, Redis};

#[derive(Debug)]
pub(super) enum Store {
    Redis { port: u16 },
    Postgres { socket: PathBuf, user: String, database: String },
}

impl Store {
    pub(super) fn redis(redis: &Redis) -> Self {
        Self::Redis { port: redis.port }
    }

    /// A database, wherever its server's socket is.
    pub(super) fn postgres(database: &Database) -> Self {
        let config: Config = database.url.parse().expect("a URL");
        let [Host::Unix(dir)] = config.get_hosts() else { panic!("not by a unix socket: {}", database.url) };
        let socket = dir.join(format!(".s.PGSQL.{}", config.get_ports().first().copied().unwrap_or(5432)));
        let (user, database) = (config.get_user().expect("a user"), config.get_dbname().expect("a name"));
        Self::Postgres { socket, user: user.to_owned(), database: database.to_owned() }
    }

    /// A port that stands for it, and the URL by which the service is to call it there.
    pub(super) async fn listener(&self) -> (TcpListener, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let url = match self {
            Self::Redis { .. } => format!("redis://{address}"),
            Self::Postgres { user, database, .. } => format!("postgresql://{user}@{address}/{database}"),
        };
        (listener, url)
    }

    pub(super) async fn connect(&self) -> io::Result<Either<TcpStream, UnixStream>> {
        match self {
            Self::Redis { port } => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                // Commands of a few bytes must not wait for one another.
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Postgres { socket, .. } => UnixStream::connect(socket).await.map(Either::Right),
        }
    }
}
