//! One VEVENT, understood: what it says about when, before anything is repeated.
//!
//! Every date keeps the clock and the zone it was said in, because a series repeats clocks, not instants.

use calcard::{
    common::PartialDateTime,
    icalendar::{
        ICalendarComponent, ICalendarDuration, ICalendarEntry, ICalendarParameterName, ICalendarPeriod, ICalendarProperty,
        ICalendarRecurrenceRule, ICalendarStatus, ICalendarTransparency, ICalendarValue,
    },
};
use jiff::{
    SignedDuration, Timestamp, ToSpan, Unit,
    civil::{Date, DateTime},
};
use uuid::Uuid;

use super::{
    Status,
    zone::{Zone, Zones},
};

/// One version of an event, or of one occurrence of it.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) uid: String,
    pub(super) sequence: i64,
    /// LAST-MODIFIED, or else DTSTAMP: the newer of two versions with one SEQUENCE.
    pub(super) changed: Option<Timestamp>,
    pub(super) title: String,
    pub(super) description: Option<String>,
    pub(super) location: Option<String>,
    pub(super) status: Status,
    pub(super) blocks: bool,
    pub(super) start: Moment,
    pub(super) length: Length,
    pub(super) rules: Vec<ICalendarRecurrenceRule>,
    pub(super) added: Vec<(Moment, Length)>,
    pub(super) removed: Vec<Moment>,
    pub(super) replaces: Option<Replaces>,
}

/// The occurrence that an override stands in for.
#[derive(Debug, Clone)]
pub(super) struct Replaces {
    pub(super) moment: Moment,
    pub(super) and_following: bool,
}

/// A clock time, or a day.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) clock: DateTime,
    pub(super) zone: Zone,
    pub(super) all_day: bool,
}

/// How long an occurrence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// Calendar days, then time on the stopwatch: a DURATION, or whole days.
    Nominal { days: i64, rest: SignedDuration },
    /// Time on the stopwatch: a DTEND, which RFC 5545 (section 3.8.5.3) has each occurrence keep exactly.
    Exact(SignedDuration),
}

/// What an occurrence is known by within its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Day(Date),
    Instant(Timestamp),
}

/// Why an event cannot be dated.
#[derive(Debug, thiserror::Error)]
pub(super) enum Flaw {
    #[error("it has no start (DTSTART)")]
    NoStart,
    #[error("its {0} is not a date")]
    NotADate(&'static str),
    #[error("its {0} lies outside the years 1 to 9999")]
    OutOfRange(&'static str),
    #[error("its duration is not one")]
    NotADuration,
    #[error("its time zone {0:?} is neither known nor defined in the file")]
    UnknownZone(String),
    #[error("it ends before it starts")]
    EndsBeforeStart,
    #[error("its recurrence rule cannot be read: {0}")]
    Rule(String),
    #[error("computing its dates takes too long")]
    TooSlow,
}

/// Some programs put whole web pages into descriptions. The limits are for what a person reads.
const MOST_CHARACTERS_OF_A_LINE: usize = 1_000;
const MOST_CHARACTERS: usize = 32_000;
/// RFC 7986 recommends less than 255; a database index takes no more than 2,700 bytes.
const MOST_BYTES_OF_A_UID: usize = 1_000;

/// A text property, unescaped and free of control characters; `None` when empty.
pub(super) fn text(component: &ICalendarComponent, property: &ICalendarProperty) -> Option<String> {
    joined(component.property(property)?)
}

/// A text property that is no part of the standard.
pub(super) fn extension(component: &ICalendarComponent, name: &str) -> Option<String> {
    let named =
        |entry: &&ICalendarEntry| matches!(&entry.name, ICalendarProperty::Other(other) if other.eq_ignore_ascii_case(name));
    joined(component.entries.iter().find(named)?)
}

/// The clock time said, without its zone. A leap second is the second before.
pub(super) fn clock(said: &PartialDateTime) -> Option<DateTime> {
    let [month, day, hour, minute, second] =
        [said.month?, said.day?, said.hour.unwrap_or(0), said.minute.unwrap_or(0), said.second.unwrap_or(0).min(59)]
            .map(|part| i8::try_from(part).unwrap_or(i8::MAX));
    DateTime::new(i16::try_from(said.year?).ok()?, month, day, hour, minute, second, 0).ok()
}

// === impl Event ===

impl Event {
    pub(super) fn read(component: &ICalendarComponent, zones: &mut Zones<'_>, called_off: bool) -> Result<Self, Flaw> {
        let replaced = moments(component, &ICalendarProperty::RecurrenceId, "recurrence id", zones, None)?;
        let replaces = replaced.into_iter().next().map(|(moment, _)| Replaces {
            moment,
            and_following: component
                .property(&ICalendarProperty::RecurrenceId)
                .is_some_and(|entry| entry.has_parameter(&ICalendarParameterName::Range)),
        });
        let start = moments(component, &ICalendarProperty::Dtstart, "start", zones, None)?.into_iter().next();
        let start = match (start, &replaces) {
            (Some((start, _)), _) => start,
            (None, Some(replaces)) => replaces.moment.clone(),
            (None, None) => return Err(Flaw::NoStart),
        };
        let start_at = start.instant().ok_or(Flaw::OutOfRange("start"))?;
        let length = length(component, &start, zones)?;
        let end = start.end(length).ok_or(Flaw::OutOfRange("end"))?;
        if end < start_at {
            return Err(Flaw::EndsBeforeStart);
        }

        let added = moments(component, &ICalendarProperty::Rdate, "additional date (RDATE)", zones, Some(&start))?;
        let removed = moments(component, &ICalendarProperty::Exdate, "exception (EXDATE)", zones, Some(&start))?;
        if extension(component, "EXRULE").is_some() {
            return Err(Flaw::Rule("EXRULE is no longer part of iCalendar".to_owned()));
        }
        let status = match component.status() {
            _ if called_off => Status::Cancelled,
            Some(ICalendarStatus::Cancelled) => Status::Cancelled,
            Some(ICalendarStatus::Tentative) => Status::Pending,
            _ => Status::Confirmed,
        };
        let sequence = component.property(&ICalendarProperty::Sequence).and_then(|entry| entry.values.first()?.as_integer());
        let title = text(component, &ICalendarProperty::Summary).map(|title| cut(title, MOST_CHARACTERS_OF_A_LINE));

        let title = title.unwrap_or_else(|| "(untitled)".to_owned());
        let location = text(component, &ICalendarProperty::Location).map(|text| cut(text, MOST_CHARACTERS_OF_A_LINE));

        Ok(Self {
            uid: match text(component, &ICalendarProperty::Uid) {
                Some(uid) if uid.len() <= MOST_BYTES_OF_A_UID => uid,
                Some(uid) => derived(&uid),
                // What tells one event from another: the same file gives the same UID.
                None => derived(&format!(
                    "{}\n{}\n{end}\n{title}\n{}",
                    start.clock,
                    start.zone.name,
                    location.as_deref().unwrap_or_default()
                )),
            },
            sequence: sequence.unwrap_or(0).max(0),
            changed: stamp(component, &ICalendarProperty::LastModified).or_else(|| stamp(component, &ICalendarProperty::Dtstamp)),
            title,
            description: text(component, &ICalendarProperty::Description).map(|text| cut(text, MOST_CHARACTERS)),
            location,
            status,
            blocks: component.transparency() != Some(&ICalendarTransparency::Transparent),
            rules: rules(component)?,
            added: added.into_iter().map(|(moment, own)| (moment, own.unwrap_or(length))).collect(),
            removed: removed.into_iter().map(|(moment, _)| moment).collect(),
            start,
            length,
            replaces,
        })
    }

    pub(super) fn recurs(&self) -> bool {
        !(self.rules.is_empty() && self.added.is_empty())
    }

    /// What text this holds, which each occurrence repeats.
    pub(super) fn text_bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.uid.len() + self.title.len() + optional(&self.description) + optional(&self.location)
    }
}

// === impl Moment ===

impl Moment {
    pub(super) fn at(&self, clock: DateTime) -> Self {
        Self { clock, ..self.clone() }
    }

    pub(super) fn instant(&self) -> Option<Timestamp> {
        self.zone.instant(self.clock)
    }

    pub(super) fn end(&self, length: Length) -> Option<Timestamp> {
        match length {
            Length::Exact(length) => self.instant()?.checked_add(length).ok(),
            Length::Nominal { days, rest } => {
                let days = jiff::Span::new().try_days(days).ok()?;
                self.zone.instant(self.clock.checked_add(days).ok()?)?.checked_add(rest).ok()
            }
        }
    }

    pub(super) fn key(&self) -> Option<Key> {
        if self.all_day { Some(Key::Day(self.clock.date())) } else { self.instant().map(Key::Instant) }
    }

    fn of(said: &PartialDateTime, zone: &Zone, zones: &Zones<'_>) -> Option<Self> {
        let clock = clock(said)?;
        let all_day = said.hour.is_none();
        let Some(hours) = said.tz_hour.filter(|_| !all_day) else {
            return Some(Self { clock, zone: if all_day { zones.floating.clone() } else { zone.clone() }, all_day });
        };
        // `Z`, or the offsets of older versions of the standard, which we bring to UTC.
        let offset = (i64::from(hours) * 60 + i64::from(said.tz_minute.unwrap_or(0))).minutes();
        let clock = if said.tz_minus { clock.checked_add(offset) } else { clock.checked_sub(offset) }.ok()?;
        Some(Self { clock, zone: zones.utc.clone(), all_day })
    }
}

/// The dates of a property, and the length of those that are periods. A date without a zone takes the one of `beside`.
fn moments(
    component: &ICalendarComponent,
    property: &ICalendarProperty,
    name: &'static str,
    zones: &mut Zones<'_>,
    beside: Option<&Moment>,
) -> Result<Vec<(Moment, Option<Length>)>, Flaw> {
    let mut moments = Vec::new();
    for entry in component.properties(property) {
        let zone = match entry.tz_id() {
            Some(id) => zones.zone(id)?,
            None => beside.filter(|beside| !beside.all_day).map_or(&zones.floating, |beside| &beside.zone).clone(),
        };
        let moment = |said| Moment::of(said, &zone, zones).ok_or(Flaw::NotADate(name));
        for value in &entry.values {
            moments.push(match value {
                ICalendarValue::PartialDateTime(said) => (moment(said)?, None),
                ICalendarValue::Period(ICalendarPeriod::Range { start, end }) => {
                    let (start, end) = (moment(start)?, moment(end)?);
                    let length = exactly(&start, &end)?;
                    (start, Some(length))
                }
                ICalendarValue::Period(ICalendarPeriod::Duration { start, duration }) => {
                    (moment(start)?, Some(nominally(duration)?))
                }
                _ => return Err(Flaw::NotADate(name)),
            });
        }
    }
    Ok(moments)
}

fn length(component: &ICalendarComponent, start: &Moment, zones: &mut Zones<'_>) -> Result<Length, Flaw> {
    let end = moments(component, &ICalendarProperty::Dtend, "end", zones, Some(start))?.into_iter().next();
    let duration = component.property(&ICalendarProperty::Duration).and_then(|entry| entry.values.first());
    let length = match (end, duration) {
        (Some((end, _)), _) if start.all_day => {
            let days = start.clock.date().until((Unit::Day, end.clock.date())).map_err(|_| Flaw::OutOfRange("end"))?;
            // The end is the day after. Some programs write the day itself, and mean one day.
            Length::Nominal { days: i64::from(days.get_days()), rest: SignedDuration::ZERO }
        }
        (Some((end, _)), _) => exactly(start, &end)?,
        (None, Some(ICalendarValue::Duration(duration))) => nominally(duration)?,
        (None, Some(_)) => return Err(Flaw::NotADuration),
        (None, None) => Length::Nominal { days: 0, rest: SignedDuration::ZERO },
    };
    match length {
        Length::Nominal { days, rest } if start.all_day => {
            let days = days + rest.as_secs().div_euclid(86_400) + i64::from(rest.as_secs().rem_euclid(86_400) != 0);
            Ok(Length::Nominal { days: if days == 0 { 1 } else { days }, rest: SignedDuration::ZERO })
        }
        length => Ok(length),
    }
}

fn exactly(start: &Moment, end: &Moment) -> Result<Length, Flaw> {
    let from = start.instant().ok_or(Flaw::OutOfRange("start"))?;
    let to = end.instant().ok_or(Flaw::OutOfRange("end"))?;
    if to < from { Err(Flaw::EndsBeforeStart) } else { Ok(Length::Exact(from.duration_until(to))) }
}

fn nominally(duration: &ICalendarDuration) -> Result<Length, Flaw> {
    if duration.neg && !duration.is_empty() {
        return Err(Flaw::EndsBeforeStart);
    }
    let days = i64::from(duration.weeks) * 7 + i64::from(duration.days);
    let rest = i64::from(duration.hours) * 3600 + i64::from(duration.minutes) * 60 + i64::from(duration.seconds);
    Ok(Length::Nominal { days, rest: SignedDuration::from_secs(rest) })
}

fn rules(component: &ICalendarComponent) -> Result<Vec<ICalendarRecurrenceRule>, Flaw> {
    let values = component.properties(&ICalendarProperty::Rrule).flat_map(|entry| &entry.values);
    values
        .filter(|value| value.as_text() != Some(""))
        .map(|value| match value {
            ICalendarValue::RecurrenceRule(rule) if rule.rscale.is_none() && rule.skip.is_none() => Ok((**rule).clone()),
            ICalendarValue::RecurrenceRule(_) => Err(Flaw::Rule("it counts in another calendar (RSCALE)".to_owned())),
            value => Err(Flaw::Rule(cut(value.as_text().unwrap_or_default().to_owned(), 100))),
        })
        .collect()
}

fn stamp(component: &ICalendarComponent, property: &ICalendarProperty) -> Option<Timestamp> {
    // Always UTC by the standard; it only orders versions, so a zone makes no difference worth a flaw.
    let said = component.property(property)?.values.first()?.as_partial_date_time()?;
    jiff::tz::Offset::UTC.to_timestamp(clock(said)?).ok()
}

fn derived(content: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, content.as_bytes()).to_string()
}

fn joined(entry: &ICalendarEntry) -> Option<String> {
    // Properties outside the standard come in pieces when they hold a separator.
    let pieces: Vec<_> = entry.values.iter().filter_map(ICalendarValue::as_text).collect();
    let text: String = pieces.join(";").chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

pub(super) fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}
