//! `cancel_appointment`: gives a slot back. The appointment stays to be seen, with its status.

use schemars::JsonSchema;
use serde::Deserialize;
use widgets::APPOINTMENTS;

use super::{
    AppState, AppointmentError, Appointments, Changed, Drawn, WRITE,
    book::{changed, concerned},
    store::{Cancelled, id},
};
use crate::{
    Reply, Tool,
    audit::Audit,
    extract::{Parameters, Principal, State},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CancelAppointment {
    /// Whose appointment.
    #[schemars(required, length(min = 1, max = 200))]
    user_id: Option<String>,
    /// The id that search_appointments or book_appointment gave.
    appointment_id: String,
}

pub(super) fn tool() -> Tool<AppState> {
    Tool::new("cancel_appointment", cancel_appointment)
        .title("Cancel an appointment")
        .widget(&APPOINTMENTS)
        .says("Cancelling…", "Cancelled")
        .describe(
            "Cancels a booked appointment and frees its time. Confirm with the user first: it cannot be undone, only booked \
             anew. Appointments imported from a calendar are cancelled there, not here.",
        )
        .destructive()
        .scopes(&[WRITE])
        .whose("userId")
}

async fn cancel_appointment(
    State(appointments): State<Appointments>,
    caller: Principal,
    Parameters(wish): Parameters<CancelAppointment>,
    audit: Audit,
) -> Result<Reply<Drawn<Changed>>, AppointmentError> {
    let owner = appointments.owner(&caller, wish.user_id.as_deref())?;
    let (opening, appointment) = match appointments.cancel(owner, id(&wish.appointment_id)?).await? {
        Cancelled::Now(appointment) => ("Cancelled: ", appointment),
        Cancelled::Before(appointment) => ("It was cancelled already: ", appointment),
    };
    audit.concerns(concerned(&appointment));
    Ok(changed(opening, appointment))
}
