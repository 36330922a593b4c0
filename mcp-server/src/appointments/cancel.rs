//! `cancel_appointment`: gives a slot back. The appointment stays to be seen, with its status.

use schemars::JsonSchema;
use serde::Deserialize;
use widgets::APPOINTMENTS;

use super::{
    AppState, AppointmentError, Appointments, Changed, Drawn, WRITE,
    book::changed,
    store::{Cancelled, id},
};
use crate::{
    Reply, Tool,
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
) -> Result<Reply<Drawn<Changed>>, AppointmentError> {
    Ok(match appointments.cancel(appointments.owner(&caller, wish.user_id.as_deref())?, id(&wish.appointment_id)?).await? {
        Cancelled::Now(appointment) => changed("Cancelled: ", appointment),
        Cancelled::Before(appointment) => changed("It was cancelled already: ", appointment),
    })
}
