//! Times: as PostgreSQL keeps them, as a caller says them, and as RFC 3339 prints them.
//!
//! What must stay true: no time is guessed. A booking at a clock time that a zone skips or has twice is the caller's to
//! clear up; only the bounds of a search are lenient.

use std::{borrow::Cow, error::Error, fmt, sync::Arc};

use bytes::{BufMut, BytesMut};
use jiff::{
    SignedDuration, Timestamp, ToSpan,
    civil::{self, DateTime},
    fmt::temporal::Pieces,
    tz::{AmbiguousOffset, Offset, TimeZone},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// An instant as PostgreSQL keeps it: microseconds since 2000. Reading one costs a load, where jiff's own costs a
/// calendar computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(pub(crate) i64);

/// From an instant to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) starts_at: Stamp,
    pub(crate) ends_at: Stamp,
}

/// An instant on the clock of a zone, printed: `2026-12-25T09:00:00+01:00`.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    bytes: [u8; 32],
    length: u8,
}

/// A zone to print in.
#[derive(Debug)]
pub(crate) struct Zone {
    name: Arc<str>,
    /// `None` is UTC, which needs none.
    rules: Option<TimeZone>,
    /// The stretch between two clock changes that the last instant was in.
    stretch: Stretch,
}

/// A time without clock changes, in seconds since 1970. Most instants of an answer share one, so most are printed without
/// a look-up.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: i64,
    until: i64,
    offset_seconds: i32,
    /// Clock times before this instant already occurred before the change that began the stretch.
    repeats_until: i64,
    /// Clock times from this instant on occur again after the change that ends the stretch.
    repeated_from: i64,
}

/// Zones by name: most rows of an answer share theirs with the row before.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    last: Option<Zone>,
}

/// Which bound of a search a time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// A date means its first moment.
    Start,
    /// A date means the whole day, so the first moment of the next.
    End,
}

/// What is wrong with a time that a caller said.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TimeError {
    /// Not a time at all.
    #[error("`{argument}` is not a time: {said:?}; write it like 2026-12-25T09:00:00+01:00, or 2026-12-25T09:00 with `timeZone`")]
    Unreadable { argument: &'static str, said: String },
    /// A date where a time of day is needed.
    #[error("`{argument}` needs a time of day: {said}T09:00 instead of {said}")]
    NoTimeOfDay { argument: &'static str, said: civil::Date },
    /// A clock time that the zone skips.
    #[error("`{argument}`: there is no {said} in {zone}, where the clock jumps over it; say an earlier or a later time")]
    Skipped { argument: &'static str, said: DateTime, zone: String },
    /// A clock time that the zone has twice.
    #[error("`{argument}`: {said} comes twice in {zone}; say which with an offset, {first} or {second}")]
    Twice { argument: &'static str, said: DateTime, zone: String, first: String, second: String },
    /// A year far from here.
    #[error("`{argument}` must lie between the years 1970 and 2100")]
    FarAway { argument: &'static str },
    /// An offset that no clock has.
    #[error("`{argument}` has an offset beyond 18 hours: {said:?}; offsets lie between -18:00 and +18:00")]
    Offset { argument: &'static str, said: String },
    /// No such zone.
    #[error("`timeZone` is not a zone we know: {said:?}; give an IANA name such as Europe/Berlin, America/New_York or UTC")]
    UnknownZone { said: String },
    /// A period that ends before it has begun.
    #[error("`{ends}` must be after `{starts}`")]
    EndsFirst { starts: &'static str, ends: &'static str },
    /// A period too long for one appointment.
    #[error("an appointment may last 31 days at most")]
    TooLong,
    /// No end, or two.
    #[error("say when the appointment ends: either `endsAt` or `durationMinutes`, not both")]
    OneEnd,
}

/// Seconds from 1970 to 2000.
const EPOCH_SECONDS: i64 = 946_684_800;
const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY_SECONDS: i64 = 86_400;

/// The longest appointment. Whoever means more has mistaken the year.
pub(crate) const LONGEST_DAYS: i64 = 31;
pub(crate) const LONGEST_MINUTES: u32 = 31 * 24 * 60;

/// RFC 9557 and `java.time` draw the line here; clocks in use stay within 14 hours.
const MAX_OFFSET_SECONDS: i32 = 18 * 3600;

// === impl Stamp ===

impl Stamp {
    /// Before every appointment: PostgreSQL's `-infinity`.
    pub(crate) const MIN: Self = Self(i64::MIN);
    /// After every appointment: PostgreSQL's `infinity`.
    pub(crate) const MAX: Self = Self(i64::MAX);
    /// The beginning of the year 0. PostgreSQL refuses instants before 4714 BC.
    const YEAR_0: Self = Self((-62_167_219_200 - EPOCH_SECONDS) * SECOND);

    fn after_minutes(self, minutes: u32) -> Self {
        Self(self.0.saturating_add(i64::from(minutes) * MINUTE))
    }

    /// The same clock time of `zone`, days later.
    fn after_days(self, days: i64, zone: &TimeZone) -> Self {
        let (seconds, micros) = self.unix();
        let later = Timestamp::new(seconds, i32::try_from(micros * 1000).unwrap_or(0))
            .and_then(|at| at.to_zoned(zone.clone()).checked_add(days.days()));
        later.map_or(Self::MAX, |later| later.timestamp().into())
    }

    /// Whole seconds since 1970, and the microseconds beyond; kept within the years that RFC 3339 can print.
    fn unix(self) -> (i64, u32) {
        const FIRST: i64 = -62_167_219_200;
        const LAST: i64 = 253_402_300_799;
        let seconds = self.0.div_euclid(SECOND) + EPOCH_SECONDS;
        let micros = u32::try_from(self.0.rem_euclid(SECOND)).expect("less than a million");
        (seconds.clamp(FIRST, LAST), micros)
    }
}

impl From<Timestamp> for Stamp {
    fn from(timestamp: Timestamp) -> Self {
        // Rounded down, so that order is kept.
        Self(timestamp.as_microsecond() - i64::from(timestamp.subsec_nanosecond() % 1000 < 0) - EPOCH_SECONDS * SECOND)
    }
}

impl<'a> FromSql<'a> for Stamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

impl ToSql for Stamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

// === impl Period ===

impl Period {
    /// The last moment.
    pub(crate) fn last(&self) -> Stamp {
        Stamp(self.ends_at.0.saturating_sub(1))
    }

    /// The period of an appointment. Its length is limited in days of the zone, of which one has 25 hours where the clock
    /// goes back, and one 23 where it goes forward.
    pub(crate) fn of(starts_at: Stamp, ends_at: Stamp, zone: &TimeZone) -> Result<Self, TimeError> {
        if ends_at <= starts_at {
            return Err(TimeError::EndsFirst { starts: "startsAt", ends: "endsAt" });
        }
        if ends_at > starts_at.after_minutes(LONGEST_MINUTES) && ends_at > starts_at.after_days(LONGEST_DAYS, zone) {
            return Err(TimeError::TooLong);
        }
        Ok(Self { starts_at, ends_at })
    }

    /// The period that begins at a moment and has this length.
    pub(crate) fn lasting(starts_at: Stamp, minutes: u32) -> Result<Self, TimeError> {
        if minutes > LONGEST_MINUTES {
            return Err(TimeError::TooLong);
        }
        if minutes == 0 {
            return Err(TimeError::EndsFirst { starts: "startsAt", ends: "startsAt plus durationMinutes" });
        }
        Ok(Self { starts_at, ends_at: starts_at.after_minutes(minutes) })
    }
}

// === impl Zones ===

impl Zones {
    pub(crate) fn get(&mut self, name: &str) -> &mut Zone {
        if self.last.as_ref().is_none_or(|last| *last.name != *name) {
            self.last = None;
        }
        self.last.get_or_insert_with(|| Zone::new(name))
    }
}

// === impl Zone ===

impl Zone {
    /// A zone this machine does not know is printed as UTC: another release may have stored it, and the instants are right
    /// all the same.
    fn new(name: &str) -> Self {
        let rules = (name != "UTC").then(|| TimeZone::get(name).unwrap_or(TimeZone::UTC));
        Self { name: name.into(), rules, stretch: Stretch::NONE }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn clock(&mut self, stamp: Stamp) -> Clock {
        let Some(rules) = &self.rules else { return Clock::utc(stamp) };
        let (seconds, micros) = stamp.unix();
        if !self.stretch.contains(seconds) {
            self.stretch = Stretch::around(seconds, rules);
        }
        Clock::print(seconds, micros, Some(self.stretch.offset_seconds / 60))
    }

    /// Whether the clock shows this time of day twice on that day: once with each of two offsets.
    pub(crate) fn is_ambiguous(&mut self, stamp: Stamp) -> bool {
        let Some(rules) = &self.rules else { return false };
        let (seconds, _) = stamp.unix();
        if !self.stretch.contains(seconds) {
            self.stretch = Stretch::around(seconds, rules);
        }
        seconds < self.stretch.repeats_until || seconds >= self.stretch.repeated_from
    }
}

// === impl Stretch ===

impl Stretch {
    const NONE: Self = Self { from: 0, until: 0, offset_seconds: 0, repeats_until: 0, repeated_from: 0 };

    fn contains(&self, seconds: i64) -> bool {
        (self.from..self.until).contains(&seconds)
    }

    fn around(seconds: i64, rules: &TimeZone) -> Self {
        let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
        let offset = rules.to_offset(at).seconds();
        // What precedes is strictly before, and a change at this very second has happened.
        let next_second = at.checked_add(SignedDuration::from_secs(1)).unwrap_or(at);
        let begin = rules.preceding(next_second).next();
        let end = rules.following(at).next();
        let from = begin.as_ref().map_or(i64::MIN, |change| change.timestamp().as_second());
        let until = end.as_ref().map_or(i64::MAX, |change| change.timestamp().as_second());
        let previous = match begin {
            Some(change) => {
                let earlier = change.timestamp().checked_sub(SignedDuration::from_secs(1));
                earlier.map_or(offset, |earlier| rules.to_offset(earlier).seconds())
            }
            None => offset,
        };
        let next = end.map_or(offset, |change| change.offset().seconds());
        Self {
            from,
            until,
            offset_seconds: offset,
            repeats_until: from.saturating_add(i64::from((previous - offset).max(0))),
            repeated_from: until.saturating_sub(i64::from((offset - next).max(0))),
        }
    }
}

// === impl Clock ===

impl Clock {
    pub(crate) fn utc(stamp: Stamp) -> Self {
        let (seconds, micros) = stamp.unix();
        Self::print(seconds, micros, None)
    }

    pub(crate) fn on(stamp: Stamp, zone: &TimeZone) -> Self {
        let (seconds, micros) = stamp.unix();
        let timestamp = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
        let offset = zone.to_offset(timestamp).seconds();
        // RFC 3339 knows no seconds in an offset, which local mean times before 1900 or so have.
        Self::print(seconds, micros, Some(offset / 60))
    }

    /// By hand, because a general formatter costs a quarter of a search.
    fn print(seconds: i64, micros: u32, offset_minutes: Option<i32>) -> Self {
        let seconds = seconds + i64::from(offset_minutes.unwrap_or(0)) * 60;
        let (year, month, day) = date(seconds.div_euclid(DAY_SECONDS));
        let of_day = u32::try_from(seconds.rem_euclid(DAY_SECONDS)).expect("less than a day");
        let mut clock = Self { bytes: *b"0000-00-00T00:00:00Z............", length: 20 };
        clock.two(0, year / 100);
        clock.two(2, year % 100);
        clock.two(5, month);
        clock.two(8, day);
        clock.two(11, of_day / 3600);
        clock.two(14, of_day / 60 % 60);
        clock.two(17, of_day % 60);
        let mut end = 19;
        if micros != 0 {
            clock.bytes[end] = b'.';
            clock.two(end + 1, micros / 10_000);
            clock.two(end + 3, micros / 100 % 100);
            clock.two(end + 5, micros % 100);
            end += 7;
        }
        match offset_minutes {
            None => clock.bytes[end] = b'Z',
            Some(minutes) => {
                clock.bytes[end] = if minutes < 0 { b'-' } else { b'+' };
                clock.two(end + 1, minutes.unsigned_abs() / 60);
                clock.bytes[end + 3] = b':';
                clock.two(end + 4, minutes.unsigned_abs() % 60);
                end += 5;
            }
        }
        clock.length = u8::try_from(end + 1).expect("a clock is shorter than its buffer");
        clock
    }

    fn two(&mut self, at: usize, number: u32) {
        let [tens, ones] = [number / 10 % 10, number % 10].map(|digit| b'0' + u8::try_from(digit).expect("a digit"));
        self.bytes[at] = tens;
        self.bytes[at + 1] = ones;
    }

    /// As RFC 3339.
    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("a clock is ASCII")
    }

    /// `2026-12-25`
    pub(crate) fn date(&self) -> String {
        self.as_str()[..10].to_owned()
    }

    /// The offset: `+01:00`, or `Z`.
    pub(crate) fn offset(&self) -> &[u8] {
        let text = &self.bytes[..usize::from(self.length)];
        if text.ends_with(b"Z") { b"Z" } else { &text[text.len() - 6..] }
    }

    /// `2026-12-25 09:00`, in ASCII.
    pub(crate) fn in_words(&self) -> [u8; 16] {
        let mut words = *self.bytes.first_chunk().expect("a clock is longer");
        words[10] = b' ';
        words
    }
}

impl Serialize for Clock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for Clock {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Clock".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The zone of this IANA name; spaces around it say nothing. `None` for what is no name of a zone, also where the machine's
/// database of zones has a file for it: `localtime` is whatever the machine is set to, `Factory` says that it is set to
/// nothing, and `posix/` and `right/` hold the zones a second time.
#[must_use]
pub fn time_zone(name: &str) -> Option<TimeZone> {
    const NO_ZONES: [&str; 5] = ["localtime", "factory", "posixrules", "etc/unknown", "leapseconds"];
    const OTHER_COPIES: [&str; 3] = ["posix/", "right/", "systemv/"];
    let name = name.trim();
    let lower = name.to_ascii_lowercase();
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'+'))
        && !NO_ZONES.contains(&&*lower)
        && !OTHER_COPIES.iter().any(|copy| lower.starts_with(copy));
    let zone = if is_name { TimeZone::get(name).ok()? } else { return None };
    // What has no name could not be stored.
    zone.iana_name().is_some().then_some(zone)
}

/// The zone that a caller named.
pub(crate) fn zone(name: &str) -> Result<TimeZone, TimeError> {
    time_zone(name).ok_or_else(|| TimeError::UnknownZone { said: excerpt(name) })
}

/// The name of a zone that came from [`zone`].
pub(crate) fn zone_name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("UTC")
}

/// The moment that a caller named exactly: with an offset, or as a clock time that `zone` has once.
pub(crate) fn moment(argument: &'static str, said: &str, zone: &TimeZone) -> Result<Stamp, TimeError> {
    let timestamp = match Said::read(argument, said)? {
        Said::Instant(timestamp) => timestamp.map_err(|_| TimeError::FarAway { argument })?,
        Said::Day(said) => return Err(TimeError::NoTimeOfDay { argument, said }),
        Said::Clock(said) => on_the_clock(argument, said, zone)?,
    };
    let year = Offset::UTC.to_datetime(timestamp).year();
    if !(1970..=2100).contains(&year) {
        return Err(TimeError::FarAway { argument });
    }
    Ok(timestamp.into())
}

/// The bound of a search. A clock time that `zone` skips or has twice is read as most calendars do: a search may look a
/// little further than it was meant to. People write 0001-01-01 and 9999-12-31 for "ever": what lies beyond the calendar is
/// as far away as a bound can be.
pub(crate) fn bound(argument: &'static str, said: &str, zone: &TimeZone, bound: Bound) -> Result<Stamp, TimeError> {
    // Finite, so that a search from then to "ever" is a search that finds nothing, and no mistake.
    let latest = if bound == Bound::Start { Timestamp::MAX.into() } else { Stamp::MAX };
    if let Some(year) = Said::expanded_year(said) {
        return Ok(if year < 0 { Stamp::YEAR_0 } else { latest });
    }
    let said = Said::read(argument, said)?;
    let (clock, is_late) = match said {
        Said::Instant(Ok(timestamp)) => return Ok(Stamp::from(timestamp).max(Stamp::YEAR_0)),
        Said::Instant(Err(clock)) => (clock, clock.year() > 0),
        Said::Clock(clock) => (clock, clock.year() > 0),
        Said::Day(day) if bound == Bound::Start => (day.to_datetime(civil::Time::midnight()), day.year() > 0),
        Said::Day(day) => match day.tomorrow() {
            Ok(next) => (next.to_datetime(civil::Time::midnight()), day.year() > 0),
            Err(_) => return Ok(latest),
        },
    };
    let outermost = if is_late { latest } else { Stamp::YEAR_0 };
    if matches!(said, Said::Instant(_)) {
        return Ok(outermost);
    }
    let timestamp = zone.to_ambiguous_timestamp(clock).compatible();
    Ok(timestamp.map_or(outermost, |timestamp| Stamp::from(timestamp).max(Stamp::YEAR_0)))
}

/// How a caller said a time.
enum Said {
    /// Or the clock time, when its instant lies beyond the calendar.
    Instant(Result<Timestamp, DateTime>),
    Clock(DateTime),
    Day(civil::Date),
}

// === impl Said ===

impl Said {
    fn read(argument: &'static str, said: &str) -> Result<Self, TimeError> {
        let unreadable = || TimeError::Unreadable { argument, said: excerpt(said) };
        let pieces = Pieces::parse(said.trim()).map_err(|_| unreadable())?;
        // A zone in brackets is a second way to say `timeZone`, and the two could disagree.
        if pieces.time_zone_annotation().is_some() {
            return Err(unreadable());
        }
        match (pieces.time(), pieces.to_numeric_offset()) {
            (Some(_), Some(offset)) if offset.seconds().abs() > MAX_OFFSET_SECONDS => {
                Err(TimeError::Offset { argument, said: excerpt(said) })
            }
            (Some(time), Some(offset)) => {
                let clock = pieces.date().to_datetime(time);
                Ok(Self::Instant(offset.to_timestamp(clock).map_err(|_| clock)))
            }
            (Some(time), None) => Ok(Self::Clock(pieces.date().to_datetime(time))),
            (None, None) => Ok(Self::Day(pieces.date())),
            (None, Some(_)) => Err(unreadable()),
        }
    }

    /// The year of a time whose year has a sign and six digits, when it lies beyond the calendar: what JavaScript prints of the
    /// first and the last moment it knows (+275760-09-13T00:00:00.000Z).
    fn expanded_year(said: &str) -> Option<i32> {
        let (year, rest) = said.trim().split_at_checked(7)?;
        let is_year = year.starts_with(['+', '-']) && year[1..].bytes().all(|byte| byte.is_ascii_digit());
        let year = is_year.then(|| year.parse::<i32>().ok())??;
        let is_date = rest.len() >= 6
            && rest.bytes().take(6).enumerate().all(|(at, byte)| match at % 3 {
                0 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        (is_date && !(-9999..=9999).contains(&year)).then_some(year)
    }
}

fn on_the_clock(argument: &'static str, said: DateTime, zone: &TimeZone) -> Result<Timestamp, TimeError> {
    let ambiguous = zone.to_ambiguous_timestamp(said);
    let zone_name = || zone_name(zone).to_owned();
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.compatible().map_err(|_| TimeError::FarAway { argument }),
        AmbiguousOffset::Gap { .. } => Err(TimeError::Skipped { argument, said, zone: zone_name() }),
        AmbiguousOffset::Fold { before, after } => {
            let print =
                |offset: Offset| offset.to_timestamp(said).map(|at| Clock::on(at.into(), &offset.to_time_zone()).to_string());
            match (print(before), print(after)) {
                (Ok(first), Ok(second)) => Err(TimeError::Twice { argument, said, zone: zone_name(), first, second }),
                _ => Err(TimeError::FarAway { argument }),
            }
        }
    }
}

/// Year, month and day of a day counted from 1970, by Howard Hinnant's `civil_from_days`; for the years 0 to 9999.
fn date(days: i64) -> (u32, u32, u32) {
    // An offset may lead a day out of the years that can be printed; such a date is wrong by that day.
    let days = days.clamp(-719_528, 2_932_896);
    // The count begins in March, and 400 years early so that no number is negative.
    let days = u32::try_from(days + 719_468 + 146_097).expect("clamped to a small range");
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u32::from(month <= 2) - 400, month, day)
}

/// Enough of what was said to find it again.
fn excerpt(said: &str) -> String {
    said.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> TimeZone {
        zone("Europe/Berlin").unwrap()
    }

    fn stamp(text: &str) -> Stamp {
        text.parse::<Timestamp>().unwrap().into()
    }

    #[test]
    fn clocks_print_what_jiff_prints() {
        let zones = ["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"].map(|name| zone(name).unwrap());
        // Steps that share no factor with a day, from 1960 to 2190.
        for step in 0..2_000_i64 {
            let timestamp = Timestamp::from_microsecond((-315_619_200 + step * 3_628_813) * SECOND + step % 3 * 250_007).unwrap();
            assert_eq!(stamp_at(timestamp).parse::<Timestamp>().unwrap(), timestamp);
            for zone in &zones {
                let printed = Clock::on(timestamp.into(), zone);
                assert_eq!(printed.as_str().parse::<Timestamp>().unwrap(), timestamp, "{printed}");
                let expected = timestamp.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string();
                assert_eq!(str::from_utf8(&printed.in_words()), Ok(expected.as_str()));
            }
        }
    }

    fn stamp_at(timestamp: Timestamp) -> String {
        Clock::utc(timestamp.into()).to_string()
    }

    #[test]
    fn edges_of_the_calendar_print() {
        assert_eq!(Clock::utc(stamp("2026-12-25T09:00:00Z")).as_str(), "2026-12-25T09:00:00Z");
        assert_eq!(Clock::utc(stamp("2024-02-29T23:59:59.5Z")).as_str(), "2024-02-29T23:59:59.500000Z");
        assert_eq!(Clock::utc(Stamp::MIN).as_str().get(..19), Some("0000-01-01T00:00:00"));
        assert_eq!(Clock::utc(Stamp::MAX).as_str().get(..19), Some("9999-12-31T23:59:59"));
    }

    #[test]
    fn a_zone_is_kept_until_another_is_asked_for() {
        let mut zones = Zones::default();
        for (name, printed) in [
            ("UTC", "2026-12-25T09:00:00Z"),
            ("Europe/Berlin", "2026-12-25T10:00:00+01:00"),
            ("Europe/Berlin", "2026-12-25T10:00:00+01:00"),
            ("Mars/Olympus", "2026-12-25T09:00:00+00:00"),
        ] {
            let zone = zones.get(name);
            assert_eq!(zone.clock(stamp("2026-12-25T09:00:00Z")).as_str(), printed);
            assert_eq!(&**zone.name(), name);
        }
    }

    #[test]
    fn a_moment_is_an_instant_or_a_clock_time_of_the_zone() {
        let zone = berlin();
        let at = stamp("2026-12-25T08:00:00Z");
        for said in ["2026-12-25T09:00:00+01:00", "2026-12-25T08:00:00Z", "2026-12-25T09:00", " 2026-12-25 09:00:00 "] {
            assert_eq!(moment("startsAt", said, &zone), Ok(at), "{said}");
        }
    }

    #[test]
    fn a_time_that_is_none_is_the_callers_mistake() {
        let zone = berlin();
        for (said, words) in [
            ("tomorrow", "`startsAt` is not a time: \"tomorrow\"; write it like"),
            ("2026-02-30T10:00", "`startsAt` is not a time"),
            ("2026-12-25T09:00[Europe/Berlin]", "`startsAt` is not a time"),
            ("2026-12-25", "`startsAt` needs a time of day: 2026-12-25T09:00 instead of 2026-12-25"),
            ("2026-03-29T02:30", "`startsAt`: there is no 2026-03-29T02:30:00 in Europe/Berlin"),
            (
                "2026-10-25T02:30",
                "`startsAt`: 2026-10-25T02:30:00 comes twice in Europe/Berlin; say which with an offset, \
                 2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00",
            ),
            ("1969-12-31T10:00Z", "`startsAt` must lie between"),
            ("2101-01-01T10:00", "`startsAt` must lie between"),
        ] {
            let error = moment("startsAt", said, &zone).unwrap_err().to_string();
            assert!(error.starts_with(words), "{said}: {error}");
        }
        assert!(matches!(super::zone("Europe/Atlantis"), Err(TimeError::UnknownZone { .. })));
    }

    #[test]
    fn a_date_bounds_a_search_by_whole_days() {
        let zone = berlin();
        assert_eq!(bound("startDate", "2026-12-25", &zone, Bound::Start), Ok(stamp("2026-12-24T23:00:00Z")));
        assert_eq!(bound("endDate", "2026-12-25", &zone, Bound::End), Ok(stamp("2026-12-25T23:00:00Z")));
        // The day of the change has 23 hours.
        assert_eq!(bound("endDate", "2026-03-29", &zone, Bound::End), Ok(stamp("2026-03-29T22:00:00Z")));
        assert_eq!(bound("endDate", "2026-12-25T00:00", &zone, Bound::End), Ok(stamp("2026-12-24T23:00:00Z")));
        assert_eq!(bound("startDate", "2026-03-29T02:30", &zone, Bound::Start), Ok(stamp("2026-03-29T01:30:00Z")));
    }

    #[test]
    fn a_bound_beyond_the_calendar_is_as_far_away_as_can_be() {
        let zones = ["Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"].map(|name| zone(name).unwrap());
        for zone in &zones {
            for said in [
                "9999-12-31",
                "9999-12-31T23:59:59Z",
                "9999-12-31T23:59:59.999-18:00",
                "9999-12-31T23:59",
                "+275760-09-13T00:00:00.000Z",
            ] {
                let end = bound("endDate", said, zone, Bound::End).unwrap();
                assert!(end > stamp("9999-12-29T00:00:00Z"), "{said}: {end:?}");
                let start = bound("startDate", said, zone, Bound::Start).unwrap();
                assert!(start > stamp("9999-12-29T00:00:00Z") && start < Stamp::MAX, "{said}: {start:?}");
            }
            for said in
                ["0001-01-01", "0000-01-01", "-009999-01-01", "-009999-01-01T00:00:00+18:00", "-271821-04-20T00:00:00.000Z"]
            {
                for kind in [Bound::Start, Bound::End] {
                    let bound = bound("startDate", said, zone, kind).unwrap();
                    assert!((Stamp::YEAR_0..stamp("0001-01-03T00:00:00Z")).contains(&bound), "{said}: {bound:?}");
                }
            }
        }
        assert_eq!(bound("endDate", "9999-12-31", &zones[3], Bound::End), Ok(Stamp::MAX));
        assert!(bound("endDate", "+275760-09", &zones[3], Bound::End).is_err());
        assert!(bound("endDate", "10000-01-01", &zones[3], Bound::End).is_err());
    }

    #[test]
    fn only_a_name_of_a_zone_is_one() {
        for (said, name) in [
            ("Europe/Berlin", "Europe/Berlin"),
            (" Europe/Berlin ", "Europe/Berlin"),
            ("Europe/Berlin\n", "Europe/Berlin"),
            ("europe/berlin", "Europe/Berlin"),
            ("UTC", "UTC"),
            ("Etc/GMT+5", "Etc/GMT+5"),
            ("America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
            ("EST5EDT", "EST5EDT"),
        ] {
            assert_eq!(zone_name(&zone(said).unwrap()), name, "{said}");
        }
        for said in [
            "localtime",
            "LocalTime",
            " localtime",
            "Factory",
            "factory",
            "posixrules",
            "posix/Europe/Berlin",
            "right/Europe/Berlin",
            "Etc/Unknown",
            "leapseconds",
            "tzdata.zi",
            "zone.tab",
            "",
            " ",
            "/etc/localtime",
            "/usr/share/zoneinfo/Europe/Berlin",
            "../zoneinfo/Europe/Berlin",
            "Europe/../Europe/Berlin",
            "./UTC",
            "Europe",
            "Europe/",
            "Europe//Berlin",
            "Europe/Atlantis",
            "+02:00",
            ":Europe/Berlin",
        ] {
            assert_eq!(zone(said), Err(TimeError::UnknownZone { said: said.to_owned() }), "{said:?}");
        }
    }

    #[test]
    fn an_offset_that_no_clock_has_is_refused() {
        let zone = berlin();
        for said in ["2026-12-25T09:00+18:00", "2026-12-25T09:00-18:00", "2026-12-25T09:00+05:45", "2026-12-25T09:00-00:00"] {
            assert!(moment("startsAt", said, &zone).is_ok(), "{said}");
        }
        for said in ["2026-12-25T09:00+18:01", "2026-12-25T09:00-18:01", "2026-12-25T09:00+24:00", "2026-12-25T09:00-25:59"] {
            let offset = Err(TimeError::Offset { argument: "startsAt", said: said.to_owned() });
            assert_eq!(moment("startsAt", said, &zone), offset);
            assert_eq!(bound("startsAt", said, &zone, Bound::Start), offset);
        }
    }

    #[test]
    fn a_time_of_day_that_comes_twice_is_known() {
        for (name, instant, ambiguous) in [
            ("Europe/Berlin", "2026-10-24T23:59:59Z", false),
            ("Europe/Berlin", "2026-10-25T00:00:00Z", true),
            ("Europe/Berlin", "2026-10-25T00:59:59Z", true),
            ("Europe/Berlin", "2026-10-25T01:00:00Z", true),
            ("Europe/Berlin", "2026-10-25T01:59:59Z", true),
            ("Europe/Berlin", "2026-10-25T02:00:00Z", false),
            ("Europe/Berlin", "2026-03-29T01:00:00Z", false),
            ("Europe/Berlin", "2026-03-29T00:59:59Z", false),
            // Half an hour, and a zone without changes.
            ("Australia/Lord_Howe", "2026-04-04T14:29:59Z", false),
            ("Australia/Lord_Howe", "2026-04-04T14:30:00Z", true),
            ("Australia/Lord_Howe", "2026-04-04T15:29:59Z", true),
            ("Australia/Lord_Howe", "2026-04-04T15:30:00Z", false),
            ("Asia/Kolkata", "2026-10-25T01:00:00Z", false),
            ("UTC", "2026-10-25T01:00:00Z", false),
            ("Etc/GMT+5", "2026-10-25T01:00:00Z", false),
        ] {
            let at = stamp(instant);
            assert_eq!(Zone::new(name).is_ambiguous(at), ambiguous, "{name} {instant}");
            let civil = zone(name).unwrap().to_datetime(instant.parse().unwrap());
            let expected = zone(name).unwrap().to_ambiguous_timestamp(civil).is_ambiguous();
            assert_eq!(ambiguous, expected && !name.is_empty(), "{name} {instant}");
        }
    }

    #[test]
    fn a_zone_that_remembers_prints_what_one_that_does_not_prints() {
        for name in ["Europe/Berlin", "America/St_Johns", "Africa/Casablanca", "Pacific/Apia", "Etc/GMT-14"] {
            let rules = zone(name).unwrap();
            let mut remembering = Zone::new(name);
            // Steps of nine hours that also go back, from 1960 on.
            for step in 0..9_000_i64 {
                let seconds = -315_619_200 + (step + step % 7 * 40) * 32_401;
                let at: Stamp = Timestamp::from_second(seconds).unwrap().into();
                assert_eq!(remembering.clock(at).as_str(), Clock::on(at, &rules).as_str());
                let civil = rules.to_datetime(Timestamp::from_second(seconds).unwrap());
                let folds = matches!(rules.to_ambiguous_timestamp(civil).offset(), AmbiguousOffset::Fold { .. });
                assert_eq!(remembering.is_ambiguous(at), folds, "{name} {civil}");
            }
        }
    }

    #[test]
    fn a_period_has_a_length_and_a_bounded_one() {
        let start = stamp("2026-12-25T09:00:00Z");
        let of = |start, end| Period::of(start, end, &TimeZone::UTC);
        assert_eq!(Period::lasting(start, 30), of(start, stamp("2026-12-25T09:30:00Z")));
        assert!(matches!(of(start, start), Err(TimeError::EndsFirst { .. })));
        assert!(matches!(Period::lasting(start, 0), Err(TimeError::EndsFirst { .. })));
        assert_eq!(of(start, stamp("2027-01-25T09:00:01Z")), Err(TimeError::TooLong));
        assert_eq!(Period::lasting(start, u32::MAX), Err(TimeError::TooLong));
        assert_eq!(of(Stamp::YEAR_0, Stamp::MAX), Err(TimeError::TooLong));
    }

    #[test]
    fn days_across_a_clock_change_are_days() {
        let zone = berlin();
        for (start, end, is_short_enough) in [
            // 745 hours, 744, and 743: each 31 days.
            ("2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00", true),
            ("2026-10-01T00:00:00+02:00", "2026-11-01T00:00:01+01:00", false),
            ("2026-07-01T09:00:00+02:00", "2026-08-01T09:00:00+02:00", true),
            ("2026-07-01T09:00:00+02:00", "2026-08-01T09:00:01+02:00", false),
            ("2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00", true),
            // As many minutes as `durationMinutes` admits.
            ("2026-03-01T00:00:00+01:00", "2026-04-01T01:00:00+02:00", true),
            ("2026-03-01T00:00:00+01:00", "2026-04-01T01:00:01+02:00", false),
        ] {
            let period = Period::of(stamp(start), stamp(end), &zone);
            assert_eq!(period.is_ok(), is_short_enough, "{start} to {end}: {period:?}");
        }
    }
}
