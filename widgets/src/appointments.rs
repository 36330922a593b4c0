//! The appointments widget: a user's appointments as a list and as a day, to search, book, move and cancel.
//!
//! It calls `search_appointments`, `book_appointment`, `reschedule_appointment` and `cancel_appointment`, and draws what any of
//! them answers. What must stay true: it needs nothing but this document, so the strictest policy of a host lets it work.

use crate::Widget;

/// A user's appointments: drawn, searched, booked, moved and cancelled.
pub static APPOINTMENTS: Widget = Widget::new("appointments", HTML)
    .title("Appointments")
    .description(
        "Shows the user's appointments as a list or as a day, and lets the user search, book, move and cancel them there. \
         The user sees everything that was found: do not repeat the list, say what matters in it.",
    )
    .prefers_border(true);

// The order is that of dependence: each script uses those before it, and the last one begins.
const HTML: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Appointments</title>\n<style>\n",
    include_str!("../assets/appointments.css"),
    "</style>\n</head>\n<body>\n",
    include_str!("../assets/appointments.html"),
    "<script>\n",
    include_str!("../assets/bridge.js"),
    "</script>\n<script>\n",
    include_str!("../assets/appointments/clock.js"),
    "</script>\n<script>\n",
    include_str!("../assets/appointments/calendar.js"),
    "</script>\n<script>\n",
    include_str!("../assets/appointments/list.js"),
    "</script>\n<script>\n",
    include_str!("../assets/appointments/day.js"),
    "</script>\n<script>\n",
    include_str!("../assets/appointments/dialogs.js"),
    "</script>\n<script>\n",
    include_str!("../assets/appointments/scene.js"),
    "</script>\n<script>\n",
    include_str!("../assets/appointments.js"),
    "</script>\n</body>\n</html>\n",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_needs_nothing_but_itself() {
        assert_eq!(APPOINTMENTS.mistakes(), Vec::<String>::new());
    }

    #[test]
    fn none_of_its_parts_ends_the_document_early() {
        // An asset that says `</script` somewhere would end the script it stands in.
        for (end, count) in [("</script", 8), ("</style", 1), ("</body", 1), ("</html", 1)] {
            assert_eq!(HTML.to_ascii_lowercase().matches(end).count(), count, "{end}");
        }
    }

    #[test]
    fn what_somebody_wrote_is_only_ever_text() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"] {
            assert!(!HTML.contains(way), "{way}");
        }
    }

    #[test]
    fn every_name_is_given_once() {
        let mut ids: Vec<_> = HTML.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }
}
