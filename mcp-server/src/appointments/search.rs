//! `search_appointments`: what a user has in a span of time, page by page.
//!
//! What must stay true: a page costs one statement whatever came before it, and pages neither repeat nor leave out what was
//! there all the time.

use std::fmt;

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use widgets::APPOINTMENTS;

use super::{
    AppState, Appointment, AppointmentError, Appointments, Drawn, READ,
    memory::{self, Memory},
    push_line,
    store::Span,
    time::{self, Bound, Stamp, TimeError},
    words,
};
use crate::{
    Reply, Tool,
    conversation::Conversation,
    extract::{Parameters, Principal, State},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SearchAppointments {
    /// Whose appointments.
    #[schemars(required, length(min = 1, max = 200))]
    user_id: Option<String>,
    /// Only appointments that are not over by then. A date (2026-12-25: from its first moment) or a date-time, with an offset
    /// (2026-12-25T09:00:00+01:00) or meant in timeZone (2026-12-25T09:00).
    start_date: Option<String>,
    /// Only appointments that begin before then. A date counts as a whole day: startDate and endDate 2026-12-25 find that day.
    /// A date-time is the first moment that no longer counts.
    end_date: Option<String>,
    /// The IANA zone, such as Europe/Berlin, of dates and of times without an offset. Default: the one that this
    /// conversation named last, else the server's.
    time_zone: Option<String>,
    /// How many at most. Default: 50.
    #[schemars(range(min = 1, max = 100))]
    limit: Option<u32>,
    /// The nextCursor of the page before; all other arguments as they were.
    cursor: Option<String>,
}

/// A page of what was found.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Found {
    user_id: String,
    /// How many appointments are on this page.
    count: usize,
    /// By start.
    appointments: Vec<Appointment>,
    /// Present when there are more: search again with it as cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What only the widget sees: how the search was understood, so that it can draw days and search again alike.
#[derive(Debug, Serialize)]
struct Understood<'a> {
    #[serde(rename = "appointments/timeZone")]
    time_zone: &'a str,
}

/// The place in a search after which the next page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) starts_at: Stamp,
    pub(super) id: Uuid,
}

/// A few weeks of a busy person, and still little for a model to read.
const USUAL_LIMIT: u32 = 50;
const MOST: u32 = 100;

/// No more of the list is said in words; programs have the whole of it.
const MOST_WORDS_BYTES: usize = 8 * 1024;

pub(super) fn tool() -> Tool<AppState> {
    Tool::new("search_appointments", search_appointments)
        .title("Search appointments")
        .widget(&APPOINTMENTS)
        .says("Looking for appointments…", "Appointments")
        .describe(
            "Lists a user's appointments by start, optionally of certain days. Use it to answer what is planned, to look for \
             free time, and to learn the id of an appointment before changing it. Cancelled appointments are listed with \
             their status and take no time.",
        )
        .read_only()
        .scopes(&[READ])
        .whose("userId")
}

async fn search_appointments(
    State(appointments): State<Appointments>,
    caller: Principal,
    Parameters(search): Parameters<SearchAppointments>,
    conversation: Option<Conversation<Memory>>,
) -> Result<Reply<Drawn<Found>>, AppointmentError> {
    let limit = search.limit.unwrap_or(USUAL_LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(AppointmentError::Limit { most: MOST });
    }
    let owner = appointments.owner(&caller, search.user_id.as_deref())?;
    let after = search.cursor.as_deref().map(|cursor| Cursor::read(cursor).ok_or(AppointmentError::Cursor)).transpose()?;
    let find = async |zone: &TimeZone| {
        let (starts_at, ends_at) = search.range(zone)?;
        // One more than asked for tells whether there is a next page.
        let span = Span { starts_at, ends_at, after, limit: i64::from(limit) + 1 };
        Ok::<_, AppointmentError>(appointments.search(owner, &span).await?)
    };
    // Most conversations remember nothing, so the search does not wait to know it.
    let named = search.time_zone.as_deref();
    let assumed = memory::without(&appointments, named)?;
    let (zone, found) = tokio::join!(memory::zone(&appointments, conversation.as_ref(), named), find(&assumed));
    let zone = zone?;
    let mut found = if zone == assumed { found? } else { find(&zone).await? };
    let limit = usize::try_from(limit).expect("a hundred fits");
    let next_cursor = (found.len() > limit).then(|| {
        found.truncate(limit);
        let last = found.last().expect("a page holds at least one");
        Cursor { starts_at: last.period.starts_at, id: last.id }.to_string()
    });
    let text = in_words(owner.user_id, &found, next_cursor.as_deref());
    let user_id = owner.user_id.to_owned();
    let meta = Understood { time_zone: time::zone_name(&zone) };
    let found = Found { user_id, count: found.len(), appointments: found, next_cursor };
    Ok(Reply::new(Drawn::new(found), text).meta(&meta))
}

// === impl SearchAppointments ===

impl SearchAppointments {
    fn range(&self, zone: &TimeZone) -> Result<(Stamp, Stamp), TimeError> {
        let bound = |argument, said: &Option<String>, kind, otherwise| {
            said.as_deref().map_or(Ok(otherwise), |said| time::bound(argument, said, zone, kind))
        };
        let starts_at = bound("startDate", &self.start_date, Bound::Start, Stamp::MIN)?;
        let ends_at = bound("endDate", &self.end_date, Bound::End, Stamp::MAX)?;
        if starts_at >= ends_at {
            return Err(TimeError::EndsFirst { starts: "startDate", ends: "endDate" });
        }
        Ok((starts_at, ends_at))
    }
}

// === impl Cursor ===

impl Cursor {
    fn read(said: &str) -> Option<Self> {
        let (starts_at, id) = said.split_at_checked(16)?;
        // `from_str_radix` takes a sign, and Uuid's reading takes braces and hyphens: neither is what we print.
        if said.len() != 48 || !said.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return None;
        }
        let starts_at = u64::from_str_radix(starts_at, 16).ok()?;
        Some(Self { starts_at: Stamp(starts_at.cast_signed()), id: Uuid::try_parse(id).ok()? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{}", self.starts_at.0, self.id.simple())
    }
}

/// The page in words, for clients that show no structured content.
fn in_words(user_id: &str, found: &[Appointment], next_cursor: Option<&str>) -> String {
    let mut out = Vec::with_capacity(128 + found.len() * 160);
    match found.len() {
        0 => out.extend_from_slice(b"No appointments found for "),
        1 => out.extend_from_slice(b"1 appointment found for "),
        count => out.extend_from_slice(format!("{count} appointments found for ").as_bytes()),
    }
    push_line(&mut out, user_id);
    out.push(b'.');
    for (said, appointment) in found.iter().enumerate() {
        if out.len() > MOST_WORDS_BYTES {
            let left = found.len() - said;
            out.extend_from_slice(format!("\n… and {left} more on this page; search with a smaller limit.").as_bytes());
            break;
        }
        out.extend_from_slice(b"\n- ");
        appointment.say(&mut out);
    }
    if let Some(cursor) = next_cursor {
        out.extend_from_slice(b"\nThere are more: search again with cursor ");
        out.extend_from_slice(cursor.as_bytes());
    }
    words(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_printed_and_nothing_else_is() {
        let cursor = Cursor { starts_at: Stamp(-5), id: Uuid::from_u128(7) };
        let printed = cursor.to_string();
        assert_eq!(Cursor::read(&printed), Some(cursor));
        for forged in [
            "",
            "a",
            &printed[1..],
            &format!("{printed}0"),
            &printed.replace('f', "F"),
            &printed.replacen('f', "+", 1),
            &format!("{}é", &printed[..46]),
            &"é".repeat(24),
        ] {
            assert_eq!(Cursor::read(forged), None, "{forged}");
        }
    }
}
