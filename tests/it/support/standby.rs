//! Copies of a Postgres: a backup of its files, and a standby.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::postgres::binaries;
use super::{Cluster, scratch_dir};

/// Copies a data directory with its owner.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "{copied}");
}

/// The files of a stopped server.
pub(crate) struct Backup(PathBuf);

impl Backup {
    pub(crate) fn of(stopped: &Cluster) -> Self {
        let files = scratch_dir().join("backup");
        copy(stopped.data_dir(), &files);
        Self(files)
    }

    /// Puts them in the place of a stopped server's.
    pub(crate) fn restore(&self, stopped: &Cluster) {
        std::fs::remove_dir_all(stopped.data_dir()).expect("the files of our own server");
        copy(&self.0, stopped.data_dir());
    }
}

impl Cluster {
    /// A standby of this server, which listens on this port, on a TCP port of its own.
    pub(crate) async fn standby(&self, port: u16, own_port: u16) -> Self {
        let data_dir = scratch_dir().join("postgres");
        // Where `initdb` is a link, its neighbours may have none.
        let initdb = std::fs::canonicalize(binaries().directory().join("initdb")).expect("initdb is there");
        let mut backup = Command::new(initdb.with_file_name("pg_basebackup"));
        backup.args(["-h", "127.0.0.1", "-U", "app", "-p", &port.to_string(), "-X", "stream", "-R", "-c", "fast", "-D"]).arg(&data_dir);
        let made = backup.output().expect("pg_basebackup runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let chown = Command::new("chown").arg("-R").arg("--reference").arg(self.data_dir()).arg(&data_dir).status().expect("chown runs");
        assert!(chown.success(), "{chown}");
        // It takes no less than its primary has.
        let own_port = own_port.to_string();
        let options: Vec<_> = self.options().filter(|(name, _)| *name != "port").chain([("port", &*own_port)]).collect();
        Self::adopt(data_dir, &options).await
    }
}
