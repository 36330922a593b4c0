//! Time zones: which one a TZID means, and what instant a clock time in it is.
//!
//! A name the world agrees on beats the definition in the file, which is often cut short; a definition beats a guess, and
//! there is no guess: an unknown zone is a flaw of the event that uses it.

use std::{collections::HashMap, sync::Arc};

use calcard::{
    common::{PartialDateTime, timezone::Tz},
    icalendar::{ICalendar, ICalendarComponent, ICalendarComponentType, ICalendarProperty, ICalendarValue, timezone::TzResolver},
};
use jiff::{
    SignedDuration, Timestamp, ToSpan,
    civil::DateTime,
    tz::{Offset, TimeZone},
};

use super::{
    Reading,
    event::{Flaw, clock, cut},
    series::{self, Budget},
};
use crate::appointments::time::time_zone;

/// A zone with a name people know it by.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    pub(super) name: Arc<str>,
    rules: Rules,
}

/// The zones of one VCALENDAR.
pub(super) struct Zones<'a> {
    source: &'a ICalendar,
    resolver: TzResolver<&'a str>,
    known: HashMap<String, Option<Zone>>,
    /// Of times that name no zone.
    pub(super) floating: Zone,
    /// Of times said in UTC.
    pub(super) utc: Zone,
    until: Timestamp,
    budget: &'a Budget,
}

#[derive(Debug, Clone)]
enum Rules {
    Known(TimeZone),
    /// Sorted by instant, and never empty.
    Defined(Arc<[Onset]>),
}

/// From `at` on the clock is `after` ahead of UTC; until then it was `before`.
#[derive(Debug, Clone, Copy)]
struct Onset {
    at: Timestamp,
    before: Offset,
    after: Offset,
}

/// How many changes a zone may have. The database of zones has none with more than 250 up to 2037; Outlook writes one for
/// each year since 1601.
const MAX_ONSETS: usize = 5_000;

/// Names tried first for a zone known by its rules only; the alphabet would call Berlin's Africa/Ceuta.
const WELL_KNOWN: [&str; 22] = [
    "Europe/Berlin",
    "Europe/London",
    "Europe/Athens",
    "Europe/Moscow",
    "Europe/Istanbul",
    "America/New_York",
    "America/Chicago",
    "America/Denver",
    "America/Phoenix",
    "America/Los_Angeles",
    "America/Anchorage",
    "America/Halifax",
    "America/Sao_Paulo",
    "Asia/Dubai",
    "Asia/Karachi",
    "Asia/Kolkata",
    "Asia/Bangkok",
    "Asia/Shanghai",
    "Asia/Tokyo",
    "Australia/Sydney",
    "Pacific/Auckland",
    "Pacific/Honolulu",
];

// === impl Zone ===

impl Zone {
    /// The instant of a clock time. One that is skipped is read with the offset before the change, one that comes twice is
    /// the first: RFC 5545, section 3.3.5.
    pub(super) fn instant(&self, clock: DateTime) -> Option<Timestamp> {
        match &self.rules {
            Rules::Known(zone) => zone.to_timestamp(clock).ok(),
            Rules::Defined(onsets) => {
                // The last change whose clock time, in the offset before it, is not after this one.
                let passed = onsets.partition_point(|onset| onset.before.to_datetime(onset.at) <= clock);
                let Some(onset) = passed.checked_sub(1).map(|last| onsets[last]) else {
                    return onsets[0].before.to_timestamp(clock).ok();
                };
                // Clocks that went forward: between the two clock times of the change there is nothing.
                let in_gap = clock < onset.after.to_datetime(onset.at);
                if in_gap { onset.before } else { onset.after }.to_timestamp(clock).ok()
            }
        }
    }

    /// The clock time of an instant.
    pub(super) fn clock(&self, at: Timestamp) -> DateTime {
        self.offset(at).to_datetime(at)
    }

    fn known(zone: TimeZone) -> Self {
        let name = zone.iana_name().unwrap_or("UTC").into();
        Self { name, rules: Rules::Known(zone) }
    }

    /// The same zone, shown under another name.
    fn called(mut self, name: &Arc<str>) -> Self {
        self.name = Arc::clone(name);
        self
    }

    fn offset(&self, at: Timestamp) -> Offset {
        match &self.rules {
            Rules::Known(zone) => zone.to_offset(at),
            Rules::Defined(onsets) => match onsets.partition_point(|onset| onset.at <= at) {
                0 => onsets[0].before,
                passed => onsets[passed - 1].after,
            },
        }
    }

    /// Whether the clocks agree in the three years before `until`. Definitions are seldom true to earlier history.
    fn agrees_with(&self, other: &TimeZone, until: Timestamp) -> bool {
        // Ten days apart, no rule in use hides between two probes.
        (0..110)
            .filter_map(|probe| until.checked_sub(SignedDuration::from_hours(240 * probe)).ok())
            .all(|at| self.offset(at) == other.to_offset(at))
    }
}

// === impl Zones ===

impl<'a> Zones<'a> {
    pub(super) fn of(source: &'a ICalendar, named: Option<String>, reading: &Reading, budget: &'a Budget) -> Self {
        let default = Zone::known(reading.default_zone.clone());
        let utc = Zone::known(TimeZone::UTC);
        let resolver = source.build_tz_resolver();
        let known = HashMap::new();
        let mut zones = Self { source, resolver, known, floating: default, utc: utc.clone(), until: reading.until, budget };
        if let Some(zone) = named.and_then(|name| zones.zone(&name).ok()) {
            // Calendars that say their zone write single events in UTC all the same; their people don't think in UTC.
            zones.utc = utc.called(&zone.name);
            zones.floating = zone;
        }
        zones
    }

    pub(super) fn zone(&mut self, id: &str) -> Result<Zone, Flaw> {
        if !self.known.contains_key(id) {
            let zone = self.find(id);
            self.known.insert(id.to_owned(), zone);
        }
        self.known[id].clone().ok_or_else(|| Flaw::UnknownZone(cut(id.to_owned(), 100)))
    }

    fn find(&self, id: &str) -> Option<Zone> {
        if let Some(zone) = time_zone(id) {
            return Some(Zone::known(zone));
        }
        // Windows names, X-LIC-LOCATION, and /registry/prefixed/Area/City.
        let meant = self.resolver.resolve(id);
        if let Some(Tz::Tz(zone)) = meant {
            return time_zone(zone.name()).map(Zone::known);
        }
        let definition = self.source.timezones().find(|zone| {
            let name = zone.property(&ICalendarProperty::Tzid).and_then(|entry| entry.values.first());
            name.and_then(|name| name.as_text()) == Some(id)
        });
        if let Some(zone) = definition.and_then(|definition| self.defined(definition)) {
            return Some(zone);
        }
        // `(UTC+02:00) somewhere` without a definition.
        let Some(Tz::Fixed(offset)) = meant else { return None };
        let offset = Offset::from_seconds(offset.local_minus_utc()).ok()?;
        Some(self.named(vec![Onset { at: Timestamp::UNIX_EPOCH, before: offset, after: offset }]))
    }

    /// A zone by the rules in the file. One with more changes than any zone has is not defined; the time it takes is bounded
    /// with that of the file, rule by rule.
    fn defined(&self, definition: &ICalendarComponent) -> Option<Zone> {
        let mut onsets = Vec::new();
        for id in &definition.component_ids {
            if onsets.len() > MAX_ONSETS || self.budget.is_out_of_time() {
                return None;
            }
            let observance = self.source.component_by_id(*id)?;
            if matches!(observance.component_type, ICalendarComponentType::Standard | ICalendarComponentType::Daylight) {
                onsets.extend(self.onsets(observance)?);
            }
        }
        onsets.sort_by_key(|onset| onset.at);
        let granted = self.budget.take_bytes(onsets.len() * size_of::<Onset>());
        (granted && !onsets.is_empty()).then(|| self.named(onsets))
    }

    fn onsets(&self, observance: &ICalendarComponent) -> Option<Vec<Onset>> {
        // A change each year since 1601, as Outlook writes them, with room to spare.
        const MOST: usize = 1_000;
        let dates = |name| observance.properties(name).flat_map(|entry| &entry.values).filter_map(date_time);
        let before = offset(dates(&ICalendarProperty::Tzoffsetfrom).next()?)?;
        let after = offset(dates(&ICalendarProperty::Tzoffsetto).next()?)?;
        let start = clock(dates(&ICalendarProperty::Dtstart).next()?)?;

        // Beyond the horizon there are single events only; half a century of them keep their clock time.
        let horizon = before.to_datetime(self.until).saturating_add(50.years());
        let mut clocks: Vec<_> = std::iter::once(start).chain(dates(&ICalendarProperty::Rdate).filter_map(clock)).collect();
        for value in observance.properties(&ICalendarProperty::Rrule).flat_map(|entry| &entry.values) {
            let ICalendarValue::RecurrenceRule(rule) = value else { return None };
            if clocks.len() > MAX_ONSETS || self.budget.is_out_of_time() {
                return None;
            }
            // UNTIL is UTC here, and the clock before the change is what the rule speaks of.
            let until = match &rule.until {
                Some(until) if until.tz_hour.is_some() => {
                    before.to_datetime(Offset::UTC.to_timestamp(clock(until)?).unwrap_or(Timestamp::MAX))
                }
                Some(until) => clock(until)?,
                None => horizon,
            };
            clocks.extend(series::dates(rule, start, until.min(horizon), MOST).ok()?);
        }
        clocks.truncate(MOST);
        clocks.into_iter().map(|clock| Some(Onset { at: before.to_timestamp(clock).ok()?, before, after })).collect()
    }

    /// Gives rules the name of a zone that keeps the same time now, the calendar's own first.
    fn named(&self, onsets: Vec<Onset>) -> Zone {
        let zone = Zone { name: "UTC".into(), rules: Rules::Defined(onsets.into()) };
        let own = std::iter::once(self.floating.name.to_string());
        let others = WELL_KNOWN.iter().map(ToString::to_string);
        let all = jiff::tz::db().available().map(|name| name.as_str().to_owned());
        let name = own
            .chain(others)
            .chain(all)
            .find(|name| time_zone(name).is_some_and(|candidate| zone.agrees_with(&candidate, self.until)));
        match name {
            Some(name) => zone.called(&name.into()),
            None => zone,
        }
    }
}

fn date_time(value: &ICalendarValue) -> Option<&PartialDateTime> {
    value.as_partial_date_time()
}

fn offset(said: &PartialDateTime) -> Option<Offset> {
    let seconds = i32::from(said.tz_hour?) * 3600 + i32::from(said.tz_minute.unwrap_or(0)) * 60;
    Offset::from_seconds(if said.tz_minus { -seconds } else { seconds }).ok()
}
