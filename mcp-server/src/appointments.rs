//! The appointments server: what an appointment looks like to a caller, and what a caller may hear when something is wrong.
//!
//! One file per tool; [`store`] alone speaks SQL. What must stay true: whose appointment it is belongs to every statement,
//! so that nobody learns of, let alone changes, what is another user's.

mod search;

mod book;
mod cancel;
mod reschedule;

mod store;
mod time;

pub mod import;

mod calendar;

use std::borrow::Cow;

use axum::extract::FromRef;
use bg_runtime::{
    database::{DatabaseError, Row},
    storage::migration::Migration,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};
use uuid::Uuid;

pub use self::store::Appointments;
use self::time::{Clock, Stamp, TimeError, Zones};
use crate::{Tool, ToolError};

/// What the tools share.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Everybody's appointments.
    pub appointments: Appointments,
}

/// The schema these rooms need.
pub const MIGRATIONS: &[Migration] =
    &[Migration { name: "0001_appointments", expand: include_str!("../migrations/0001_appointments/expand.sql") }];

/// What a model is told of the server as a whole.
pub const INSTRUCTIONS: &str = "Searches, books, moves and cancels appointments of a user. Give times with an offset \
(2026-12-25T09:00:00+01:00), or with timeZone as the clock shows them there (2026-12-25T09:00). Search before changing: \
the ids come from there. A slot is given once; when it is taken the answer says by what. Appointments marked `imported` \
belong to a calendar elsewhere and are changed there.";

/// An appointment as it was stored. It stays in the row it came in, and is written to the answer from there.
#[derive(Debug)]
pub(crate) struct Appointment {
    row: Row,
    starts_at: Clock,
    ends_at: Clock,
    /// The last day of one that lasts whole days.
    last_day: Option<Clock>,
}

/// What callers see of an appointment, and its schema.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Appointment")]
struct View<'a> {
    /// Names the appointment to the tools that change it.
    #[schemars(with = "String", extend("format" = "uuid"))]
    id: Uuid,
    title: &'a str,
    /// The first moment, with the offset of `timeZone`.
    #[schemars(extend("format" = "date-time"))]
    starts_at: &'a str,
    /// The moment after the last.
    #[schemars(extend("format" = "date-time"))]
    ends_at: &'a str,
    /// The IANA zone the times were said in.
    time_zone: &'a str,
    /// Whole days, from midnight to midnight in `timeZone`.
    all_day: bool,
    /// The first day, when it lasts whole days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date"))]
    start_date: Option<&'a str>,
    /// The last day, when it lasts whole days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date"))]
    end_date: Option<&'a str>,
    #[schemars(required)]
    location: Option<&'a str>,
    #[schemars(extend("enum" = ["confirmed", "pending", "cancelled"]))]
    status: &'a str,
    /// The first 200 characters of the description.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    /// Present when it came from a calendar: it is changed there, not here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    imported: bool,
}

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

const DRAWN_BY: &str = "text/html+skybridge";

/// Every tool, as a newcomer would meet them.
pub fn tools() -> [Tool<AppState>; 4] {
    [search::tool(), book::tool(), reschedule::tool(), cancel::tool()]
}

// === impl AppState ===

impl FromRef<AppState> for Appointments {
    fn from_ref(state: &AppState) -> Self {
        state.appointments.clone()
    }
}

// === impl Appointment ===

impl Appointment {
    fn new(row: Row, zones: &mut Zones) -> Self {
        let zone: &str = row.get(store::TIME_ZONE);
        let ends: Stamp = row.get(store::ENDS_AT);
        let starts_at = zones.clock(row.get(store::STARTS_AT), zone);
        let ends_at = zones.clock(ends, zone);
        let whole_days: bool = row.get(store::ALL_DAY);
        let last_day = whole_days.then(|| zones.clock(Stamp(ends.0.saturating_sub(1)), zone));
        Self { starts_at, ends_at, last_day, row }
    }

    fn id(&self) -> Uuid {
        self.row.get(store::ID)
    }

    fn title(&self) -> &str {
        self.row.get(store::TITLE)
    }

    fn starts_at(&self) -> Stamp {
        self.row.get(store::STARTS_AT)
    }

    fn ends_at(&self) -> Stamp {
        self.row.get(store::ENDS_AT)
    }

    fn time_zone(&self) -> &str {
        self.row.get(store::TIME_ZONE)
    }

    fn is_cancelled(&self) -> bool {
        self.status() == "cancelled"
    }

    fn is_imported(&self) -> bool {
        self.row.get(store::IMPORTED)
    }

    fn status(&self) -> &str {
        self.row.get(store::STATUS)
    }

    fn location(&self) -> Option<&str> {
        self.row.get(store::LOCATION)
    }

    fn description(&self) -> Option<&str> {
        self.row.get(store::DESCRIPTION)
    }

    fn view(&self) -> View<'_> {
        View {
            id: self.id(),
            title: self.title(),
            starts_at: self.starts_at.as_str(),
            ends_at: self.ends_at.as_str(),
            time_zone: self.time_zone(),
            all_day: self.last_day.is_some(),
            start_date: self.last_day.is_some().then(|| self.starts_at.date()),
            end_date: self.last_day.as_ref().map(Clock::date),
            location: self.location(),
            status: self.status(),
            description: self.description(),
            imported: self.is_imported(),
        }
    }

    /// Appends the appointment in words: `2026-12-25 09:00 to 10:00 UTC: Tea (pending), Room 4`.
    fn say(&self, out: &mut String) {
        self.say_when(out);
        out.push_str(": ");
        push_line(out, self.title());
        let status = self.status();
        if status != "confirmed" {
            out.push_str(" (");
            out.push_str(status);
            out.push(')');
        }
        if let Some(location) = self.location() {
            out.push_str(", ");
            push_line(out, location);
        }
    }

    fn say_when(&self, out: &mut String) {
        out.push_str(self.starts_at.date());
        match &self.last_day {
            Some(last) => {
                if last.date() != self.starts_at.date() {
                    out.push_str(" to ");
                    out.push_str(last.date());
                }
                out.push_str(" all day");
            }
            None => {
                out.push(' ');
                out.push_str(self.starts_at.time());
                out.push_str(" to ");
                if self.ends_at.date() != self.starts_at.date() {
                    out.push_str(self.ends_at.date());
                    out.push(' ');
                }
                out.push_str(self.ends_at.time());
                out.push(' ');
                out.push_str(self.time_zone());
            }
        }
    }

    /// `“Tea” from … to …`, for a sentence.
    fn quoted(&self) -> String {
        let mut words = String::from("“");
        push_line(&mut words, self.title());
        words.push_str("”, ");
        self.say_when(&mut words);
        words
    }
}

impl Serialize for Appointment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.view().serialize(serializer)
    }
}

impl JsonSchema for Appointment {
    fn schema_name() -> Cow<'static, str> {
        View::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        View::json_schema(generator)
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

/// The user of a call.
fn user(said: &str) -> Result<&str, AppointmentError> {
    text("userId", said, MOST_OF_A_USER)
}

/// Index entries must stay well below PostgreSQL's limit of a third of a page.
const MOST_OF_A_USER: usize = 200;

/// Appends a text on one line, shortened: a title is what a stranger wrote, and must not look like a line of ours.
fn push_line(out: &mut String, text: &str) {
    const MOST_BYTES: usize = 120;
    let short = &text[..text.floor_char_boundary(MOST_BYTES)];
    if short.bytes().any(|byte| byte.is_ascii_control()) {
        out.extend(short.chars().map(|character| if character.is_control() { ' ' } else { character }));
    } else {
        out.push_str(short);
    }
    if short.len() < text.len() {
        out.push('…');
    }
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
        let mut line = String::new();
        push_line(&mut line, "Tea\n- 2026-01-01 a forged line");
        assert_eq!(line, "Tea - 2026-01-01 a forged line");
        line.clear();
        push_line(&mut line, &"é".repeat(100));
        assert_eq!(line, format!("{}…", "é".repeat(60)));
    }

    #[test]
    fn the_schema_says_what_is_written() {
        let schema = serde_json::Value::from(schemars::schema_for!(Drawn<Changed>));
        assert_eq!(schema["properties"]["mimeType"]["const"], "text/html+skybridge");
        let appointment = &schema["$defs"]["Appointment"];
        let required: Vec<_> = appointment["required"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
        assert_eq!(required, ["id", "title", "startsAt", "endsAt", "timeZone", "allDay", "location", "status"]);
        assert_eq!(appointment["properties"]["location"]["type"], serde_json::json!(["string", "null"]));
    }
}
