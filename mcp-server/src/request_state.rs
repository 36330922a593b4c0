//! What a client carries for us between two rounds of one call (`requestState`, 2026-07-28), sealed.
//!
//! What must stay true: a state that one process sealed every process of both colors opens, and it is opened for the caller,
//! the tool and the arguments it was sealed for alone. It is signed and not encrypted: the client can read it.
//!
//! All processes hold a ring of keys. The first one seals, all of them open. A key is changed in two deploys, because both
//! colors must know it before either of them seals with it: first it is added at the end of the ring, then it is put first.
//! A third takes the old one away.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bg_runtime::{
    Database, Secret,
    database::{DatabaseError, Type},
};
use rmcp::{
    ErrorData,
    model::{RequestStateCodec, SealOptions},
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::ToolError;

/// How long a person may take to answer.
const LASTS: Duration = Duration::from_secs(600);

/// The name of the key that the database keeps.
const DATABASE: &str = "database";

/// Two processes may make the key at the same time; one of them does.
const MAKE: &str = "INSERT INTO mcp_request_state_keys (kid, secret) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const READ: &str = "SELECT secret FROM mcp_request_state_keys WHERE kid = $1";

/// The ring of keys, as it is configured: `NAME=SECRET,…`, where the word `database` stands for a key that the database
/// keeps and the first process makes. Secrets have 32 bytes or more.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestStateKeys(Vec<Key>);

#[derive(Clone, PartialEq, Eq)]
enum Key {
    Kept,
    Given { kid: String, secret: Secret },
}

/// What seals and opens. It has no keys before the process is ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestStates {
    codec: Arc<OnceLock<RequestStateCodec>>,
}

/// [`RequestStates`] for one caller and one tool.
#[derive(Clone, Debug)]
pub(crate) struct Seal {
    states: RequestStates,
    purpose: Vec<u8>,
}

// === impl RequestStateKeys ===

impl RequestStateKeys {
    /// The whole ring. Without a database the kept key is this process's own, and what it seals nobody else opens.
    pub(crate) async fn load(&self, database: Option<&Database>) -> Result<RequestStateCodec, DatabaseError> {
        let mut ring = Vec::with_capacity(self.0.len());
        for key in &self.0 {
            ring.push(match key {
                Key::Given { kid, secret } => (kid.clone(), secret.expose().as_bytes().to_vec()),
                Key::Kept => (DATABASE.to_owned(), kept(database).await?),
            });
        }
        let active = ring.first().map(|(kid, _)| kid.clone()).expect("a ring has a key");
        RequestStateCodec::new_with_keyring(active, ring).map_err(|wrong| DatabaseError::Configuration(wrong.to_string()))
    }
}

async fn kept(database: Option<&Database>) -> Result<Vec<u8>, DatabaseError> {
    let new = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
    let Some(database) = database else { return Ok(new) };
    let connection = database.get().await?;
    connection.execute(MAKE, &[(&DATABASE, Type::TEXT), (&new, Type::BYTEA)]).await?;
    let row = connection.query_opt(READ, &[(&DATABASE, Type::TEXT)]).await?;
    Ok(row.ok_or_else(|| DatabaseError::mismatch("a key is gone as soon as it was made"))?.get(0))
}

impl Default for RequestStateKeys {
    fn default() -> Self {
        Self(vec![Key::Kept])
    }
}

impl FromStr for RequestStateKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ring = Vec::new();
        for part in text.split(',').map(str::trim) {
            let key = match part.split_once('=') {
                None if part == DATABASE => Key::Kept,
                Some((kid, secret))
                    if !kid.is_empty() && kid != DATABASE && secret.len() >= RequestStateCodec::MIN_KEY_LENGTH =>
                {
                    Key::Given { kid: kid.to_owned(), secret: secret.into() }
                }
                // The text itself is a secret, and so is not said.
                _ => return Err("it is `NAME=SECRET` or `database`, with commas, each secret of 32 bytes or more".to_owned()),
            };
            let kid = |key: &Key| match key {
                Key::Kept => DATABASE.to_owned(),
                Key::Given { kid, .. } => kid.clone(),
            };
            if ring.iter().any(|other| kid(other) == kid(&key)) {
                return Err(format!("two keys are named `{}`", kid(&key)));
            }
            ring.push(key);
        }
        Ok(Self(ring))
    }
}

impl fmt::Debug for RequestStateKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|key| match key {
            Key::Kept => DATABASE,
            Key::Given { kid, .. } => kid,
        });
        f.debug_list().entries(names).finish()
    }
}

// === impl RequestStates ===

impl RequestStates {
    /// Begins to seal and open.
    pub(crate) fn install(&self, codec: RequestStateCodec) {
        // There is one start in the life of a process.
        let _ = self.codec.set(codec);
    }

    /// For a caller, a tool, and what its arguments say.
    pub(crate) fn seal_for(&self, caller: &str, tool: &str, arguments: &str) -> Seal {
        // NUL is in none of them, so that no two callers look alike.
        Seal { states: self.clone(), purpose: format!("{caller}\0{tool}\0{arguments}").into_bytes() }
    }
}

// === impl Seal ===

impl Seal {
    pub(crate) fn seal(&self, state: &impl Serialize) -> Result<String, ToolError> {
        let options = SealOptions::new().associated_data(&self.purpose).ttl(LASTS);
        self.codec()?.seal_json_with(state, &options).map_err(ToolError::internal)
    }

    pub(crate) fn open<T: DeserializeOwned>(&self, sealed: &str) -> Result<T, ToolError> {
        let refused = |wrong: rmcp::model::RequestStateError| ErrorData::invalid_params(wrong.to_string(), None);
        Ok(self.codec()?.open_json_with(sealed, &self.purpose).map_err(refused)?)
    }

    /// What a sealed state says, whatever it says; `None` when this caller was not given it for this tool and these arguments,
    /// or when it is too old. Two seals of the same state differ, because each holds the time it was made.
    pub(crate) fn peek(&self, sealed: &str) -> Option<serde_json::Value> {
        self.states.codec.get()?.open_json_with(sealed, &self.purpose).ok()
    }

    fn codec(&self) -> Result<&RequestStateCodec, ToolError> {
        self.states.codec.get().ok_or_else(|| ToolError::internal("the keys of request states are not there yet"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "old=0123456789abcdef0123456789abcdef";
    const NEW: &str = "new=fedcba9876543210fedcba9876543210==";

    async fn ring(text: &str) -> RequestStates {
        let states = RequestStates::default();
        states.install(text.parse::<RequestStateKeys>().unwrap().load(None).await.unwrap());
        states
    }

    fn is_opened(states: &RequestStates, sealed: &str) -> bool {
        states.seal_for("=ada", "ask", "{}").open::<u32>(sealed).is_ok()
    }

    #[tokio::test]
    async fn a_key_is_changed_in_two_deploys_and_at_no_time_is_a_state_lost() {
        let before = ring(OLD).await;
        let known = ring(&format!("{OLD},{NEW}")).await;
        let active = ring(&format!("{NEW}, {OLD}")).await;
        let after = ring(NEW).await;
        // At most two of these answer at the same time: neighbors open what the other seals.
        for (one, other) in [(&before, &known), (&known, &active)] {
            for (sealing, opening) in [(one, other), (other, one)] {
                let sealed = sealing.seal_for("=ada", "ask", "{}").seal(&7_u32).unwrap();
                assert!(is_opened(opening, &sealed));
            }
        }
        let sealed = active.seal_for("=ada", "ask", "{}").seal(&7_u32).unwrap();
        assert!(is_opened(&after, &sealed) && !is_opened(&before, &sealed));
        let sealed = before.seal_for("=ada", "ask", "{}").seal(&7_u32).unwrap();
        assert!(!is_opened(&after, &sealed), "a key that was taken away still opens");
    }

    #[tokio::test]
    async fn a_state_is_its_callers_and_its_tools_alone() {
        let states = ring(OLD).await;
        let sealed = states.seal_for("=ada", "ask", "{}").seal(&7_u32).unwrap();
        assert_eq!(states.seal_for("=ada", "ask", "{}").open::<u32>(&sealed).unwrap(), 7);
        for (caller, tool, arguments) in
            [("=eve", "ask", "{}"), ("", "ask", "{}"), ("=ada", "tell", "{}"), ("=ada", "ask", r#"{"id":1}"#)]
        {
            assert!(states.seal_for(caller, tool, arguments).open::<u32>(&sealed).is_err(), "{caller} {tool} {arguments}");
        }
        assert!(RequestStates::default().seal_for("", "ask", "{}").seal(&7_u32).is_err(), "before it has keys");
    }

    #[test]
    fn a_ring_is_read_and_never_shown() {
        let keys: RequestStateKeys = format!("database,{OLD}").parse().unwrap();
        assert_eq!(format!("{keys:?}"), r#"["database", "old"]"#);
        for wrong in ["", "old", "old=short", "=0123456789abcdef0123456789abcdef", &format!("{OLD},{OLD}"), "database,database"] {
            let words = wrong.parse::<RequestStateKeys>().unwrap_err();
            assert!(!words.contains("0123456789"), "{words}");
        }
    }
}
