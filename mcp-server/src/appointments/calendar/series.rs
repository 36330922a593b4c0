//! From the versions of an event to its occurrences: rules, added and removed dates, and overrides.
//!
//! The order is that of RFC 5545: the newest version counts; the rules and RDATE give dates, EXDATE takes some away, and an
//! override replaces what is left by its original date.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use calcard::{
    common::PartialDateTime,
    icalendar::{
        ICalendar, ICalendarComponent, ICalendarComponentType, ICalendarEntry, ICalendarFrequency, ICalendarProperty,
        ICalendarRecurrenceRule,
    },
};
use jiff::{Timestamp, civil::DateTime, tz::Offset};

use super::{
    Calendar, Cut, Occurrence, Reading, Skipped, Status, Truncated,
    event::{Event, Flaw, Key, Length, Moment, clock},
};

/// What is left of a file's time, and of its memory for occurrences and zones.
pub(super) struct Budget {
    bytes: Cell<usize>,
    deadline: Option<Instant>,
}

/// How many more dates are computed than kept, so that the latest are there to keep: a century of a daily appointment.
const DATES_PER_OCCURRENCE: usize = 8;

/// How many times of day a rule may name: `calcard` computes those of a whole year at once, and that is half a million
/// dates then. A rule that names every second of the day takes more than a gigabyte.
const MOST_TIMES_OF_DAY: usize = 24 * 60;

/// Writes out what one UID stands for.
pub(super) fn write_out(mut versions: Vec<Event>, reading: &Reading, budget: &Budget, calendar: &mut Calendar) {
    // The newest first. The sort is stable, and of equals the later in the file is the newer.
    versions.reverse();
    versions.sort_by_key(|event| Reverse((event.sequence, event.changed)));
    let (overrides, masters): (Vec<_>, Vec<_>) = versions.into_iter().partition(|event| event.replaces.is_some());
    let master = newest(masters);
    let overrides = Overrides::of(overrides, master.as_ref());

    let result = match &master {
        Some(master) => write_series(master, overrides, reading, budget, calendar),
        // An invitation to single occurrences of a series that is somebody else's.
        None => {
            overrides.rest(None, budget, calendar);
            Ok(())
        }
    };
    if let (Err(flaw), Some(master)) = (result, master) {
        calendar.skipped.push(Skipped { what: master.uid, reason: flaw.to_string() });
    }
}

/// The clock times of a rule, from `start` to `until`, at most `most` of them.
pub(super) fn dates(
    rule: &ICalendarRecurrenceRule,
    start: DateTime,
    until: DateTime,
    most: usize,
) -> Result<Vec<DateTime>, Flaw> {
    // The rule is computed as if in UTC: a series repeats clock times, and clock changes are the zone's business.
    if until < start {
        return Ok(Vec::new());
    }
    let times: usize = [&rule.byhour, &rule.byminute, &rule.bysecond].iter().map(|times| times.len().max(1)).product();
    if times > MOST_TIMES_OF_DAY {
        return Err(Flaw::Rule(format!("it names {times} times of day")));
    }
    // `calcard` (and dateutil) would take those that are both, which are none.
    if rule.byday.iter().any(|day| day.ordwk.is_some()) && rule.byday.iter().any(|day| day.ordwk.is_none()) {
        return Err(Flaw::Rule("it names weekdays with and without a number".to_owned()));
    }
    let mut rule = rule.clone();
    rule.until = Some(partial(until)?);
    let mut component = ICalendarComponent::new(ICalendarComponentType::VEvent);
    component.entries.push(ICalendarEntry::new(ICalendarProperty::Dtstart).with_value(partial(start)?));
    component.entries.push(ICalendarEntry::new(ICalendarProperty::Rrule).with_value(rule));
    let expanded = ICalendar { components: vec![component] }.expand_dates(chrono_tz::UTC, most);
    if let Some(error) = expanded.errors.into_iter().next() {
        return Err(Flaw::Rule(error.error.to_string()));
    }
    let date = |second| Timestamp::from_second(second).ok().map(|at| Offset::UTC.to_datetime(at));
    Ok(expanded.events.into_iter().filter_map(|event| date(event.start.timestamp())).collect())
}

struct Overrides {
    single: BTreeMap<Key, Event>,
    /// With `RANGE=THISANDFUTURE`, by the occurrence they begin at.
    following: BTreeMap<Timestamp, Event>,
}

// === impl Budget ===

impl Budget {
    pub(super) fn of(reading: &Reading) -> Self {
        Self { bytes: Cell::new(reading.max_memory_bytes), deadline: Instant::now().checked_add(reading.max_time) }
    }

    /// Whether reading has taken longer than it may. Asked before every rule: one event may have thousands, and computing one
    /// takes milliseconds.
    pub(super) fn is_out_of_time(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() > deadline)
    }

    /// Takes memory that is kept until the end, if there is so much.
    pub(super) fn take_bytes(&self, bytes: usize) -> bool {
        let left = self.bytes.get().checked_sub(bytes);
        left.inspect(|left| self.bytes.set(*left)).is_some()
    }

    /// Whether computing another date is in vain.
    fn is_spent(&self) -> bool {
        self.bytes.get() < size_of::<Occurrence>() + 64
    }

    /// How many of `wanted` occurrences with so much text can be had; they are taken.
    fn take(&self, wanted: usize, text_bytes: usize) -> usize {
        // The fixed part, and the short strings each occurrence has of its own.
        let each = size_of::<Occurrence>() + 64 + text_bytes;
        let granted = wanted.min(self.bytes.get() / each);
        self.bytes.set(self.bytes.get() - granted * each);
        granted
    }
}

// === impl Overrides ===

impl Overrides {
    fn of(newest_first: Vec<Event>, master: Option<&Event>) -> Self {
        let mut overrides = Self { single: BTreeMap::new(), following: BTreeMap::new() };
        for event in newest_first {
            let Some(replaces) = &event.replaces else { continue };
            if replaces.and_following
                && let Some(at) = replaces.moment.instant()
            {
                overrides.following.entry(at).or_insert(event);
                continue;
            }
            // Days may be called by an instant, when the program that wrote it was careless.
            let by_day = master.is_some_and(|master| master.start.all_day);
            let key = if by_day { Some(Key::Day(replaces.moment.clock.date())) } else { replaces.moment.key() };
            if let Some(key) = key {
                overrides.single.entry(key).or_insert(event);
            }
        }
        overrides
    }

    fn take(&mut self, moment: &Moment) -> Option<Event> {
        let exact = moment.key().and_then(|key| self.single.remove(&key));
        exact.or_else(|| self.single.remove(&Key::Day(moment.clock.date())))
    }

    fn following(&self, at: Timestamp) -> Option<&Event> {
        self.following.range(..=at).next_back().map(|(_, event)| event)
    }

    /// Writes the overrides of occurrences that the series does not have (any more), or that stand alone.
    fn rest(self, master: Option<&Event>, budget: &Budget, calendar: &mut Calendar) {
        // With its series here, "this and following" has been applied; alone it is at least its first occurrence.
        let alone = if master.is_none() { self.following } else { BTreeMap::new() };
        let alone = alone.into_iter().filter(|(at, _)| !self.single.contains_key(&Key::Instant(*at)));
        let alone: Vec<_> = alone
            .map(|(at, event)| (event.replaces.as_ref().and_then(|r| r.moment.key()).unwrap_or(Key::Instant(at)), event))
            .collect();
        for (key, event) in self.single.into_iter().chain(alone) {
            let granted = budget.take(1, event.text_bytes());
            let occurrence = occurrence(&event, &event.start, event.length, name(key), master).filter(|_| granted == 1);
            calendar.occurrences.extend(occurrence);
        }
    }
}

/// The newest version. A cancellation often repeats nothing of the series it ends, so it ends the version before.
fn newest(newest_first: Vec<Event>) -> Option<Event> {
    let mut versions = newest_first.into_iter();
    let newest = versions.next()?;
    if newest.status != Status::Cancelled || newest.recurs() {
        return Some(newest);
    }
    match versions.find(Event::recurs) {
        Some(series) => Some(Event { status: Status::Cancelled, sequence: newest.sequence, ..series }),
        None => Some(newest),
    }
}

fn write_series(
    master: &Event,
    mut overrides: Overrides,
    reading: &Reading,
    budget: &Budget,
    calendar: &mut Calendar,
) -> Result<(), Flaw> {
    let truncated = |cut| Truncated { uid: master.uid.clone(), title: master.title.clone(), cut };
    if budget.is_spent() {
        calendar.truncated.push(truncated(Cut::Memory));
        return Ok(());
    }
    let (mut starts, mut cut) = starts(master, reading, budget)?;
    if starts.is_empty() {
        let reason = Flaw::EndsBeforeStart.to_string();
        calendar.skipped.push(Skipped { what: master.uid.clone(), reason });
    }
    let removed: HashSet<_> = master.removed.iter().filter_map(Moment::key).collect();
    let days_removed: HashSet<_> = master.removed.iter().map(|moment| Key::Day(moment.clock.date())).collect();
    starts.retain(|_, (moment, _)| {
        let by_day = Key::Day(moment.clock.date());
        // A day without a time removes what begins on it; and from whole days a time removes its day.
        let taken = if moment.all_day { days_removed.contains(&by_day) } else { removed.contains(&by_day) };
        !taken && moment.key().is_none_or(|key| !removed.contains(&key))
    });

    if starts.len() > reading.max_occurrences_per_series {
        cut = Some(Cut::Occurrences(reading.max_occurrences_per_series));
    }
    let wanted = starts.len().min(reading.max_occurrences_per_series);
    let largest = overrides.following.values().map(Event::text_bytes).chain([master.text_bytes()]).max().unwrap_or(0);
    let granted = budget.take(wanted, largest);
    if granted < wanted {
        cut = Some(Cut::Memory);
    }
    let left_out = starts.len() - granted;
    for (index, (at, (moment, length))) in starts.into_iter().enumerate() {
        let replaced = overrides.take(&moment);
        if index < left_out {
            continue;
        }
        let recurrence = if master.recurs() { moment.key().map(name).unwrap_or_default() } else { String::new() };
        let written = match (&replaced, overrides.following(at)) {
            (Some(event), _) => occurrence(event, &event.start, event.length, recurrence, Some(master)),
            (None, Some(event)) => {
                moved(event, &moment, at).and_then(|moment| occurrence(event, &moment, event.length, recurrence, Some(master)))
            }
            (None, None) => occurrence(master, &moment, length, recurrence, None),
        };
        calendar.occurrences.extend(written);
    }
    overrides.rest(Some(master), budget, calendar);
    calendar.truncated.extend(cut.map(truncated));
    Ok(())
}

type Starts = BTreeMap<Timestamp, (Moment, Length)>;

/// When the series takes place, before anything is removed or replaced.
fn starts(master: &Event, reading: &Reading, budget: &Budget) -> Result<(Starts, Option<Cut>), Flaw> {
    let start = &master.start;
    let horizon = start.zone.clock(reading.until);
    let most = reading.max_occurrences_per_series.saturating_mul(DATES_PER_OCCURRENCE);
    let mut starts = Starts::new();
    let mut cut = None;
    let mut ended = false;
    let add = |starts: &mut Starts, moment: Moment, length| {
        if let Some(at) = moment.instant() {
            starts.entry(at).or_insert((moment, length));
        }
    };
    for rule in &master.rules {
        // The event is not in the calendar then, and neither is the file.
        if budget.is_out_of_time() {
            return Err(Flaw::TooSlow);
        }
        let ends = rule.until.as_ref().map(|until| last(until, start)).transpose()?;
        ended |= ends.is_some_and(|ends| ends < start.clock);
        // What recurs by the minute is no appointment, and can take long to compute: it gets no start on the others.
        let by_minute = matches!(rule.freq, ICalendarFrequency::Minutely | ICalendarFrequency::Secondly);
        let most = if by_minute { reading.max_occurrences_per_series } else { most };
        let dates = dates(rule, start.clock, ends.map_or(horizon, |ends| ends.min(horizon)), most)?;
        let complete = match (ends, rule.count) {
            (Some(ends), _) => ends <= horizon,
            (None, Some(count)) => dates.len() >= count as usize,
            (None, None) => false,
        };
        if dates.len() == most {
            cut = Some(Cut::Occurrences(reading.max_occurrences_per_series));
        } else if !complete {
            cut = cut.or(Some(Cut::Horizon(reading.until)));
        }
        dates.into_iter().for_each(|date| add(&mut starts, start.at(date), master.length));
        // Several rules have together as many dates as one may have.
        while starts.len() > reading.max_occurrences_per_series.saturating_mul(DATES_PER_OCCURRENCE) {
            starts.pop_first();
            cut = Some(Cut::Occurrences(reading.max_occurrences_per_series));
        }
    }
    // DTSTART is the first occurrence whether the rule names it or not, except of a series that ended before it: that is
    // how some programs write one that was deleted from its first occurrence on.
    if !ended {
        add(&mut starts, start.clone(), master.length);
    }
    for (moment, length) in &master.added {
        // A date said in UTC belongs to the series' zone all the same.
        let here = moment.instant().filter(|_| !moment.all_day && !start.all_day).map(|at| start.at(start.zone.clock(at)));
        let here = here.filter(|here| here.instant() == moment.instant());
        add(&mut starts, here.unwrap_or_else(|| moment.clone()), *length);
    }
    Ok((starts, cut))
}

/// The last clock time that UNTIL admits.
fn last(until: &PartialDateTime, start: &Moment) -> Result<DateTime, Flaw> {
    let said = clock(until).ok_or(Flaw::NotADate("recurrence end (UNTIL)"))?;
    Ok(match (until.hour, until.tz_hour) {
        // A day includes what begins on it.
        (None, _) => said.date().at(23, 59, 59, 0),
        // The last second of the year 9999 is a way to say "endless", and no instant any more.
        (Some(_), Some(_)) => start.zone.clock(Offset::UTC.to_timestamp(said).unwrap_or(Timestamp::MAX)),
        (Some(_), None) => said,
    })
}

/// Where an override of "this and following" puts a later occurrence: as far from its date as the first one.
fn moved(event: &Event, moment: &Moment, at: Timestamp) -> Option<Moment> {
    let first = event.replaces.as_ref()?.moment.instant()?;
    let here = |at| if moment.all_day { moment.zone.clock(at) } else { event.start.zone.clock(at) };
    let shift = here(first).duration_until(event.start.clock);
    Some(event.start.at(here(at).checked_add(shift).ok()?))
}

/// One occurrence as `event` describes it. A cancelled series takes every one of its occurrences along.
fn occurrence(event: &Event, start: &Moment, length: Length, recurrence: String, series: Option<&Event>) -> Option<Occurrence> {
    let called_off = series.is_some_and(|series| series.status == Status::Cancelled);
    Some(Occurrence {
        uid: event.uid.clone(),
        recurrence,
        sequence: event.sequence,
        title: event.title.clone(),
        description: event.description.clone(),
        location: event.location.clone(),
        starts_at: start.instant()?,
        ends_at: start.end(length)?,
        time_zone: start.zone.name.to_string(),
        all_day: start.all_day,
        status: if called_off { Status::Cancelled } else { event.status },
        blocks: event.blocks,
    })
}

fn name(key: Key) -> String {
    match key {
        Key::Day(day) => day.to_string(),
        Key::Instant(at) => at.to_string(),
    }
}

fn partial(clock: DateTime) -> Result<PartialDateTime, Flaw> {
    // Years before 1 have no four digits, and a calendar that reaches them is not about appointments.
    if clock.year() < 1 {
        return Err(Flaw::OutOfRange("start"));
    }
    let at = Offset::UTC.to_timestamp(clock).map_err(|_| Flaw::OutOfRange("start"))?;
    Ok(PartialDateTime::from_naive_timestamp(at.as_second()))
}
