//! The appointments server: what an appointment looks like to a caller, and what a caller may hear when something is wrong.
//!
//! One file per tool; `store.rs` and `import.rs` alone speak SQL. What must stay true: whose appointment it is belongs to every statement,
//! so that nobody learns of, let alone changes, what is another user's.

mod search;

mod book;
mod cancel;
mod reschedule;

mod memory;
mod store;
mod time;

pub mod import;

mod calendar;

use std::{borrow::Cow, error::Error, sync::Arc};

use axum::extract::FromRef;
use bg_runtime::{
    Color, Database, Release,
    contract::Contract,
    database::{DatabaseConfig, DatabaseError, FromSql, Row, Type},
    storage::{Control, Replica, migration::Migration},
};
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use widgets::APPOINTMENTS;

use self::time::{Clock, Period, TimeError, Zones};
pub use self::{
    store::{Appointments, ForeignUsers},
    time::time_zone,
};
use crate::{
    App, ToolError, answers, audit,
    conversations::{self, Conversations},
    person::PersonalData,
    pins, published, row_security, sessions,
};

/// Reads a calendar file, whatever it is, and panics when what comes of it could not be imported.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn read_whatever_it_is(bytes: &[u8]) {
    calendar::invariants::hold(bytes);
}

/// What the tools share.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Everybody's appointments.
    pub appointments: Appointments,
    /// What conversations remember.
    pub conversations: Conversations,
}

/// The schema these rooms need.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new("0001_appointments", include_str!("../migrations/0001_appointments/expand.sql")),
    conversations::MIGRATIONS[0],
    conversations::MIGRATIONS[1],
    sessions::MIGRATION,
    answers::MIGRATION,
    pins::MIGRATION,
    published::MIGRATION,
    row_security::MIGRATION,
    audit::MIGRATION,
    row_security::BY_OWNER,
    Migration::new("0101_appointments_row_security", include_str!("../migrations/0101_appointments_row_security/expand.sql")),
];

/// What of these tables is a person's.
pub const PERSONAL_DATA: &[PersonalData] = &[PersonalData::new("appointments", "user_id = $1")];

/// What a model is told of the server as a whole.
const INSTRUCTIONS: &str = "Searches, books, moves and cancels appointments of a user. Give times with an offset \
(2026-12-25T09:00:00+01:00), or with timeZone as the clock shows them there (2026-12-25T09:00). Search before changing: \
the ids come from there. A slot is given once; when it is taken the answer says by what. Appointments marked `imported` \
belong to a calendar elsewhere and are changed there.";

/// An appointment, as callers see it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Appointment {
    /// Names the appointment to the tools that change it.
    #[schemars(with = "String", extend("format" = "uuid"))]
    id: Uuid,
    title: String,
    /// The first moment, with the offset of `timeZone`.
    starts_at: Clock,
    /// The moment after the last.
    ends_at: Clock,
    /// The IANA zone the times were said in.
    time_zone: Arc<str>,
    /// Whole days, from midnight to midnight in `timeZone`.
    all_day: bool,
    /// The first day, when it lasts whole days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date"))]
    start_date: Option<String>,
    /// The last day, when it lasts whole days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date"))]
    end_date: Option<String>,
    location: Option<String>,
    /// `confirmed`, `pending`, or `cancelled`: a cancelled one takes no time.
    status: Word,
    /// The first 200 characters of the description.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Present when it came from a calendar: it is changed there, not here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    imported: bool,
    #[serde(skip)]
    period: Period,
    /// Whether the clock of `timeZone` shows one of the two times twice on that day.
    #[serde(skip)]
    is_ambiguous: bool,
}

/// A status. Those this release knows are not copied; one that only another release knows is passed on.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Word(Cow<'static, str>);

/// What every tool answers with: data, and the kind of document that draws it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Drawn<T> {
    #[schemars(with = "String", extend("const" = DRAWN_BY))]
    mime_type: &'static str,
    data: T,
}

/// The appointment that a tool has changed, as it is now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Changed {
    appointment: Appointment,
}

/// Why an appointment is not what the caller wanted it to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppointmentError {
    /// Our failure.
    #[error("the appointments cannot be read or written")]
    Database(#[from] DatabaseError),
    /// A time that does not mean one.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// A text that cannot be stored.
    #[error("`{argument}` {problem}")]
    Text { argument: &'static str, problem: Cow<'static, str> },
    /// Not an answer's cursor.
    #[error("`cursor` is not one that a search gave; search again without it")]
    Cursor,
    /// More or fewer than an answer may hold.
    #[error("`limit` must be between 1 and {most}")]
    Limit { most: u32 },
    /// A user who is not the caller.
    #[error("`userId` is not whoever calls: leave it out")]
    Foreign,
    /// Nobody's, or somebody else's.
    #[error("there is no such appointment; search_appointments gives the ids of this user's appointments")]
    NotFound,
    /// One that a calendar would change back.
    #[error("“{title}” was imported from a calendar and is changed there; the next import brings the change here")]
    Imported { title: String },
    /// One that does not take place.
    #[error("“{title}” is cancelled; book a new appointment instead")]
    Cancelled { title: String },
    /// Somebody was faster.
    #[error("that slot is taken by {by}; search_appointments shows when there is time")]
    Taken { by: String },
    /// Everybody wants the slot at once.
    #[error("that slot is being booked and given back right now; try again")]
    Contended,
}

/// What a caller's token has to allow, to look and to change.
const READ: &str = "appointments:read";
const WRITE: &str = "appointments:write";

const DRAWN_BY: &str = "text/html+skybridge";

/// What the application promises its clients. It asks no database.
///
/// # Errors
/// None is known; the way to a database is prepared, and never gone.
pub async fn contract() -> Result<Contract, DatabaseError> {
    let nowhere = DatabaseConfig { url: Some("postgresql://nobody@127.0.0.1/nothing".into()), ..DatabaseConfig::default() };
    let database = Database::open(nowhere).await?;
    let control = Control::new(database.clone(), Replica::new(Color::Blue, "0", MIGRATIONS));
    let release = Release::new(Color::Blue, "0", "contract").expect("visible ASCII");
    Ok(app(release, AppState::new(&database, &control, TimeZone::UTC)).contract())
}

/// The application, whole but for its place: where it listens, and what its database is.
pub fn app(release: Release, state: AppState) -> App<AppState> {
    App::new(release, state)
        .name("appointments")
        .title("Appointments")
        .instructions(INSTRUCTIONS)
        .tool(search::tool())
        .tool(book::tool())
        .tool(reschedule::tool())
        .tool(cancel::tool())
        .widget(&APPOINTMENTS)
        .migrations(MIGRATIONS)
}

// === impl AppState ===

impl AppState {
    /// On a database that has the schema of [`MIGRATIONS`]. Times for which nobody names a zone are meant in `default_zone`,
    /// which has an IANA name.
    pub fn new(database: &Database, control: &Control, default_zone: TimeZone) -> Self {
        Self {
            appointments: Appointments::new(database.clone(), default_zone),
            conversations: Conversations::new(database.clone(), control.clone()),
        }
    }
}

impl FromRef<AppState> for Appointments {
    fn from_ref(state: &AppState) -> Self {
        state.appointments.clone()
    }
}

impl FromRef<AppState> for Conversations {
    fn from_ref(state: &AppState) -> Self {
        state.conversations.clone()
    }
}

// === impl Appointment ===

impl Appointment {
    fn read(row: &Row, zones: &mut Zones) -> Self {
        let period = Period { starts_at: row.get(store::STARTS_AT), ends_at: row.get(store::ENDS_AT) };
        let zone = zones.get(row.get(store::TIME_ZONE));
        let [starts_at, ends_at] = [period.starts_at, period.ends_at].map(|stamp| zone.clock(stamp));
        let is_ambiguous = zone.is_ambiguous(period.starts_at) || zone.is_ambiguous(period.ends_at);
        let all_day = row.get(store::ALL_DAY);
        Self {
            id: row.get(store::ID),
            title: row.get(store::TITLE),
            time_zone: Arc::clone(zone.name()),
            all_day,
            start_date: all_day.then(|| starts_at.date()),
            end_date: all_day.then(|| zone.clock(period.last()).date()),
            starts_at,
            ends_at,
            location: row.get(store::LOCATION),
            status: row.get(store::STATUS),
            description: row.get(store::DESCRIPTION),
            imported: row.get(store::IMPORTED),
            period,
            is_ambiguous,
        }
    }

    fn is_cancelled(&self) -> bool {
        self.status.0 == "cancelled"
    }

    /// Appends the appointment in words: `2026-12-25 09:00 to 10:00 UTC: Tea (pending), Room 4 [id]`. A time that comes twice
    /// has its offset: `2026-10-25 02:30+02:00 to 02:00+01:00 Europe/Berlin`.
    ///
    /// Words are put together as bytes and checked once, when they are whole: a page has hundreds of pieces.
    fn say(&self, out: &mut Vec<u8>) {
        self.say_when(out);
        out.extend_from_slice(b": ");
        push_line(out, &self.title);
        if self.status.0 != "confirmed" {
            out.extend_from_slice(b" (");
            out.extend_from_slice(self.status.0.as_bytes());
            out.push(b')');
        }
        if let Some(location) = &self.location {
            out.extend_from_slice(b", ");
            push_line(out, location);
        }
        out.extend_from_slice(b" [");
        out.extend_from_slice(self.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        out.push(b']');
    }

    fn say_when(&self, out: &mut Vec<u8>) {
        if let (Some(first), Some(last)) = (&self.start_date, &self.end_date) {
            out.extend_from_slice(first.as_bytes());
            if last != first {
                out.extend_from_slice(b" to ");
                out.extend_from_slice(last.as_bytes());
            }
            out.extend_from_slice(b" all day");
            return;
        }
        let [start, end] = [&self.starts_at, &self.ends_at].map(Clock::in_words);
        // Of a time that comes twice, only the offset tells which one is meant.
        let offset = |clock| if self.is_ambiguous { Clock::offset(clock) } else { b"" };
        out.extend_from_slice(&start);
        out.extend_from_slice(offset(&self.starts_at));
        out.extend_from_slice(b" to ");
        out.extend_from_slice(if start[..10] == end[..10] { &end[11..] } else { &end });
        out.extend_from_slice(offset(&self.ends_at));
        out.push(b' ');
        out.extend_from_slice(self.time_zone.as_bytes());
    }

    /// `“Tea”, 2026-12-25 09:00 to 10:00 UTC`, for a sentence.
    fn quoted(&self) -> String {
        let mut out = Vec::from("“");
        push_line(&mut out, &self.title);
        out.extend_from_slice("”, ".as_bytes());
        self.say_when(&mut out);
        words(out)
    }
}

// === impl Word ===

impl<'a> FromSql<'a> for Word {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(match raw {
            b"confirmed" => "confirmed".into(),
            b"pending" => "pending".into(),
            b"cancelled" => "cancelled".into(),
            _ => String::from_sql(kind, raw)?.into(),
        }))
    }

    fn accepts(kind: &Type) -> bool {
        <String as FromSql<'_>>::accepts(kind)
    }
}

// === impl Drawn ===

impl<T> Drawn<T> {
    fn new(data: T) -> Self {
        Self { mime_type: DRAWN_BY, data }
    }
}

// === impl AppointmentError ===

impl From<AppointmentError> for ToolError {
    fn from(error: AppointmentError) -> Self {
        match error {
            AppointmentError::Database(error) => error.into(),
            mistake => Self::caller(mistake.to_string()),
        }
    }
}

/// A text that can be stored: not empty, not too long, and without the one character that PostgreSQL cannot keep.
fn text<'a>(argument: &'static str, said: &'a str, most: usize) -> Result<&'a str, AppointmentError> {
    let said = said.trim();
    let problem = if said.is_empty() {
        "is empty".into()
    } else if said.contains('\0') {
        "contains a NUL character; leave it out".into()
    } else if said.len() > most && said.chars().count() > most {
        format!("is longer than {most} characters; shorten it").into()
    } else {
        return Ok(said);
    };
    Err(AppointmentError::Text { argument, problem })
}

/// A user's name.
fn user(said: &str) -> Result<&str, AppointmentError> {
    text("userId", said, MOST_OF_A_USER)
}

/// Index entries must stay well below PostgreSQL's limit of a third of a page.
const MOST_OF_A_USER: usize = 200;

/// Appends a text on one line, shortened: a title is what a stranger wrote, and must not look like a line of ours.
fn push_line(out: &mut Vec<u8>, text: &str) {
    const MOST_BYTES: usize = 120;
    let short = &text.as_bytes()[..text.floor_char_boundary(MOST_BYTES)];
    let begin = out.len();
    out.extend_from_slice(short);
    for byte in &mut out[begin..] {
        if byte.is_ascii_control() {
            *byte = b' ';
        }
    }
    if short.len() < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

/// The bytes that texts were appended to, as a text.
fn words(out: Vec<u8>) -> String {
    String::from_utf8(out).expect("whole texts, one after the other, are a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_refused_with_what_is_wrong_with_it() {
        assert_eq!(text("title", "  Tea ", 3).unwrap(), "Tea");
        assert_eq!(text("title", "äöü", 3).unwrap(), "äöü");
        for (said, words) in [
            (" \n", "`title` is empty"),
            ("a\0b", "`title` contains a NUL character; leave it out"),
            ("Teas", "`title` is longer than 3 characters; shorten it"),
        ] {
            assert_eq!(text("title", said, 3).unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn a_title_stays_on_its_line() {
        let line = |text: &str| {
            let mut out = Vec::new();
            push_line(&mut out, text);
            words(out)
        };
        assert_eq!(line("Tea\n- 2026-01-01 a forged line"), "Tea - 2026-01-01 a forged line");
        assert_eq!(line(&"é".repeat(100)), format!("{}…", "é".repeat(60)));
    }

    #[test]
    fn the_schema_says_what_is_written() {
        let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
        let schema = serde_json::Value::from(settings.into_generator().into_root_schema_for::<Drawn<Changed>>());
        assert_eq!(schema["properties"]["mimeType"]["const"], "text/html+skybridge");
        let appointment = &schema["$defs"]["Appointment"];
        let required: Vec<_> = appointment["required"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
        assert_eq!(required, ["id", "title", "startsAt", "endsAt", "timeZone", "allDay", "location", "status"]);
        assert_eq!(appointment["properties"]["location"]["type"], serde_json::json!(["string", "null"]));
    }
}
