//! What conversations promise: a write is whole or did not happen, and a read is right in every phase, whoever wrote.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use std::{path::PathBuf, time::Duration};

use bg_runtime::{
    Color,
    database::{Database, DatabaseConfig, Type},
    storage::{Control, Coordinator, Phase, Replica, StorageError, backfill::Pace, migration, validator::ValidateOptions},
};
use mcp_server::conversations::{CHAT_SESSIONS, Call, Conversations, MIGRATIONS, Save, Widget};
use serde_json::{Value, json, value::RawValue};

/// A database with the tables, and a green replica on it.
struct Desk {
    database: Database,
    conversations: Conversations,
    control: Control,
    following: tokio::task::JoinHandle<()>,
    directory: PathBuf,
}

impl Desk {
    async fn open(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("conversations-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let config = DatabaseConfig { data_dir: directory.clone(), path: std::env::var_os("PATH"), ..DatabaseConfig::default() };
        let database = Database::open(config).await.unwrap();
        migration::apply(&database, &MIGRATIONS, Duration::from_secs(30)).await.unwrap();
        let control = Control::new(database.clone(), Replica::new(Color::Green, "2.0.0", &MIGRATIONS));
        let following = tokio::spawn(control.clone().follow());
        control.wait_for(|snapshot| snapshot.phase(CHAT_SESSIONS.migration) == Phase::Dual).await;
        let conversations = Conversations::new(database.clone(), control.clone());
        Self { database, conversations, control, following, directory }
    }

    async fn close(self) {
        self.following.abort();
        self.database.close().await.unwrap();
        std::fs::remove_dir_all(self.directory).unwrap();
    }

    async fn save(&self, base: i64, state: &Value, widgets: &[Widget]) -> Result<i64, StorageError> {
        let call = Some(Call { tool: "search_appointments", version: "2.0.0" });
        self.conversations.save(&Save { session: "s", principal: "ada", base, state, widgets, call }).await
    }

    async fn load(&self, principal: &str) -> Option<(i64, Value, Vec<(String, String)>)> {
        let loaded = self.conversations.load::<Value>("s", principal).await.unwrap()?;
        let widgets = loaded.widgets.into_iter().map(|widget| (widget.kind, widget.state.get().to_owned())).collect();
        Some((loaded.row_version, loaded.state, widgets))
    }

    async fn count(&self, sql: &'static str) -> i64 {
        self.database.get().await.unwrap().query_opt(sql, &[]).await.unwrap().unwrap().get(0)
    }

    /// A write of the release before, which has never heard of versions.
    async fn blue_writes(&self, state: &Value) {
        let state = state.to_string();
        let update = "UPDATE chat_sessions SET state_data = $1::text::jsonb WHERE session_id = 's'";
        assert_eq!(self.database.get().await.unwrap().execute(update, &[(&state, Type::TEXT)]).await.unwrap(), 1);
    }
}

fn widget(kind: &str, state: &str) -> Widget {
    Widget { kind: kind.to_owned(), state: RawValue::from_string(state.to_owned()).unwrap() }
}

const CALLS: &str = "SELECT count(*) FROM mcp_tool_calls WHERE tool_version = '2.0.0' AND response_schema_version = 2";
const WIDGETS: &str = "SELECT count(*) FROM widget_metadata";

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_whole_or_did_not_happen() {
    let desk = Desk::open("whole").await;
    assert!(desk.load("ada").await.is_none());
    // Of two states of one widget the last one counts: the statement could not write both.
    let first = [widget("list", r#"{"page":1}"#), widget("list", r#"{"page":2}"#), widget("map", "[]")];
    assert_eq!(desk.save(0, &json!({"n": 1}), &first).await.unwrap(), 1);
    let widgets = vec![("list".to_owned(), r#"{"page": 2}"#.to_owned()), ("map".to_owned(), "[]".to_owned())];
    assert_eq!(desk.load("ada").await, Some((1, json!({"n": 1}), widgets)));
    assert_eq!((desk.count(CALLS).await, desk.count(WIDGETS).await), (1, 2));

    assert!(
        matches!(desk.save(0, &json!({"n": 9}), &[widget("new", "1")]).await, Err(StorageError::Conflict)),
        "it began already"
    );
    assert!(
        matches!(desk.save(7, &json!({"n": 9}), &[widget("new", "1")]).await, Err(StorageError::Conflict)),
        "of a version to come"
    );
    let nul = [widget("new", r#""a\u0000b""#)];
    assert!(matches!(desk.save(1, &json!({"n": 9}), &nul).await, Err(StorageError::Nul)));
    assert!(matches!(desk.save(1, &json!({"n": "\u{0}"}), &[]).await, Err(StorageError::Nul)));
    assert_eq!((desk.count(CALLS).await, desk.count(WIDGETS).await), (1, 2), "a refused write left something behind");

    assert!(desk.load("eve").await.is_none(), "somebody else's conversation is as good as none");
    let state = json!({"n": 9});
    let theirs = Save { session: "s", principal: "eve", base: 1, state: &state, widgets: &[], call: None };
    assert!(matches!(desk.conversations.save(&theirs).await, Err(StorageError::Conflict)));
    assert_eq!(desk.save(1, &json!({"n": 2}), &[]).await.unwrap(), 2);
    // The release before deletes what it knows; what it does not know goes with it.
    desk.database.get().await.unwrap().execute("DELETE FROM chat_sessions WHERE session_id = 's'", &[]).await.unwrap();
    assert_eq!(desk.count(WIDGETS).await, 0);
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_releases_read_what_the_other_wrote_in_every_phase() {
    let desk = Desk::open("phases").await;
    let mut coordinator = Coordinator::take(&desk.database, &MIGRATIONS, "test", Duration::from_secs(9)).await.unwrap();
    let name = CHAT_SESSIONS.migration;
    let mut version = desk.save(0, &json!({"n": 0}), &[]).await.unwrap();
    for phase in [Phase::Expand, Phase::Dual, Phase::Backfill, Phase::Validate, Phase::ReadNew, Phase::Fenced, Phase::Contract] {
        match phase {
            Phase::Expand => drop(coordinator.back(name, false).await.unwrap()),
            Phase::Dual | Phase::ReadNew | Phase::Fenced => drop(coordinator.advance(name).await.unwrap()),
            Phase::Backfill => drop(coordinator.backfill(name, &Pace::default(), &()).await.unwrap()),
            Phase::Validate => {
                assert!(coordinator.validate(name, ValidateOptions::default(), &()).await.unwrap().valid);
            }
            _ => coordinator.contract(name).await.unwrap(),
        }
        desk.control.wait_for(|snapshot| snapshot.phase(name) == phase).await;
        assert!(coordinator.wait_for_replicas(Duration::from_secs(9)).await.unwrap().is_empty());

        let green = json!({ "by": "green", "in": phase });
        version = desk.save(version, &green, &[]).await.unwrap();
        assert_eq!(desk.load("ada").await.unwrap().1, green, "{phase}");
        if phase == Phase::Contract {
            break;
        }
        let old = "SELECT count(*) FROM chat_sessions WHERE state_data ->> 'by' = 'green'";
        assert_eq!(desk.count(old).await, 1, "the release before reads {phase}");
        if phase.rule().old_writes {
            let blue = json!({ "by": "blue", "in": phase });
            desk.blue_writes(&blue).await;
            let (found, state, _) = desk.load("ada").await.unwrap();
            assert_eq!((found, state), (version + 1, blue), "{phase}");
            assert!(matches!(desk.save(version, &green, &[]).await, Err(StorageError::Conflict)), "blue's write was overwritten");
            version = found;
        }
    }
    drop(coordinator);
    desk.close().await;
}
