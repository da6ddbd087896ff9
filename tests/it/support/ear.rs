//! Hears what the triggers tell of customers.

use std::future::poll_fn;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use super::Database;

/// A session that listens.
pub(crate) struct Ear {
    session: Client,
    payloads: UnboundedReceiver<String>,
}

impl Ear {
    pub(crate) async fn at(database: &Database) -> Self {
        let config: Config = database.owner_url.parse().expect("a URL");
        let (session, mut connection) = config.connect(NoTls).await.expect("a connection");
        let (tell, payloads) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    drop(tell.send(notification.payload().to_owned()));
                }
            }
        });
        session.batch_execute("LISTEN cxda_customers").await.expect("listening");
        Self { session, payloads }
    }

    /// The payloads of all that was told since the last time: notifications come in the order of the commits.
    pub(crate) async fn heard(&mut self) -> Vec<String> {
        self.session.batch_execute("NOTIFY cxda_customers, 'end'").await.expect("told");
        let mut all = Vec::new();
        while let Some(payload) = self.payloads.recv().await.filter(|payload| payload != "end") {
            all.push(payload);
        }
        all
    }
}
