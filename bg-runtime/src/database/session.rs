//! A connection of one's own, beside the pool: for what a pooled one cannot do, such as hearing notifications, holding an
//! advisory lock between statements, running for minutes, or streaming a table.
//!
//! What must stay true: dropping a session ends the connection, and with it whatever it held; no statement waits for ever.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Row};

use super::connection::Parameter;
use super::{DatabaseError, Direct, Pooler};

/// A connection outside the pool.
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
    notifications: mpsc::UnboundedReceiver<Notification>,
    pooler: Pooler,
    patience: Duration,
}

/// What somebody told all who listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Where it was told.
    pub channel: String,
    /// What was told.
    pub payload: String,
}

/// The server may have died silently: past its own statement timeout it gets this long to say so.
const GRACE: Duration = Duration::from_secs(1);

// === impl Session ===

impl Session {
    pub(super) async fn connect(way: &Direct) -> Result<Self, DatabaseError> {
        let (pooler, patience) = (way.pooler, way.statement_timeout);
        let limit = way.postgres.get_connect_timeout().copied().unwrap_or(patience) + GRACE;
        let (client, mut connection) = tokio::time::timeout(limit, way.postgres.connect(way.tls.clone()))
            .await
            .map_err(|_| DatabaseError::unavailable("opening a connection took too long"))?
            .map_err(|error| DatabaseError::from_connecting(&error))?;
        let (heard, notifications) = mpsc::unbounded_channel();
        let driver = tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message {
                    // Nobody listens once the session is dropped, and then this task ends as well.
                    let (channel, payload) = (notification.channel().to_owned(), notification.payload().to_owned());
                    let _ = heard.send(Notification { channel, payload });
                }
            }
        });
        Ok(Self { client, driver, notifications, pooler, patience })
    }

    /// Whether the session is the server's own: through a transaction pooler it cannot listen or hold a lock.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.pooler == Pooler::Direct
    }

    /// Lets statements take this long from now on. Through a transaction pooler ours is the only clock.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn set_patience(&mut self, patience: Duration) -> Result<(), DatabaseError> {
        if self.is_direct() {
            self.batch_execute(&format!("SET statement_timeout = {}", patience.as_millis().max(1))).await?;
        }
        self.patience = patience;
        Ok(())
    }

    /// Every row a statement gives, in one round trip.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
        self.answer(async { self.client.query_typed_raw(sql, parameters).await?.try_collect().await }).await
    }

    /// The row a statement gives, if it gives one.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn query_opt(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Option<Row>, DatabaseError> {
        super::connection::at_most_one(self.query(sql, parameters).await?)
    }

    /// Runs statements, parted by semicolons, that take no values and give no rows.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn batch_execute(&self, sql: &str) -> Result<(), DatabaseError> {
        self.answer(self.client.batch_execute(sql)).await
    }

    /// What `COPY … TO STDOUT` gives, piece by piece, so that a table of any size fits.
    ///
    /// # Errors
    ///
    /// See [`DatabaseError`].
    pub async fn copy_out(&self, sql: &str) -> Result<impl Stream<Item = Result<Bytes, DatabaseError>> + use<>, DatabaseError> {
        let stream = self.answer(self.client.copy_out(sql)).await?;
        Ok(stream.map_err(|error| DatabaseError::from_statement(&error)))
    }

    /// The next notification; `None` once the connection is gone.
    pub async fn notified(&mut self) -> Option<Notification> {
        self.notifications.recv().await
    }

    /// A notification that has already arrived.
    pub fn notified_already(&mut self) -> Option<Notification> {
        self.notified().now_or_never().flatten()
    }

    async fn answer<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, DatabaseError> {
        let answer = tokio::time::timeout(self.patience + GRACE, work).await.map_err(|_| DatabaseError::Timeout)?;
        answer.map_err(|error| DatabaseError::from_statement(&error))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("pooler", &self.pooler).finish_non_exhaustive()
    }
}
