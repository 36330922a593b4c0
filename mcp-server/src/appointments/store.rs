//! The appointments in PostgreSQL.
//!
//! What must stay true: a slot is guarded by the constraint `appointments_slot_taken` and nothing else, so no order of
//! statements, releases or processes can give it twice. Every write is one statement, done or not done.

use std::fmt;

use bg_runtime::database::{Connection, Database, DatabaseError, Query, Row, SqlState, Type};
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::{
    Appointment, AppointmentError,
    search::Cursor,
    time::{Period, Stamp, Zones},
    user,
};
use crate::extract::Principal;

/// Everybody's appointments. Cheap to clone.
#[derive(Clone)]
pub struct Appointments {
    pub(super) database: Database,
    default_zone: TimeZone,
    foreign: ForeignUsers,
}

/// What is done about a call that names another user than the one who proved to call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignUsers {
    /// It is refused, and says so.
    #[default]
    Refuse,
    /// It is about the caller's own appointments all the same, for models that make names up.
    Ignore,
}

/// Whose appointments a call is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    pub(super) user_id: &'a str,
    /// Whether the caller proved to be this user. Then PostgreSQL holds it too; see [`row_security`](crate::row_security).
    is_proven: bool,
}

/// What to look for.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) starts_at: Stamp,
    pub(super) ends_at: Stamp,
    pub(super) after: Option<Cursor>,
    pub(super) limit: i64,
}

/// What to book.
#[derive(Debug)]
pub(super) struct Booking<'a> {
    pub(super) id: Uuid,
    pub(super) owner: Owner<'a>,
    pub(super) title: &'a str,
    pub(super) period: Period,
    pub(super) time_zone: &'a str,
    pub(super) location: Option<&'a str>,
    pub(super) description: Option<&'a str>,
}

/// How a booking went.
#[derive(Debug)]
pub(super) enum Booked {
    New(Appointment),
    /// The same appointment is there already.
    Before(Appointment),
}

/// Where to move an appointment.
#[derive(Debug)]
pub(super) struct Move<'a> {
    pub(super) id: Uuid,
    pub(super) owner: Owner<'a>,
    pub(super) starts_at: Stamp,
    /// `None` keeps the length.
    pub(super) ends_at: Option<Stamp>,
    pub(super) time_zone: &'a str,
}

/// How a cancellation went.
#[derive(Debug)]
pub(super) enum Cancelled {
    Now(Appointment),
    Before(Appointment),
}

/// The columns of an appointment, in the order of the constants below.
macro_rules! columns {
    () => {
        "id, title, starts_at, ends_at, location, status, time_zone, all_day, left(description, 200), source_uid IS NOT NULL"
    };
}

pub(super) const ID: usize = 0;
pub(super) const TITLE: usize = 1;
pub(super) const STARTS_AT: usize = 2;
pub(super) const ENDS_AT: usize = 3;
pub(super) const LOCATION: usize = 4;
pub(super) const STATUS: usize = 5;
pub(super) const TIME_ZONE: usize = 6;
pub(super) const ALL_DAY: usize = 7;
pub(super) const DESCRIPTION: usize = 8;
pub(super) const IMPORTED: usize = 9;

/// An appointment without a length is found at its moment, one that ends as the span begins is not. `ends_at >= $2` says
/// nothing new; it lets the index pass over what ended long ago.
const SEARCH: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM appointments WHERE user_id = $1 AND starts_at < $3 AND ends_at >= $2 AND (ends_at > $2 OR starts_at >= $2)",
    " AND (starts_at, id) > ($4, $5) ORDER BY starts_at, id LIMIT $6"
);

const FIND: &str = concat!("SELECT ", columns!(), " FROM appointments WHERE id = $1 AND user_id = $2");

/// The arbiter is named so that a taken slot is an empty answer and not a deadlock: without ON CONFLICT two bookings of
/// one slot may each write first and then wait for the other.
const BOOK: &str = concat!(
    "INSERT INTO appointments (id, lane, user_id, title, starts_at, ends_at, time_zone, location, description)",
    " VALUES ($1, $1, $2, $3, $4, $5, $6, $7, $8)",
    " ON CONFLICT ON CONSTRAINT appointments_slot_taken DO NOTHING RETURNING ",
    columns!()
);

/// What has the slot: the same booking before others, so that it can be told from them. That starts and ends overlap is said
/// in their own words too: PostgreSQL applies a policy before an operator that might leak, as that of ranges, so no index
/// finds by it.
const IN_THE_WAY: &str = concat!(
    "SELECT ",
    columns!(),
    ", source_uid IS NULL AND starts_at = $3 AND ends_at = $4 AND title = $5",
    " AND location IS NOT DISTINCT FROM $6 AND description IS NOT DISTINCT FROM $7",
    " FROM appointments WHERE user_id = $1 AND id <> $2 AND blocks AND status <> 'cancelled'",
    " AND starts_at < $4 AND ends_at > $3 AND tstzrange(starts_at, ends_at) && tstzrange($3, $4)",
    " ORDER BY 11 DESC, starts_at, id LIMIT 1"
);
const THE_SAME: usize = 10;

/// The length goes by seconds: adding an interval with days would go by the calendar of the connection's zone.
const RESCHEDULE: &str = concat!(
    "UPDATE appointments SET starts_at = $3, time_zone = $5, updated_at = now(),",
    " ends_at = coalesce($4, $3 + make_interval(secs => extract(epoch FROM ends_at - starts_at)::float8))",
    " WHERE id = $1 AND user_id = $2 AND source_uid IS NULL AND status <> 'cancelled' RETURNING ",
    columns!()
);

const CANCEL: &str = concat!(
    "UPDATE appointments SET status = 'cancelled', updated_at = now()",
    " WHERE id = $1 AND user_id = $2 AND source_uid IS NULL AND status <> 'cancelled' RETURNING ",
    columns!()
);

/// How often a write that met somebody else's is made again. Each round ends with somebody's success.
const ATTEMPTS: usize = 5;

// === impl Appointments ===

impl Appointments {
    /// The appointments in a database that has the schema of [`MIGRATIONS`](super::MIGRATIONS). Times that name no zone are
    /// meant in `default_zone`, which has an IANA name.
    pub fn new(database: Database, default_zone: TimeZone) -> Self {
        Self { database, default_zone, foreign: ForeignUsers::Refuse }
    }

    /// With this done about a `userId` that is not the caller's own.
    #[must_use]
    pub fn foreign_users(self, foreign: ForeignUsers) -> Self {
        Self { foreign, ..self }
    }

    /// Whose appointments a call is about: whoever proved to be somebody has their own, and no others.
    pub(super) fn owner<'a>(&self, caller: &'a Principal, said: Option<&'a str>) -> Result<Owner<'a>, AppointmentError> {
        match (caller.subject(), said) {
            (None, Some(said)) => user(said).map(|user_id| Owner { user_id, is_proven: false }),
            (None, None) => {
                Err(AppointmentError::Text { argument: "userId", problem: "is needed: nobody proved who calls".into() })
            }
            (Some(own), Some(said)) if own != said && self.foreign == ForeignUsers::Refuse => Err(AppointmentError::Foreign),
            // As it is, with its spaces: another one's name may differ in them alone.
            (Some(own), _) => user(own).map(|_| Owner { user_id: own, is_proven: true }),
        }
    }

    pub(super) fn default_zone(&self) -> &TimeZone {
        &self.default_zone
    }

    /// The appointments that touch a span, by start and id.
    pub(super) async fn search(&self, owner: Owner<'_>, span: &Span) -> Result<Vec<Appointment>, DatabaseError> {
        let after = span.after.unwrap_or(Cursor { starts_at: Stamp::MIN, id: Uuid::nil() });
        let parameters = [
            (&owner.user_id as _, Type::TEXT),
            (&span.starts_at as _, Type::TIMESTAMPTZ),
            (&span.ends_at as _, Type::TIMESTAMPTZ),
            (&after.starts_at as _, Type::TIMESTAMPTZ),
            (&after.id as _, Type::UUID),
            (&span.limit as _, Type::INT8),
        ];
        let rows = self.of(owner).await?.query(SEARCH, &parameters).await?;
        let mut zones = Zones::default();
        Ok(rows.iter().map(|row| Appointment::read(row, &mut zones)).collect())
    }

    /// An appointment that may be changed here.
    pub(super) async fn changeable(&self, owner: Owner<'_>, id: Uuid) -> Result<Appointment, AppointmentError> {
        let appointment = self.find(owner, id).await?.ok_or(AppointmentError::NotFound)?;
        if appointment.imported {
            return Err(AppointmentError::Imported { title: appointment.title });
        }
        if appointment.is_cancelled() {
            return Err(AppointmentError::Cancelled { title: appointment.title });
        }
        Ok(appointment)
    }

    /// Books a free slot.
    pub(super) async fn book(&self, on: &impl Query, booking: &Booking<'_>) -> Result<Booked, AppointmentError> {
        let parameters = [
            (&booking.id as _, Type::UUID),
            (&booking.owner.user_id as _, Type::TEXT),
            (&booking.title as _, Type::TEXT),
            (&booking.period.starts_at as _, Type::TIMESTAMPTZ),
            (&booking.period.ends_at as _, Type::TIMESTAMPTZ),
            (&booking.time_zone as _, Type::TEXT),
            (&booking.location as _, Type::TEXT),
            (&booking.description as _, Type::TEXT),
        ];
        for _ in 0..ATTEMPTS {
            if let Some(row) = on.query_opt(BOOK, &parameters).await? {
                return Ok(Booked::New(one(&row)));
            }
            match in_the_way(on, booking).await? {
                Some((appointment, true)) => return Ok(Booked::Before(appointment)),
                Some((appointment, false)) => return Err(AppointmentError::Taken { by: appointment.quoted() }),
                // It was given back in between.
                None => {}
            }
        }
        Err(AppointmentError::Contended)
    }

    /// Moves an appointment to a free slot.
    pub(super) async fn reschedule(&self, to: &Move<'_>) -> Result<Appointment, AppointmentError> {
        let parameters = [
            (&to.id as _, Type::UUID),
            (&to.owner.user_id as _, Type::TEXT),
            (&to.starts_at as _, Type::TIMESTAMPTZ),
            (&to.ends_at as _, Type::TIMESTAMPTZ),
            (&to.time_zone as _, Type::TEXT),
        ];
        for _ in 0..ATTEMPTS {
            let moved = self.of(to.owner).await?.query_opt(RESCHEDULE, &parameters).await;
            match moved {
                Ok(Some(row)) => return Ok(one(&row)),
                Err(error) if error.constraint() == Some("appointments_slot_taken") => {
                    if let Some(by) = self.in_the_way_of(to).await? {
                        return Err(AppointmentError::Taken { by: by.quoted() });
                    }
                }
                // Two that move into one slot may wait for each other until PostgreSQL ends one of them.
                Err(error) if error.sql_state() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {}
                Err(error) => return Err(error.into()),
                // It changed after it was looked at; looking again says how.
                Ok(None) => {
                    self.changeable(to.owner, to.id).await?;
                }
            }
        }
        Err(AppointmentError::Contended)
    }

    /// Cancels an appointment, unless it is cancelled.
    pub(super) async fn cancel(&self, owner: Owner<'_>, id: Uuid) -> Result<Cancelled, AppointmentError> {
        let parameters = [(&id as _, Type::UUID), (&owner.user_id as _, Type::TEXT)];
        if let Some(row) = self.of(owner).await?.query_opt(CANCEL, &parameters).await? {
            return Ok(Cancelled::Now(one(&row)));
        }
        let appointment = self.find(owner, id).await?.ok_or(AppointmentError::NotFound)?;
        if appointment.imported {
            return Err(AppointmentError::Imported { title: appointment.title });
        }
        Ok(Cancelled::Before(appointment))
    }

    /// A connection whose statements reach what is this owner's.
    pub(super) async fn of(&self, owner: Owner<'_>) -> Result<Connection, DatabaseError> {
        self.database.get_as(owner.is_proven.then_some(owner.user_id)).await
    }

    async fn find(&self, owner: Owner<'_>, id: Uuid) -> Result<Option<Appointment>, DatabaseError> {
        let parameters = [(&id as _, Type::UUID), (&owner.user_id as _, Type::TEXT)];
        Ok(self.of(owner).await?.query_opt(FIND, &parameters).await?.map(|row| one(&row)))
    }

    async fn in_the_way_of(&self, to: &Move<'_>) -> Result<Option<Appointment>, AppointmentError> {
        let before = self.changeable(to.owner, to.id).await?;
        let length = before.period.ends_at.0 - before.period.starts_at.0;
        let ends_at = to.ends_at.unwrap_or(Stamp(to.starts_at.0 + length));
        let booking = Booking {
            id: to.id,
            owner: to.owner,
            title: "",
            period: Period { starts_at: to.starts_at, ends_at },
            time_zone: to.time_zone,
            location: None,
            description: None,
        };
        Ok(in_the_way(&self.of(to.owner).await?, &booking).await?.map(|(appointment, _)| appointment))
    }
}

impl fmt::Debug for Appointments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appointments").field("database", &self.database).finish_non_exhaustive()
    }
}

/// What has the slot of a booking, and whether it is that very booking.
async fn in_the_way(on: &impl Query, booking: &Booking<'_>) -> Result<Option<(Appointment, bool)>, DatabaseError> {
    let parameters = [
        (&booking.owner.user_id as _, Type::TEXT),
        (&booking.id as _, Type::UUID),
        (&booking.period.starts_at as _, Type::TIMESTAMPTZ),
        (&booking.period.ends_at as _, Type::TIMESTAMPTZ),
        (&booking.title as _, Type::TEXT),
        (&booking.location as _, Type::TEXT),
        (&booking.description as _, Type::TEXT),
    ];
    let row = on.query_opt(IN_THE_WAY, &parameters).await?;
    Ok(row.map(|row| (one(&row), row.get(THE_SAME))))
}

/// The id that a caller gave. What is none names no appointment.
pub(super) fn id(said: &str) -> Result<Uuid, AppointmentError> {
    Uuid::try_parse(said.trim()).map_err(|_| AppointmentError::NotFound)
}

fn one(row: &Row) -> Appointment {
    Appointment::read(row, &mut Zones::default())
}
