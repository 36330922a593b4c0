//! The events of streams, in the database, so that a stream that broke is read on wherever its client comes next.
//!
//! What must stay true: an event that a client has seen has been stored, unless the database is away; then the client
//! sees it all the same, and only a broken stream misses it.

use std::{fmt, sync::Arc, time::Duration};

use bg_runtime::{
    Database,
    database::{DatabaseError, Type},
    storage::Control,
};
use rmcp::{
    model::ServerJsonRpcMessage,
    transport::{
        common::server_side_http::ServerSseMessage,
        streamable_http_server::session::{EventId, EventStore, EventStoreError, EventStream},
    },
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::mcp::request_id::restore;

/// The streams of all processes on one database.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    database: Database,
    control: Control,
    /// How many answers may wait for a database that is away.
    late: Arc<Semaphore>,
}

/// Where in which stream a client is: the id of the last event it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) stream: String,
    /// 0 is the beginning.
    pub(crate) number: i64,
}

/// An event as it is stored.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) number: i64,
    pub(crate) message: String,
    /// The answer, after which the stream ends. An empty one ends it without an answer.
    pub(crate) is_answer: bool,
}

/// A request that is answered with a stream.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) request: String,
    /// The replica that answers it.
    pub(crate) instance: String,
    pub(crate) continued_by: Option<Uuid>,
    pub(crate) is_answered: bool,
}

/// A stream waits so long for a slow database, and then goes on without it.
const STORED_WITHIN: Duration = Duration::from_secs(2);

/// How often an answer is stored again, and how many of them: a broken stream can be read on for ten minutes.
const LATE: u32 = 300;
const LATE_ANSWERS: usize = 1000;

/// How often whoever follows a stream says so.
pub(crate) const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// Events that are read at once.
pub(crate) const PAGE: i64 = 100;

/// Not waiting for the disk may lose the last events when the database's machine dies, which takes more with it.
const STORE: &str = "WITH fast AS (SELECT set_config('synchronous_commit', 'off', true)) \
     INSERT INTO mcp_stream_events (stream, message, is_answer) SELECT $1, $2, $3 FROM fast RETURNING number";
const AFTER: &str =
    "SELECT number, message, is_answer FROM mcp_stream_events WHERE stream = $1 AND number > $2 ORDER BY number LIMIT $3";
const BEGIN: &str = "WITH fast AS (SELECT set_config('synchronous_commit', 'off', true)) \
     INSERT INTO mcp_streams (stream_id, session_id, request, instance) SELECT $1, $2, $3, $4 FROM fast ON CONFLICT DO NOTHING";
const FIND: &str = "SELECT request, instance, continued_by, \
     EXISTS (SELECT 1 FROM mcp_stream_events WHERE stream = stream_id::text AND is_answer) \
     FROM mcp_streams WHERE stream_id = $1 AND session_id = $2";
const IN_FLIGHT: &str = "SELECT s.instance, d.address FROM mcp_streams s LEFT JOIN mcp_drainage d USING (instance) \
     WHERE s.session_id = $1 AND s.continued_by IS NULL \
     AND NOT EXISTS (SELECT 1 FROM mcp_stream_events e WHERE e.stream = s.stream_id::text AND e.is_answer) \
     ORDER BY s.began_at DESC";
const HOLDERS: &str = "SELECT s.instance, d.address, s.request FROM mcp_streams s LEFT JOIN mcp_drainage d USING (instance) \
     WHERE s.session_id = $1 AND s.continued_by IS NULL \
     AND NOT EXISTS (SELECT 1 FROM mcp_stream_events e WHERE e.stream = s.stream_id::text AND e.is_answer) \
     ORDER BY s.began_at DESC";
const CLAIM: &str = "UPDATE mcp_streams SET instance = $3 WHERE stream_id = $1 AND instance = $2 AND continued_by IS NULL";
/// A follower is an event of a stream of its own, which is renewed as long as it follows.
const FOLLOW: &str = "WITH renewed AS (UPDATE mcp_stream_events SET stored_at = now() WHERE stream = $1 RETURNING 1) \
     INSERT INTO mcp_stream_events (stream, message, is_answer) SELECT $1, '', false WHERE NOT EXISTS (SELECT 1 FROM renewed)";
/// Longer than a follower takes to say so again, see [`FOLLOW_INTERVAL`].
const IS_FOLLOWED: &str =
    "SELECT EXISTS (SELECT 1 FROM mcp_stream_events WHERE stream = $1 AND stored_at > now() - interval '5 seconds')";
const CONTINUE: &str = "UPDATE mcp_streams SET continued_by = $2 WHERE stream_id = $1";

// === impl Place ===

impl Place {
    /// Reads an event's id.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (stream, number) = id.rsplit_once('/')?;
        Some(Self { stream: stream.to_owned(), number: number.parse().ok().filter(|number| *number >= 0)? })
    }

    /// Whether the stream is a session's own, on which it hears what no request asked for. rmcp names it so.
    pub(crate) fn is_own_of(&self, session: &str) -> bool {
        self.stream.strip_suffix(":common") == Some(session)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.number)
    }
}

// === impl Streams ===

impl Streams {
    pub(crate) fn new(database: Database, control: Control) -> Self {
        Self { database, control, late: Arc::new(Semaphore::new(LATE_ANSWERS)) }
    }

    /// Remembers the request that a stream answers.
    pub(crate) async fn begin(&self, stream: Uuid, session: Uuid, request: &str) -> Result<(), DatabaseError> {
        let instance = self.control.instance();
        let parameters =
            [(&stream as _, Type::UUID), (&session as _, Type::UUID), (&request as _, Type::TEXT), (&instance as _, Type::TEXT)];
        self.database.get().await?.execute(BEGIN, &parameters).await.map(drop)
    }

    /// A stream of this session.
    pub(crate) async fn find(&self, stream: Uuid, session: Uuid) -> Result<Option<Begun>, DatabaseError> {
        let row = self.database.get().await?.query_opt(FIND, &[(&stream, Type::UUID), (&session, Type::UUID)]).await?;
        Ok(row.map(|row| Begun { request: row.get(0), instance: row.get(1), continued_by: row.get(2), is_answered: row.get(3) }))
    }

    /// The events of a stream after this place, [`PAGE`] at most.
    pub(crate) async fn after(&self, place: &Place) -> Result<Vec<Event>, DatabaseError> {
        let parameters = [(&place.stream as _, Type::TEXT), (&place.number as _, Type::INT8), (&PAGE as _, Type::INT8)];
        let rows = self.database.get().await?.query(AFTER, &parameters).await?;
        Ok(rows.iter().map(|row| Event { number: row.get(0), message: row.get(1), is_answer: row.get(2) }).collect())
    }

    /// Whether a stream has ended, and a client that saw it up to this place has seen all of it.
    pub(crate) async fn is_read_to_its_end(&self, begun: &Begun, place: &Place) -> Result<bool, DatabaseError> {
        Ok(begun.is_answered
            && begun.continued_by.is_none()
            && self.after(place).await?.iter().all(|event| event.message.is_empty()))
    }

    /// All events of a stream after this place.
    pub(crate) async fn all_after(&self, place: &Place) -> Result<Vec<Event>, DatabaseError> {
        let mut events = self.after(place).await?;
        let mut whole = Vec::new();
        while let Some(last) = events.last().filter(|_| events.len() as i64 == PAGE).map(|last| last.number) {
            whole.append(&mut events);
            events = self.after(&Place { stream: place.stream.clone(), number: last }).await?;
        }
        whole.append(&mut events);
        Ok(whole)
    }

    /// The replica that has a call of this session in flight, and where it is. `None` when we have one, or nobody does.
    pub(crate) async fn asked_by(&self, session: Uuid) -> Result<Option<(String, String)>, DatabaseError> {
        let rows = self.database.get().await?.query(IN_FLIGHT, &[(&session, Type::UUID)]).await?;
        let mut found = None;
        for row in rows {
            let instance: String = row.get(0);
            if instance == self.control.instance() {
                return Ok(None);
            }
            if found.is_none() && self.control.lives(&instance).await? {
                found = row.get::<_, Option<String>>(1).map(|address| (instance, address));
            }
        }
        Ok(found)
    }

    /// Returns the replica that has the newest request of this session in flight that `is_meant` accepts, and its address.
    /// `None` when that is this replica, or no other has one.
    pub(crate) async fn holder(
        &self,
        session: Uuid,
        is_meant: impl Fn(&str) -> bool,
    ) -> Result<Option<(String, String)>, DatabaseError> {
        let rows = self.database.get().await?.query(HOLDERS, &[(&session, Type::UUID)]).await?;
        for row in rows.iter().filter(|row| is_meant(row.get(2))) {
            let instance: String = row.get(0);
            if instance == self.control.instance() {
                return Ok(None);
            }
            if self.control.lives(&instance).await? {
                return Ok(row.get::<_, Option<String>>(1).map(|address| (instance, address)));
            }
        }
        Ok(None)
    }

    /// Notes that a client follows a stream, for whoever answers it.
    pub(crate) async fn follow(&self, stream: Uuid) -> Result<(), DatabaseError> {
        self.database.get().await?.execute(FOLLOW, &[(&followers(stream), Type::TEXT)]).await.map(drop)
    }

    /// Whether a client follows a stream, in whichever process.
    pub(crate) async fn is_followed(&self, stream: Uuid) -> Result<bool, DatabaseError> {
        let row = self.database.get().await?.query_opt(IS_FOLLOWED, &[(&followers(stream), Type::TEXT)]).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// Whether whoever answers a stream still lives.
    pub(crate) async fn lives(&self, begun: &Begun) -> Result<bool, DatabaseError> {
        self.control.lives(&begun.instance).await
    }

    /// Takes a stream over from a process that died. Whether we did: somebody else may have.
    pub(crate) async fn claim(&self, stream: Uuid, from: &Begun) -> Result<bool, DatabaseError> {
        let instance = self.control.instance();
        let parameters = [(&stream as _, Type::UUID), (&from.instance as _, Type::TEXT), (&instance as _, Type::TEXT)];
        Ok(self.database.get().await?.execute(CLAIM, &parameters).await? == 1)
    }

    /// Says that a stream goes on in another one.
    pub(crate) async fn continue_in(&self, stream: Uuid, next: Uuid) -> Result<(), DatabaseError> {
        self.database.get().await?.execute(CONTINUE, &[(&stream, Type::UUID), (&next, Type::UUID)]).await.map(drop)
    }

    /// Stores an event, and gives its number.
    pub(crate) async fn store(&self, stream: &str, message: &str, is_answer: bool) -> Result<i64, DatabaseError> {
        let parameters = [(&stream as _, Type::TEXT), (&message as _, Type::TEXT), (&is_answer as _, Type::BOOL)];
        let row = self.database.get().await?.query_opt(STORE, &parameters).await?;
        Ok(row.map_or(0, |row| row.get(0)))
    }
}

#[async_trait::async_trait]
impl EventStore for Streams {
    async fn store_event(&self, stream: &str, event: &ServerSseMessage) -> Result<EventId, EventStoreError> {
        let mut place = Place { stream: stream.to_owned(), number: 0 };
        // An event without a message only says where the stream begins.
        let Some(message) = event.message.as_deref() else { return Ok(place.to_string()) };
        let is_answer = matches!(message, ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_));
        let text = serde_json::to_string(message)?;
        // Whoever resumes the stream reads what its client would have read.
        let text = restore(&text).0.into_owned();
        // A failure here would end the session's service, and with it every call of the session.
        let why = match tokio::time::timeout(STORED_WITHIN, self.store(stream, &text, is_answer)).await {
            Ok(Ok(number)) => {
                place.number = number;
                return Ok(place.to_string());
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "the database took too long".to_owned(),
        };
        tracing::warn!(error = why, "an event was sent and not stored: {why}");
        // Whoever reads on without its answer waits until the stream's time is over.
        if is_answer && let Ok(turn) = self.late.clone().try_acquire_owned() {
            let (streams, stream) = (self.clone(), stream.to_owned());
            tokio::spawn(async move {
                let _turn = turn;
                for _ in 0..LATE {
                    tokio::time::sleep(STORED_WITHIN).await;
                    if streams.store(&stream, &text, true).await.is_ok() {
                        return;
                    }
                }
            });
        }
        Ok(place.to_string())
    }

    /// Streams are read on by [`Served`](crate::mcp::served::Served), which knows whose they are; rmcp does not ask.
    async fn replay_events_after(&self, _last_event_id: &str) -> Result<EventStream, EventStoreError> {
        Err("streams are resumed at the door".into())
    }
}

/// The name under which the followers of a stream are noted.
fn followers(stream: Uuid) -> String {
    format!("{stream}:followers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_its_event_says() {
        let place = Place::parse("0c7c4f1e-77a5-4b7b-a4a5-0d5a1a8b1f3e:common/12").unwrap();
        assert_eq!(place.number, 12);
        assert!(place.is_own_of("0c7c4f1e-77a5-4b7b-a4a5-0d5a1a8b1f3e") && !place.is_own_of("other"));
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for id in ["", "12", "a/", "a/-1", "a/b"] {
            assert_eq!(Place::parse(id), None, "{id}");
        }
    }
}
