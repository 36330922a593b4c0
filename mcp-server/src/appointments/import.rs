//! Bringing a calendar file into a user's appointments.
//!
//! What must stay true: a file is imported as a whole or not at all, importing it again changes nothing, and a slot that was
//! booked here stays booked: an imported appointment that overlaps one is kept, takes no time, and is reported.
//!
//! Imports of one user take turns by an advisory lock, tried and not waited for: two files with the same series would
//! otherwise lock its rows in different orders. Bookings go on meanwhile; one that comes between is met by a second attempt.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    fmt,
    ops::Range,
    time::Duration,
};

use bg_runtime::{
    database::{DatabaseError, Row, SqlState, Transaction, Type},
    storage::backfill::Progress,
};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Appointments,
    calendar::{self, Calendar, Cut, Occurrence, Reading, Status},
    time::{Clock, Stamp},
    user,
};

/// What an import did, or would do.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// The calendar's name, if it has one.
    pub calendar: Option<String>,
    /// Appointments that are new.
    pub added: u64,
    /// Appointments that are not what they were.
    pub updated: u64,
    /// Appointments that are what they were, or newer than in the file.
    pub unchanged: u64,
    /// Dates that their series no longer has.
    pub removed: u64,
    /// Appointments that the calendar called off.
    pub cancelled: u64,
    /// Appointments that lie over a booking.
    pub overlapping: Vec<Overlap>,
    /// What was left out, and why.
    pub skipped: Vec<Remark>,
    /// Series that were not written out to their end, and why.
    pub shortened: Vec<Remark>,
}

/// An imported appointment that lies over a booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlap {
    /// The imported one's title.
    pub title: String,
    /// When it begins, as RFC 3339.
    pub starts_at: String,
    /// The title of the booking.
    pub booking: String,
}

/// Something in the file that is not, or not wholly, among the appointments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// Its title, its UID, or its place in the file.
    pub what: String,
    /// Why, for a person.
    pub reason: String,
}

/// Why a file was not imported. Nothing of it is stored then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The user cannot be one.
    #[error("the user is not valid")]
    User(#[source] Box<dyn Error + Send + Sync>),
    /// The file cannot be read.
    #[error("the calendar cannot be read")]
    Calendar(#[source] Box<dyn Error + Send + Sync>),
    /// Our mistake.
    #[error("reading the calendar broke down")]
    Reader(#[from] tokio::task::JoinError),
    /// Another import of the same user.
    #[error("another import for this user is running, and did not end within {} seconds", waited.as_secs())]
    Busy {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The database failed.
    #[error("the appointments cannot be written")]
    Database(#[from] DatabaseError),
}

/// All that the file says of one UID.
#[derive(Debug, PartialEq, Eq)]
struct Series {
    occurrences: Range<usize>,
    sequence: i64,
    /// What is stored of it up to here and is not in the file is no longer part of it.
    complete_until: Stamp,
    /// None of it takes place any more.
    called_off: bool,
}

/// What was not learned from the file but from the database.
#[derive(Debug, Default)]
struct Outcome {
    imported: Imported,
    /// The UIDs of which a newer revision was there.
    older: Vec<String>,
}

enum Attempt {
    Done(Outcome),
    /// Another import has the lock.
    NotOurTurn,
    /// A migration came between.
    Disturbed(DatabaseError),
}

/// Rows per statement. A statement must end well within the time one may take, and a series is never split.
const BATCH: usize = 500;

/// How long another import of the same user is waited for, which may be as large as files get; and how long bookings may come
/// between before an import gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// How often an import is begun again because of a migration that came between.
const ATTEMPTS: usize = 5;

/// The namespace of imported appointments' ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d0c_7c1e_9f0b_4f6e_8a53_2f1b_7d94_c0a1);

/// One batch: `file` has its occurrences, `series` its UIDs.
///
/// Only a hash can make a full join, so what is compared here takes linear time whatever the planner believes of the sizes;
/// what it would loop over otherwise, it may believe to be empty. Bookings are taken out of the table by their times first: a
/// policy of row-level security lets no index find by ranges. All parts see the table as it was before, which is how the
/// last one tells what was new.
const WRITE: &str = "WITH file AS MATERIALIZED (\
SELECT * FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS f(id, uid, recurrence, sequence, title, \
description, location, starts_at, ends_at, time_zone, all_day, status, blocks)\
), stored AS MATERIALIZED (\
SELECT id, source_uid AS uid, source_recurrence AS recurrence, source_sequence AS sequence, status, starts_at \
FROM appointments WHERE user_id = $1 AND source_uid = ANY ($15)\
), series AS MATERIALIZED (\
SELECT s.*, known.uid IS NOT NULL AS is_known, known.sequence IS NOT NULL AND s.sequence < known.sequence AS is_older \
FROM unnest($15, $16, $17, $18) AS s(uid, sequence, complete_until, called_off) \
LEFT JOIN (SELECT uid, min(sequence) AS sequence FROM stored GROUP BY uid) AS known USING (uid)\
), compared AS MATERIALIZED (\
SELECT uid, recurrence, file.id, file.sequence, file.title, file.description, file.location, file.starts_at, file.ends_at, \
file.time_zone, file.all_day, file.status, file.blocks, stored.id AS stored_id, stored.starts_at AS stored_starts_at \
FROM file FULL JOIN stored USING (uid, recurrence)\
), gone AS MATERIALIZED (\
SELECT stored_id AS id, series.called_off, series.sequence FROM compared JOIN series USING (uid) \
WHERE compared.id IS NULL AND NOT is_older AND (series.called_off OR stored_starts_at <= complete_until)\
), removed AS (\
DELETE FROM appointments AS a USING gone WHERE a.id = gone.id AND NOT gone.called_off RETURNING a.id\
), called_off AS (\
UPDATE appointments AS a SET status = 'cancelled', source_sequence = greatest(a.source_sequence, gone.sequence), \
updated_at = now() FROM gone WHERE a.id = gone.id AND gone.called_off AND a.status <> 'cancelled' RETURNING a.id\
), booked AS MATERIALIZED (\
SELECT id, title, starts_at, ends_at FROM appointments WHERE user_id = $1 AND source_uid IS NULL AND blocks \
AND status <> 'cancelled' AND starts_at < (SELECT max(ends_at) FROM file) AND ends_at > (SELECT min(starts_at) FROM file)\
), fresh AS MATERIALIZED (\
SELECT compared.*, booking.title AS booking FROM compared JOIN series USING (uid) \
LEFT JOIN LATERAL (\
SELECT b.title FROM booked AS b WHERE compared.blocks AND compared.status <> 'cancelled' \
AND tstzrange(b.starts_at, b.ends_at) && tstzrange(compared.starts_at, compared.ends_at) ORDER BY b.starts_at, b.id LIMIT 1\
) AS booking ON true \
WHERE compared.id IS NOT NULL AND NOT is_older AND (NOT called_off OR stored_id IS NOT NULL OR NOT is_known)\
), written AS (\
INSERT INTO appointments AS a (id, lane, user_id, source_uid, source_recurrence, source_sequence, title, description, location, \
starts_at, ends_at, time_zone, all_day, status, blocks) \
SELECT id, '00000000-0000-0000-0000-000000000000', $1, uid, recurrence, sequence, title, description, location, \
starts_at, ends_at, time_zone, all_day, status, blocks AND booking IS NULL FROM fresh \
ON CONFLICT (user_id, source_uid, source_recurrence) WHERE source_uid IS NOT NULL DO UPDATE SET \
source_sequence = excluded.source_sequence, title = excluded.title, description = excluded.description, \
location = excluded.location, starts_at = excluded.starts_at, ends_at = excluded.ends_at, time_zone = excluded.time_zone, \
all_day = excluded.all_day, status = excluded.status, blocks = excluded.blocks, updated_at = now() \
WHERE excluded.source_sequence >= a.source_sequence \
AND (a.source_sequence, a.title, a.description, a.location, a.starts_at, a.ends_at, a.time_zone, a.all_day, a.status, a.blocks) \
IS DISTINCT FROM (excluded.source_sequence, excluded.title, excluded.description, excluded.location, excluded.starts_at, \
excluded.ends_at, excluded.time_zone, excluded.all_day, excluded.status, excluded.blocks) RETURNING a.id, a.status\
), judged AS MATERIALIZED (\
SELECT id NOT IN (SELECT id FROM stored) AS is_new, \
status = 'cancelled' AND id IN (SELECT id FROM stored WHERE status <> 'cancelled') AS ends FROM written\
) SELECT (SELECT count(*) FROM judged WHERE is_new), \
(SELECT count(*) FROM judged WHERE NOT is_new AND NOT ends), \
(SELECT count(*) FROM fresh) - (SELECT count(*) FROM judged), \
(SELECT count(*) FROM removed), \
(SELECT count(*) FROM judged WHERE ends) + (SELECT count(*) FROM called_off), \
ARRAY(SELECT title FROM fresh WHERE booking IS NOT NULL ORDER BY starts_at, id), \
ARRAY(SELECT starts_at FROM fresh WHERE booking IS NOT NULL ORDER BY starts_at, id), \
ARRAY(SELECT booking FROM fresh WHERE booking IS NOT NULL ORDER BY starts_at, id), \
ARRAY(SELECT uid FROM series WHERE is_older ORDER BY uid)";

/// Imports an iCalendar file. Times that name no zone are meant in `zone`, and no series is followed beyond `until`. A dry
/// run does everything and undoes it.
///
/// # Errors
///
/// See [`ImportError`].
pub async fn import(
    appointments: &Appointments,
    bytes: Vec<u8>,
    user_id: &str,
    zone: TimeZone,
    until: Timestamp,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Imported, ImportError> {
    let user_id = user(user_id).map_err(|error| ImportError::User(error.into()))?;
    progress.doing("reading", 0);
    // Reading is work without a pause, and would hold up a whole thread of the runtime.
    let mut calendar = tokio::task::spawn_blocking(move || calendar::read(&bytes, &Reading::new(zone, until)))
        .await?
        .map_err(|error| ImportError::Calendar(error.into()))?;
    progress.doing("writing", calendar.occurrences.len() as u64);
    let series = series(&mut calendar);
    let outcome = write(appointments, user_id, &calendar.occurrences, &series, dry_run, progress).await?;
    Ok(report(calendar, outcome))
}

/// Sorts the occurrences by UID, and says what the file knows of each.
fn series(calendar: &mut Calendar) -> Vec<Series> {
    calendar.occurrences.sort_by(|a, b| (&a.uid, &a.recurrence).cmp(&(&b.uid, &b.recurrence)));
    let occurrences = &calendar.occurrences;
    let cuts: HashMap<&str, Cut> = calendar.truncated.iter().map(|cut| (cut.uid.as_str(), cut.cut)).collect();
    let flawed: HashSet<&str> = calendar.skipped.iter().map(|skipped| skipped.what.trim_end_matches('…')).collect();
    let mut series = Vec::new();
    let mut begin = 0;
    for same in occurrences.chunk_by(|a, b| a.uid == b.uid) {
        let uid = same[0].uid.as_str();
        // What was skipped is named by at most so much of its UID.
        let name = uid.char_indices().nth(200).map_or(uid, |(end, _)| &uid[..end]);
        // One date of a series may be all that an invitation is about, and says nothing of the others. Neither does a
        // series of which a part could not be read.
        let is_whole = (same.len() > 1 || same[0].recurrence.is_empty()) && !flawed.contains(name);
        let complete_until = match cuts.get(uid) {
            None if is_whole => Stamp::MAX,
            Some(Cut::Horizon(until)) if is_whole => Stamp::from(*until),
            _ => Stamp::MIN,
        };
        series.push(Series {
            occurrences: begin..begin + same.len(),
            sequence: same.iter().map(|occurrence| occurrence.sequence).min().expect("a chunk is not empty"),
            complete_until,
            called_off: is_whole && same.iter().all(|occurrence| occurrence.status == Status::Cancelled),
        });
        begin += same.len();
    }
    series
}

async fn write(
    appointments: &Appointments,
    user_id: &str,
    occurrences: &[Occurrence],
    series: &[Series],
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Outcome, ImportError> {
    let until = Instant::now() + PATIENCE;
    let mut disturbances = 0;
    loop {
        match attempt(appointments, user_id, occurrences, series, dry_run, progress).await? {
            Attempt::Done(outcome) => return Ok(outcome),
            Attempt::NotOurTurn if Instant::now() >= until => return Err(ImportError::Busy { waited: PATIENCE }),
            Attempt::NotOurTurn => tokio::time::sleep(PAUSE).await,
            Attempt::Disturbed(error) => {
                disturbances += 1;
                if disturbances == ATTEMPTS {
                    return Err(error.into());
                }
                progress.done(0);
            }
        }
    }
}

async fn attempt(
    appointments: &Appointments,
    user_id: &str,
    occurrences: &[Occurrence],
    series: &[Series],
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Attempt, DatabaseError> {
    let mut connection = appointments.database.get().await?;
    let transaction = connection.transaction().await?;
    let lock = lock(user_id);
    let turn = transaction.query_opt("SELECT pg_try_advisory_xact_lock($1)", &[(&lock, Type::INT8)]).await?;
    if !turn.is_some_and(|row| row.get(0)) {
        transaction.rollback().await?;
        return Ok(Attempt::NotOurTurn);
    }
    let mut outcome = Outcome::default();
    for batch in batches(series) {
        let written = match write_undisturbed(&transaction, user_id, occurrences, batch).await {
            Ok(written) => written,
            Err(error @ DatabaseError::Stale) => {
                transaction.rollback().await?;
                return Ok(Attempt::Disturbed(error));
            }
            Err(error) => return Err(error),
        };
        outcome.add(&written);
        progress.done(batch.last().map_or(0, |series| series.occurrences.end as u64));
    }
    if dry_run {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    Ok(Attempt::Done(outcome))
}

/// The advisory lock of a user's imports.
fn lock(user_id: &str) -> i64 {
    let (key, _) = Uuid::new_v5(&NAMESPACE, user_id.as_bytes()).as_u64_pair();
    key.cast_signed()
}

/// Groups of whole series with about [`BATCH`] occurrences each.
fn batches(series: &[Series]) -> impl Iterator<Item = &[Series]> {
    let mut size = 0;
    series.chunk_by(move |before, _| {
        size += before.occurrences.len();
        let fits = size < BATCH;
        if !fits {
            size = 0;
        }
        fits
    })
}

/// Writes a batch again when a booking came between, which is then seen. Only the batch: what is written keeps its slots.
async fn write_undisturbed(
    transaction: &Transaction<'_>,
    user_id: &str,
    occurrences: &[Occurrence],
    series: &[Series],
) -> Result<Row, DatabaseError> {
    let until = Instant::now() + PATIENCE;
    loop {
        transaction.mark().await?;
        match write_batch(transaction, user_id, occurrences, series).await {
            Err(error) if is_disturbance(&error) && Instant::now() < until => transaction.back().await?,
            written => return written,
        }
    }
}

async fn write_batch(
    transaction: &Transaction<'_>,
    user_id: &str,
    occurrences: &[Occurrence],
    series: &[Series],
) -> Result<Row, DatabaseError> {
    let [Some(first), Some(last)] = [series.first(), series.last()] else { unreachable!("a chunk is not empty") };
    let file = &occurrences[first.occurrences.start..last.occurrences.end];
    let ids = column(file, |occurrence| id(user_id, occurrence));
    let uids = column(file, |occurrence| occurrence.uid.as_str());
    let recurrences = column(file, |occurrence| occurrence.recurrence.as_str());
    let sequences = column(file, |occurrence| occurrence.sequence);
    let titles = column(file, |occurrence| occurrence.title.as_str());
    let descriptions = column(file, |occurrence| occurrence.description.as_deref());
    let locations = column(file, |occurrence| occurrence.location.as_deref());
    let starts = column(file, |occurrence| Stamp::from(occurrence.starts_at));
    let ends = column(file, |occurrence| Stamp::from(occurrence.ends_at));
    let zones = column(file, |occurrence| occurrence.time_zone.as_str());
    let all_day = column(file, |occurrence| occurrence.all_day);
    let statuses = column(file, |occurrence| match occurrence.status {
        Status::Confirmed => "confirmed",
        Status::Pending => "pending",
        Status::Cancelled => "cancelled",
    });
    let blocks = column(file, |occurrence| occurrence.blocks);
    let series_uids = column(series, |series| occurrences[series.occurrences.start].uid.as_str());
    let series_sequences = column(series, |series| series.sequence);
    let complete_until = column(series, |series| series.complete_until);
    let called_off = column(series, |series| series.called_off);
    let parameters = [
        (&user_id as _, Type::TEXT),
        (&ids as _, Type::UUID_ARRAY),
        (&uids as _, Type::TEXT_ARRAY),
        (&recurrences as _, Type::TEXT_ARRAY),
        (&sequences as _, Type::INT8_ARRAY),
        (&titles as _, Type::TEXT_ARRAY),
        (&descriptions as _, Type::TEXT_ARRAY),
        (&locations as _, Type::TEXT_ARRAY),
        (&starts as _, Type::TIMESTAMPTZ_ARRAY),
        (&ends as _, Type::TIMESTAMPTZ_ARRAY),
        (&zones as _, Type::TEXT_ARRAY),
        (&all_day as _, Type::BOOL_ARRAY),
        (&statuses as _, Type::TEXT_ARRAY),
        (&blocks as _, Type::BOOL_ARRAY),
        (&series_uids as _, Type::TEXT_ARRAY),
        (&series_sequences as _, Type::INT8_ARRAY),
        (&complete_until as _, Type::TIMESTAMPTZ_ARRAY),
        (&called_off as _, Type::BOOL_ARRAY),
    ];
    Ok(transaction.query_opt(WRITE, &parameters).await?.expect("a SELECT of aggregates gives a row"))
}

fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

/// The same occurrence has the same id wherever and however often it is imported.
fn id(user_id: &str, occurrence: &Occurrence) -> Uuid {
    // No part can hold a NUL, so no two occurrences have one name.
    let name = [user_id, &occurrence.uid, &occurrence.recurrence].join("\0");
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

/// Whether the same batch would do better a moment later, because of a booking.
fn is_disturbance(error: &DatabaseError) -> bool {
    let slot_taken = error.constraint() == Some("appointments_slot_taken");
    let deadlock = error.sql_state() == Some(&SqlState::T_R_DEADLOCK_DETECTED);
    slot_taken || deadlock
}

/// What the file and the database say, as one.
fn report(calendar: Calendar, outcome: Outcome) -> Imported {
    let remark = |what, reason| Remark { what, reason };
    let skipped = calendar.skipped.into_iter().map(|skipped| remark(skipped.what, skipped.reason));
    let older = outcome.older.into_iter().map(|uid| remark(uid, "a newer revision of it was imported before".to_owned()));
    let shortened = calendar.truncated.into_iter().map(|series| remark(series.title, series.cut.to_string()));
    Imported {
        calendar: calendar.name,
        skipped: skipped.chain(older).collect(),
        shortened: shortened.collect(),
        ..outcome.imported
    }
}

// === impl Imported ===

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(calendar) = &self.calendar {
            write!(f, "{calendar}: ")?;
        }
        let Self { added, updated, unchanged, removed, cancelled, .. } = self;
        write!(f, "{added} added, {updated} updated, {unchanged} unchanged, {removed} removed, {cancelled} cancelled")?;
        for Overlap { title, starts_at, booking } in &self.overlapping {
            write!(f, "\noverlaps: {title} at {starts_at} lies over the booking {booking}, and takes no time")?;
        }
        for Remark { what, reason } in &self.skipped {
            write!(f, "\nskipped: {what}: {reason}")?;
        }
        for Remark { what, reason } in &self.shortened {
            write!(f, "\nshortened: {what}: {reason}")?;
        }
        Ok(())
    }
}

// === impl Outcome ===

impl Outcome {
    fn add(&mut self, row: &Row) {
        let count = |index| u64::try_from(row.get::<_, i64>(index)).expect("a count is not negative");
        let imported = &mut self.imported;
        imported.added += count(0);
        imported.updated += count(1);
        imported.unchanged += count(2);
        imported.removed += count(3);
        imported.cancelled += count(4);
        let titles: Vec<String> = row.get(5);
        let starts: Vec<Stamp> = row.get(6);
        let bookings: Vec<String> = row.get(7);
        let overlaps = titles.into_iter().zip(starts).zip(bookings).map(|((title, starts_at), booking)| Overlap {
            title,
            starts_at: Clock::utc(starts_at).to_string(),
            booking,
        });
        imported.overlapping.extend(overlaps);
        self.older.extend(row.get::<_, Vec<String>>(8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Calendar {
        let until = "2027-01-01T00:00:00Z".parse().unwrap();
        calendar::read(text.as_bytes(), &Reading::new(TimeZone::UTC, until)).unwrap()
    }

    fn event(lines: &str) -> String {
        format!("BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTAMP:20260101T000000Z\n{lines}\nEND:VEVENT\nEND:VCALENDAR\n")
    }

    #[test]
    fn what_a_file_leaves_out_is_gone_only_where_the_file_is_complete() {
        for (lines, complete_until, called_off) in [
            ("UID:one\nDTSTART:20260105T090000Z", Stamp::MAX, false),
            ("UID:all\nDTSTART:20260105T090000Z\nRRULE:FREQ=DAILY;COUNT=3", Stamp::MAX, false),
            (
                "UID:on\nDTSTART:20260105T090000Z\nRRULE:FREQ=DAILY",
                Stamp::from("2027-01-01T00:00:00Z".parse::<Timestamp>().unwrap()),
                false,
            ),
            ("UID:date\nRECURRENCE-ID:20260105T090000Z\nDTSTART:20260105T100000Z", Stamp::MIN, false),
            ("UID:date\nRECURRENCE-ID:20260105T090000Z\nDTSTART:20260105T090000Z\nSTATUS:CANCELLED", Stamp::MIN, false),
            ("UID:off\nDTSTART:20260105T090000Z\nSTATUS:CANCELLED", Stamp::MAX, true),
        ] {
            let series = series(&mut read(&event(lines)));
            assert_eq!(series.len(), 1, "{lines}");
            assert_eq!((series[0].complete_until, series[0].called_off), (complete_until, called_off), "{lines}");
        }
    }

    #[test]
    fn no_series_is_split_between_batches() {
        let lengths = [1, 498, 1, 1, 5000, 1, 300, 300];
        let mut begin = 0;
        let series: Vec<Series> = lengths
            .iter()
            .map(|length| {
                let occurrences = begin..begin + length;
                begin += length;
                Series { occurrences, sequence: 0, complete_until: Stamp::MAX, called_off: false }
            })
            .collect();
        let sizes: Vec<Vec<usize>> =
            batches(&series).map(|batch| batch.iter().map(|series| series.occurrences.len()).collect()).collect();
        assert_eq!(sizes, [vec![1, 498, 1], vec![1, 5000], vec![1, 300, 300]]);
    }

    #[test]
    fn an_occurrence_keeps_its_id() {
        let calendar = read(&event("UID:a\nDTSTART:20260105T090000Z\nRRULE:FREQ=DAILY;COUNT=2"));
        let [first, second] = &calendar.occurrences[..] else { panic!("two occurrences") };
        assert_eq!(id("u", first), id("u", &first.clone()));
        assert_ne!(id("u", first), id("u", second));
        assert_ne!(id("u", first), id("v", first));
    }
}
