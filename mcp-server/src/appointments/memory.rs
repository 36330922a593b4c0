//! What a conversation remembers for these tools: the zone that it speaks of. Who said once that they are in Berlin need not
//! say it again, whichever color answers.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{
    Appointments,
    time::{self, TimeError},
};
use crate::{
    conversation::{Conversation, ConversationError, ConversationState},
    error::Chain,
};

/// The state of a conversation. Another build reads and writes it at the same time.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    /// The IANA zone that was named last.
    #[serde(default)]
    time_zone: Option<String>,
}

impl ConversationState for Memory {}

/// The zone that is meant where a time says none: the one that the call names, which the conversation remembers from then on;
/// else the one that the conversation named last; else the server's.
///
/// A memory that fails is as good as none: nobody's search fails for it.
pub(super) async fn zone(
    appointments: &Appointments,
    conversation: Option<&Conversation<Memory>>,
    named: Option<&str>,
) -> Result<TimeZone, TimeError> {
    let Some(conversation) = conversation else { return without(appointments, named) };
    let named = named.map(time::zone).transpose()?;
    let remembered = match &named {
        Some(zone) => {
            let name = Some(time::zone_name(zone).to_owned());
            conversation.update(|memory| memory.time_zone.clone_from(&name)).await.map(|()| name)
        }
        None => conversation.read().await.map(|memory| memory.into_inner().time_zone),
    };
    let remembered = remembered.unwrap_or_else(|failure: ConversationError| {
        tracing::warn!(error = %Chain(&failure), "a conversation does not remember its zone: {failure}");
        None
    });
    // A zone that only another release knows is as good as none, too.
    let remembered = || remembered.and_then(|name| time::zone(&name).ok());
    Ok(named.or_else(remembered).unwrap_or_else(|| appointments.default_zone().clone()))
}

/// The zone that is meant when nothing is remembered.
pub(super) fn without(appointments: &Appointments, named: Option<&str>) -> Result<TimeZone, TimeError> {
    named.map_or_else(|| Ok(appointments.default_zone().clone()), time::zone)
}
