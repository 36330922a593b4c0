//! Reading iCalendar (RFC 5545) files: bytes in, dated occurrences out.
//!
//! What must stay true: reading never guesses a wrong time in silence. What cannot be dated is skipped with a reason, and a
//! series that is not written out to its end is named. A hostile file costs bounded time and memory.
//!
//! `calcard` parses the lines and computes recurrence rules. Versions, zones, overrides and exceptions are ours: its own
//! expansion pairs overrides with their series by SEQUENCE instead of UID, and drops what falls into a clock change.

mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod invariants;
mod series;
mod zone;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

use calcard::{
    Entry, Parser,
    icalendar::{ICalendar, ICalendarComponentType, ICalendarMethod, ICalendarProperty, ICalendarValue},
};
use jiff::{Timestamp, tz::TimeZone};

use self::{event::Event, series::Budget, zone::Zones};

/// One appointment on one date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Occurrence {
    /// The event's UID. One without gets a UUIDv5 of what it says, so importing the same file again finds it again.
    pub(crate) uid: String,
    /// Empty for a single event; for one of a series the start the series gave it, as UTC or as a date when all-day.
    /// It stays the same when this one occurrence is moved.
    pub(crate) recurrence: String,
    /// The event's revision.
    pub(crate) sequence: i64,
    /// The summary.
    pub(crate) title: String,
    /// The description, without control characters.
    pub(crate) description: Option<String>,
    /// The place.
    pub(crate) location: Option<String>,
    /// The first instant.
    pub(crate) starts_at: Timestamp,
    /// The instant after the last one: never before `starts_at`, and equal to it for an event without a length.
    pub(crate) ends_at: Timestamp,
    /// The IANA zone the times were said in, or that people would say them in.
    pub(crate) time_zone: String,
    /// Whole days: midnight to midnight in `time_zone`.
    pub(crate) all_day: bool,
    /// Whether it takes place.
    pub(crate) status: Status,
    /// Whether it takes the time it covers from others (`TRANSP:OPAQUE`).
    pub(crate) blocks: bool,
}

/// Whether an appointment takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It does: `CONFIRMED`, or nothing said.
    Confirmed,
    /// It may: `TENTATIVE`.
    Pending,
    /// It does not: `CANCELLED`, or sent with `METHOD:CANCEL`.
    Cancelled,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Calendar {
    /// The calendar's name, if it has one.
    pub(crate) name: Option<String>,
    /// By start, UID and recurrence; no two share UID and recurrence.
    pub(crate) occurrences: Vec<Occurrence>,
    /// What was left out, in the order of the file.
    pub(crate) skipped: Vec<Skipped>,
    /// The series that go on beyond what is listed.
    pub(crate) truncated: Vec<Truncated>,
}

/// Something in the file that is not among the occurrences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// Its UID, or its place in the file (`event 3`).
    pub(crate) what: String,
    /// Why, for a person.
    pub(crate) reason: String,
}

/// A series that is not listed to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Truncated {
    /// The UID of the series.
    pub(crate) uid: String,
    /// Its title.
    pub(crate) title: String,
    /// Where it was cut.
    pub(crate) cut: Cut,
}

/// Where a series was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It goes on after [`Reading::until`].
    Horizon(Timestamp),
    /// It has more occurrences than are read. The latest are kept, because they are the ones still to come, unless it recurs by
    /// the minute.
    Occurrences(usize),
    /// The file as a whole has become too large to hold.
    Memory,
}

/// How to read a file.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// The zone of times that name none, unless the calendar names its own (`X-WR-TIMEZONE`).
    pub(crate) default_zone: TimeZone,
    /// No series is followed beyond this. Single events and moved occurrences are kept however late they are.
    pub(crate) until: Timestamp,
    /// How many occurrences one series may have.
    pub(crate) max_occurrences_per_series: usize,
    /// How large a file may be.
    pub(crate) max_bytes: usize,
    /// How many components a file may have.
    pub(crate) max_events: usize,
    /// What all occurrences together may take.
    pub(crate) max_memory_bytes: usize,
    /// How long reading may take.
    pub(crate) max_time: Duration,
}

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CalendarError {
    /// Larger than `max_bytes`.
    #[error("the file has {bytes} bytes, and at most {limit} are read")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More components than `max_events`.
    #[error("the file has more than {limit} entries")]
    TooManyEvents {
        /// The limit.
        limit: usize,
    },
    /// Far more separators than a calendar has: parsing it would take many times its size.
    #[error("the file consists of separators, not of appointments")]
    TooDense,
    /// Not UTF-8. Guessing an encoding would store wrong names without a word.
    #[error("the file is not UTF-8 text from line {line} on; save it as UTF-8 and import it again")]
    NotUtf8 {
        /// The line, counted after unfolding.
        line: usize,
    },
    /// No `BEGIN:VCALENDAR`.
    #[error("the file is not an iCalendar file: it has no BEGIN:VCALENDAR line")]
    NoCalendar,
    /// Longer than `max_time`.
    #[error("reading the file took longer than {} seconds", limit.as_secs())]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
}

/// Reads a file of one or more calendars.
pub(crate) fn read(bytes: &[u8], reading: &Reading) -> Result<Calendar, CalendarError> {
    let budget = Budget::of(reading);
    let in_time = || match budget.is_out_of_time() {
        true => Err(CalendarError::TooSlow { limit: reading.max_time }),
        false => Ok(()),
    };

    let text = lines(bytes, reading)?;
    let mut calendar = Calendar::default();
    let mut events = BTreeMap::<String, Vec<Event>>::new();
    let mut position = 0;
    let mut found = false;
    let mut parser = Parser::new(&text);
    loop {
        in_time()?;
        match parser.entry() {
            Entry::ICalendar(source) if is_calendar(&source) => {
                found = true;
                collect(&source, reading, &budget, &mut position, &mut calendar, &mut events, &in_time)?;
            }
            Entry::Eof => break,
            _ => {}
        }
    }
    if !found {
        return Err(CalendarError::NoCalendar);
    }

    in_time()?;
    for (_, versions) in events {
        series::write_out(versions, reading, &budget, &mut calendar);
        // An event that was given up for lack of time is not left out in silence.
        in_time()?;
    }
    calendar.occurrences.sort_by(|a, b| (a.starts_at, &a.uid, &a.recurrence).cmp(&(b.starts_at, &b.uid, &b.recurrence)));
    Ok(calendar)
}

// === impl Reading ===

impl Reading {
    /// The usual limits.
    pub(crate) fn new(default_zone: TimeZone, until: Timestamp) -> Self {
        Self {
            default_zone,
            until,
            // Thirteen years of a daily appointment.
            max_occurrences_per_series: 5_000,
            max_bytes: 50 << 20,
            max_events: 100_000,
            // A hundred thousand occurrences with long descriptions; an import holds them all at once.
            max_memory_bytes: 256 << 20,
            // The largest file allowed takes a few seconds on a small machine.
            max_time: Duration::from_secs(30),
        }
    }
}

// === impl Cut ===

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Horizon(until) => write!(f, "it goes on after {until}; later occurrences are left out"),
            Self::Occurrences(limit) => {
                write!(f, "it has more than {limit} occurrences; only so many are kept, of most series the latest")
            }
            Self::Memory => f.write_str("the file has more text than can be held; some occurrences are left out"),
        }
    }
}

/// Unfolded UTF-8 text without NUL characters.
///
/// Lines are unfolded before decoding: a fold may stand inside a character.
fn lines(bytes: &[u8], reading: &Reading) -> Result<String, CalendarError> {
    if bytes.len() > reading.max_bytes {
        return Err(CalendarError::TooLarge { bytes: bytes.len(), limit: reading.max_bytes });
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut text = Vec::with_capacity(bytes.len());
    let mut separators = 0;
    let mut rest = bytes.iter().copied().filter(|byte| !matches!(byte, b'\r' | 0)).peekable();
    while let Some(byte) = rest.next() {
        if byte == b'\n' && matches!(rest.peek(), Some(b' ' | b'\t')) {
            rest.next();
            continue;
        }
        separators += usize::from(matches!(byte, b'\n' | b',' | b';' | b':' | b'='));
        text.push(byte);
    }
    // Each separator may become a value of about a hundred bytes. Real calendars have one in ten bytes; small files
    // cannot hurt.
    if separators > 100_000 + text.len() / 5 {
        return Err(CalendarError::TooDense);
    }
    let text = String::from_utf8(text).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        CalendarError::NotUtf8 { line }
    })?;
    // Counted before parsing, which keeps every component in memory. Alarms and zone rules come several to an event.
    let components = text.lines().filter(|line| line.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("BEGIN:")));
    if components.count() > reading.max_events.saturating_mul(4) {
        return Err(CalendarError::TooManyEvents { limit: reading.max_events });
    }
    Ok(text)
}

fn is_calendar(source: &ICalendar) -> bool {
    source.components.first().is_some_and(|root| root.component_type == ICalendarComponentType::VCalendar)
}

/// Reads the events of one VCALENDAR. They are sorted into series only when all calendars of the file are read.
fn collect(
    source: &ICalendar,
    reading: &Reading,
    budget: &Budget,
    position: &mut usize,
    calendar: &mut Calendar,
    events: &mut BTreeMap<String, Vec<Event>>,
    in_time: &impl Fn() -> Result<(), CalendarError>,
) -> Result<(), CalendarError> {
    let root = &source.components[0];
    let called_off = root.entries.iter().any(|entry| {
        entry.name == ICalendarProperty::Method
            && matches!(entry.values.first(), Some(ICalendarValue::Method(ICalendarMethod::Cancel)))
    });
    if calendar.name.is_none() {
        calendar.name = event::extension(root, "X-WR-CALNAME").or_else(|| event::text(root, &ICalendarProperty::Name));
    }
    let mut zones = Zones::of(source, event::extension(root, "X-WR-TIMEZONE"), reading, budget);

    for component in &source.components {
        let kind = match &component.component_type {
            ICalendarComponentType::VEvent => "",
            ICalendarComponentType::VTodo => "a task (VTODO), not an event",
            ICalendarComponentType::VJournal => "a journal entry (VJOURNAL), not an event",
            ICalendarComponentType::VFreebusy => "free and busy times (VFREEBUSY), not an event",
            // Alarms, zones and what else belongs to something.
            _ => continue,
        };
        in_time()?;
        *position += 1;
        if *position > reading.max_events {
            return Err(CalendarError::TooManyEvents { limit: reading.max_events });
        }
        let event = if kind.is_empty() {
            Event::read(component, &mut zones, called_off).map_err(|flaw| flaw.to_string())
        } else {
            Err(kind.to_owned())
        };
        match event {
            Ok(event) => events.entry(event.uid.clone()).or_default().push(event),
            Err(reason) => {
                let uid = event::text(component, &ICalendarProperty::Uid).map(|uid| event::cut(uid, 200));
                let what = uid.unwrap_or_else(|| format!("event {position}"));
                calendar.skipped.push(Skipped { what, reason });
            }
        }
    }
    Ok(())
}
