//! `reschedule_appointment`: moves an appointment that was booked here.
//!
//! What must stay true: the old slot is given back and the new one taken in one statement, or neither.

use schemars::JsonSchema;
use serde::Deserialize;
use widgets::APPOINTMENTS;

use super::{
    AppState, AppointmentError, Appointments, Changed, Drawn, WRITE,
    book::{changed, concerned},
    store::{Move, id},
    time::{self, Period, TimeError},
};
use crate::{
    Reply, Tool,
    audit::Audit,
    extract::{Parameters, Principal, State},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RescheduleAppointment {
    /// Whose appointment.
    #[schemars(required, length(min = 1, max = 200))]
    user_id: Option<String>,
    /// The id that search_appointments or book_appointment gave.
    appointment_id: String,
    /// When it begins now: with an offset (2026-12-25T09:00:00+01:00) or meant in timeZone (2026-12-25T09:00).
    starts_at: String,
    /// When it ends now, written like startsAt. Without this and durationMinutes it lasts as long as before.
    ends_at: Option<String>,
    /// How long it lasts now.
    #[schemars(range(min = 1, max = time::LONGEST_MINUTES))]
    duration_minutes: Option<u32>,
    /// The IANA zone of times without an offset; the appointment is shown in it from now on. Default: the appointment's own.
    time_zone: Option<String>,
}

pub(super) fn tool() -> Tool<AppState> {
    Tool::new("reschedule_appointment", reschedule_appointment)
        .title("Reschedule an appointment")
        .widget(&APPOINTMENTS)
        .says("Moving the appointment…", "Moved")
        .describe(
            "Moves a booked appointment to another time. It fails, and says what is in the way, when the new time is taken; \
             the appointment then stays where it was. Appointments imported from a calendar are moved there, not here.",
        )
        .destructive()
        .scopes(&[WRITE])
        .whose("userId")
}

async fn reschedule_appointment(
    State(appointments): State<Appointments>,
    caller: Principal,
    Parameters(wish): Parameters<RescheduleAppointment>,
    audit: Audit,
) -> Result<Reply<Drawn<Changed>>, AppointmentError> {
    let owner = appointments.owner(&caller, wish.user_id.as_deref())?;
    let id = id(&wish.appointment_id)?;
    // Read first, because a clock time without a zone is meant in the appointment's own.
    let before = appointments.changeable(owner, id).await?;
    let zone = match &wish.time_zone {
        Some(name) => time::zone(name)?,
        // A zone that only another release knows does not keep an appointment from being moved.
        None => time::zone(&before.time_zone).or_else(|_| Ok::<_, TimeError>(appointments.default_zone().clone()))?,
    };
    let starts_at = time::moment("startsAt", &wish.starts_at, &zone)?;
    let ends_at = match (&wish.ends_at, wish.duration_minutes) {
        (Some(ends_at), None) => Some(Period::of(starts_at, time::moment("endsAt", ends_at, &zone)?, &zone)?.ends_at),
        (None, Some(minutes)) => Some(Period::lasting(starts_at, minutes)?.ends_at),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(TimeError::OneEnd.into()),
    };
    let moved = appointments.reschedule(&Move { id, owner, starts_at, ends_at, time_zone: time::zone_name(&zone) }).await?;
    audit.concerns(concerned(&moved));
    Ok(changed("Moved: ", moved))
}
