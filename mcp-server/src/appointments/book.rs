//! `book_appointment`: takes a slot, if nobody has it.
//!
//! What must stay true: a slot is given once, however many ask at the same time, and asking for the same appointment again
//! (a call whose answer was lost) books nothing more.

use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;
use widgets::APPOINTMENTS;

use super::{
    AppState, Appointment, AppointmentError, Appointments, Changed, Drawn, WRITE,
    memory::{self, Memory},
    store::{Booked, Booking},
    text,
    time::{self, Period, TimeError},
    words,
};
use crate::{
    Reply, Tool,
    answers::{Begun, Once},
    conversation::Conversation,
    extract::{Parameters, Principal, State},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BookAppointment {
    /// For whom.
    #[schemars(required, length(min = 1, max = 200))]
    user_id: Option<String>,
    /// What the appointment is about.
    #[schemars(length(min = 1, max = 200))]
    title: String,
    /// When it begins: with an offset (2026-12-25T09:00:00+01:00) or meant in timeZone (2026-12-25T09:00).
    starts_at: String,
    /// When it ends, written like startsAt. Give either this or durationMinutes.
    ends_at: Option<String>,
    /// How long it lasts. Give either this or endsAt.
    #[schemars(range(min = 1, max = time::LONGEST_MINUTES))]
    duration_minutes: Option<u32>,
    /// The IANA zone, such as Europe/Berlin, of times without an offset; the appointment is shown in it. Default: the
    /// one that this conversation named last, else the server's.
    time_zone: Option<String>,
    /// Where it takes place.
    #[schemars(length(max = 300))]
    location: Option<String>,
    /// What else there is to know.
    #[schemars(length(max = 4000))]
    description: Option<String>,
}

pub(super) fn tool() -> Tool<AppState> {
    Tool::new("book_appointment", book_appointment)
        .title("Book an appointment")
        .widget(&APPOINTMENTS)
        .says("Booking…", "Booked")
        .describe(
            "Books an appointment for a user. It fails, and says what is in the way, when the user has another appointment at \
             that time. Settle title, date, time and time zone with the user first.",
        )
        .additive()
        .scopes(&[WRITE])
        .whose("userId")
}

async fn book_appointment(
    State(appointments): State<Appointments>,
    caller: Principal,
    Parameters(wish): Parameters<BookAppointment>,
    conversation: Option<Conversation<Memory>>,
    once: Once,
) -> Result<Reply<Drawn<Changed>>, AppointmentError> {
    let zone = memory::zone(&appointments, conversation.as_ref(), wish.time_zone.as_deref()).await?;
    let starts_at = time::moment("startsAt", &wish.starts_at, &zone)?;
    let period = match (&wish.ends_at, wish.duration_minutes) {
        (Some(ends_at), None) => Period::of(starts_at, time::moment("endsAt", ends_at, &zone)?, &zone)?,
        (None, Some(minutes)) => Period::lasting(starts_at, minutes)?,
        _ => return Err(TimeError::OneEnd.into()),
    };
    let booking = Booking {
        id: Uuid::new_v4(),
        owner: appointments.owner(&caller, wish.user_id.as_deref())?,
        title: text("title", &wish.title, 200)?,
        period,
        time_zone: time::zone_name(&zone),
        location: optional("location", wish.location.as_deref(), 300)?,
        description: optional("description", wish.description.as_deref(), 4000)?,
    };
    let mut connection = appointments.of(booking.owner).await?;
    let act = match once.by_key().begin(&mut connection).await? {
        Begun::Before(reply) => return Ok(reply),
        Begun::First(act) => act,
    };
    let (opening, appointment) = match appointments.book(act.transaction(), &booking).await? {
        Booked::New(appointment) => ("Booked: ", appointment),
        Booked::Before(appointment) => ("This was booked before, and nothing was added: ", appointment),
    };
    act.concerns(concerned(&appointment));
    Ok(act.answer(changed(opening, appointment)).await?)
}

/// An optional text; an empty one is none.
fn optional<'a>(argument: &'static str, said: Option<&'a str>, most: usize) -> Result<Option<&'a str>, AppointmentError> {
    said.filter(|said| !said.trim().is_empty()).map(|said| text(argument, said, most)).transpose()
}

/// The appointment as the audit log names it.
pub(super) fn concerned(appointment: &Appointment) -> String {
    format!("appointment {}", appointment.id)
}

/// The reply of every tool that changes an appointment.
pub(super) fn changed(opening: &str, appointment: Appointment) -> Reply<Drawn<Changed>> {
    let mut out = Vec::from(opening);
    appointment.say(&mut out);
    Reply::new(Drawn::new(Changed { appointment }), words(out))
}
