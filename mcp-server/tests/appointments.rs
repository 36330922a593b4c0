//! What the appointments server promises, asked over HTTP as a client would, against a PostgreSQL of the tests' own.
//!
//! The tests share the server that the first of them started; each has users of its own.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use bg_runtime::{
    Color, Release,
    database::{Database, DatabaseConfig, Type},
    storage::{Control, Replica, backfill::Progress},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use mcp_server::{
    appointments::{
        AppState, Appointments, MIGRATIONS, app,
        import::{self, ImportError, Imported, Remark},
    },
    testing::{self, Server},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn one_slot_is_given_once_however_many_ask() {
    let desk = Desk::open().await;
    within(LONG, async {
        let calls = (0..64).map(|caller| {
            // Not the same minute, but the same time.
            let starts_at = format!("2026-05-04T09:{:02}:00Z", caller % 30);
            let wish = json!({
                "userId": "rush", "title": format!("Caller {caller}"), "startsAt": starts_at, "durationMinutes": 45,
            });
            desk.server.call("book_appointment", wish)
        });
        let answers = futures_util::future::join_all(calls).await;
        let (booked, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer["isError"] == false);
        assert_eq!(booked.len(), 1, "{booked:?}");
        let winner = appointment(booked[0])["title"].as_str().unwrap();
        for answer in refused {
            assert!(words(answer).starts_with(&format!("that slot is taken by “{winner}”, 2026-05-04 09:")), "{answer}");
            assert!(answer.get("structuredContent").is_none());
        }
        assert_eq!(desk.search(json!({"userId": "rush"})).await.len(), 1);
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_for_the_same_appointment_books_nothing_more() {
    let desk = Desk::open().await;
    within(LONG, async {
        let wish = json!({
            "userId": "again", "title": "Tea", "startsAt": "2026-05-04T09:00", "endsAt": "2026-05-04T10:30",
            "timeZone": "Europe/Berlin", "location": "Room 4",
        });
        let first = desk.done("book_appointment", wish.clone()).await;
        let second = desk.done("book_appointment", wish.clone()).await;
        assert_eq!(appointment(&first), appointment(&second));
        assert_eq!(appointment(&first)["startsAt"], "2026-05-04T09:00:00+02:00");
        assert!(
            words(&second)
                .starts_with("This was booked before, and nothing was added: 2026-05-04 09:00 to 10:30 Europe/Berlin: Tea")
        );
        let mut other = wish;
        other["title"] = json!("Coffee");
        let refused = desk.refused("book_appointment", other).await;
        assert_eq!(
            refused,
            "that slot is taken by “Tea”, 2026-05-04 09:00 to 10:30 Europe/Berlin; search_appointments shows when there is time"
        );
        // What follows on it does not touch it.
        desk.book("again", "After", "2026-05-04T10:30:00+02:00").await;
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_moves_into_a_slot_and_the_others_stay() {
    let desk = Desk::open().await;
    within(LONG, async {
        let mut ids = Vec::new();
        for hour in 10..16 {
            ids.push(desk.book("movers", &format!("At {hour}"), &format!("2026-05-04T{hour}:00:00Z")).await);
        }
        let moves = ids.iter().map(|id| {
            let wish = json!({"userId": "movers", "appointmentId": id, "startsAt": "2026-05-05T09:00:00Z"});
            desk.server.call("reschedule_appointment", wish)
        });
        let answers = futures_util::future::join_all(moves).await;
        assert_eq!(answers.iter().filter(|answer| answer["isError"] == false).count(), 1, "{answers:?}");
        let moved = desk.search(json!({"userId": "movers", "startDate": "2026-05-05"})).await;
        assert_eq!(moved.len(), 1);
        assert_eq!(moved[0]["endsAt"], "2026-05-05T09:30:00Z", "it did not last as long as before");
        assert_eq!(desk.search(json!({"userId": "movers"})).await.len(), 6);
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appointment_is_moved_cancelled_and_its_slot_given_on() {
    let desk = Desk::open().await;
    within(LONG, async {
        let wish = json!({
            "userId": "life", "title": "Tea", "startsAt": "2026-10-24T12:00", "durationMinutes": 60, "timeZone": "Europe/Berlin",
        });
        let id = appointment(&desk.done("book_appointment", wish).await)["id"].as_str().unwrap().to_owned();
        // A clock time without a zone is meant in the appointment's own, here on the other side of a clock change.
        let wish = json!({"userId": "life", "appointmentId": id, "startsAt": "2026-10-26T12:00"});
        let moved = desk.done("reschedule_appointment", wish.clone()).await;
        assert_eq!(appointment(&moved)["startsAt"], "2026-10-26T12:00:00+01:00");
        assert_eq!(appointment(&moved)["endsAt"], "2026-10-26T13:00:00+01:00");
        assert_eq!(appointment(&desk.done("reschedule_appointment", wish.clone()).await), appointment(&moved));
        // Its own old slot is not in its way.
        let wish = json!({"userId": "life", "appointmentId": id, "startsAt": "2026-10-26T12:30", "durationMinutes": 15});
        assert_eq!(appointment(&desk.done("reschedule_appointment", wish.clone()).await)["endsAt"], "2026-10-26T12:45:00+01:00");

        let which = json!({"userId": "life", "appointmentId": id});
        let cancelled = desk.done("cancel_appointment", which.clone()).await;
        assert_eq!(appointment(&cancelled)["status"], "cancelled");
        let again = desk.done("cancel_appointment", which).await;
        assert!(words(&again).starts_with("It was cancelled already: "), "{again}");
        assert_eq!(desk.refused("reschedule_appointment", wish).await, "“Tea” is cancelled; book a new appointment instead");
        desk.book("life", "Other", "2026-10-26T12:30:00+01:00").await;
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_mistake_is_said_and_what_to_do_about_it() {
    let desk = Desk::open().await;
    within(LONG, async {
        let book = |changes: Value| {
            let mut wish = json!({"userId": "oops", "title": "Tea", "startsAt": "2026-05-04T09:00"});
            wish.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            desk.refused("book_appointment", wish)
        };
        let one_end = "say when the appointment ends: either `endsAt` or `durationMinutes`, not both";
        assert_eq!(book(json!({})).await, one_end);
        assert_eq!(book(json!({"endsAt": "2026-05-04T10:00", "durationMinutes": 5})).await, one_end);
        assert_eq!(book(json!({"endsAt": "2026-05-04T09:00"})).await, "`endsAt` must be after `startsAt`");
        assert_eq!(book(json!({"endsAt": "2027-05-04T09:00"})).await, "an appointment may last 31 days at most");
        assert_eq!(book(json!({"durationMinutes": 5, "title": " "})).await, "`title` is empty");
        assert_eq!(book(json!({"durationMinutes": 5, "userId": " "})).await, "`userId` is empty");
        assert_eq!(book(json!({"durationMinutes": 5, "userId": ""})).await, "`userId` is needed: nobody proved who calls");
        assert_eq!(
            book(json!({"durationMinutes": 5, "description": "x".repeat(4001)})).await,
            "`description` is longer than 4000 characters; shorten it"
        );
        assert!(book(json!({"durationMinutes": 5, "timeZone": "Berlin"})).await.contains("give an IANA name"));
        let gap = book(json!({"durationMinutes": 5, "startsAt": "2026-03-29T02:30", "timeZone": "Europe/Berlin"})).await;
        assert!(gap.contains("there is no 2026-03-29T02:30:00 in Europe/Berlin"), "{gap}");
        let fold = book(json!({"durationMinutes": 5, "startsAt": "2026-10-25T02:30", "timeZone": "Europe/Berlin"})).await;
        assert!(fold.contains("2026-10-25T02:30:00+02:00 or 2026-10-25T02:30:00+01:00"), "{fold}");

        let search = |wish: Value| desk.refused("search_appointments", wish);
        assert_eq!(search(json!({"userId": "oops", "limit": 0})).await, "`limit` must be between 1 and 100");
        assert_eq!(
            search(json!({"userId": "oops", "startDate": "2026-05-04", "endDate": "2026-05-03"})).await,
            "`endDate` must be after `startDate`"
        );
        let cursor = search(json!({"userId": "oops", "cursor": "first"})).await;
        assert_eq!(cursor, "`cursor` is not one that a search gave; search again without it");
        assert!(desk.search(json!({"userId": "oops"})).await.is_empty());
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_read_as_models_and_clients_write_them() {
    let desk = Desk::open().await;
    within(LONG, async {
        let book = json!({"userId": "loose", "title": "Tea", "startsAt": "2027-05-04T09:00", "durationMinutes": 30.0, "endsAt": "",
            "timeZone": "", "location": "", "description": null, "toolCallId": "call_1"});
        let booked = desk.done("book_appointment", book.clone()).await;
        let text = words(&booked);
        assert!(text.starts_with("Booked: 2027-05-04 09:00 to 09:30 UTC: Tea ["), "{text}");
        assert!(text.ends_with("]\n\nIgnored, because this tool has no such arguments: `toolCallId`."), "{text}");

        // Nothing is booked in another zone than the one that was meant.
        let mut wrong = book.clone();
        wrong["title"] = json!("Elsewhere");
        wrong["startsAt"] = json!("2027-05-05T09:00");
        wrong["timezone"] = json!("America/New_York");
        let refused = desk.refused("book_appointment", wrong).await;
        assert_eq!(refused, "there is no argument `timezone`; did you mean `timeZone`?");
        // What failed says what it did not read, too.
        let mut incomplete = book;
        incomplete.as_object_mut().unwrap().remove("durationMinutes");
        incomplete["duration"] = json!(30);
        let refused = desk.refused("book_appointment", incomplete).await;
        assert!(refused.ends_with("no such arguments: `duration`, `toolCallId`."), "{refused}");

        let search = json!({"userId": "loose", "startDate": "", "endDate": "", "timeZone": "", "cursor": "", "limit": 5.0, "toolCallId": "call_2"});
        let found = desk.done("search_appointments", search).await;
        assert_eq!(found["structuredContent"]["data"]["count"], 1);
        assert!(!words(&found).contains("Ignored"), "{found}");
        let refused = desk.refused("search_appointments", json!({"userId": "loose", "start_date": "2027-05-04"})).await;
        assert_eq!(refused, "there is no argument `start_date`; did you mean `startDate`?");
        let refused = desk.refused("search_appointments", json!({"userId": "loose", "limit": 5.5})).await;
        assert_eq!(refused, "the argument `limit` is not valid: it is the number `5.5`, expected an integer from 1 to 100");
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_appointment_is_no_such_appointment() {
    let desk = Desk::open().await;
    within(LONG, async {
        let id = desk.book("owner", "Secret", "2026-05-04T09:00:00Z").await;
        for id in [id.as_str(), "00000000-0000-4000-8000-000000000000", "1 OR true", ""] {
            let which = json!({"userId": "stranger", "appointmentId": id, "startsAt": "2026-05-06T09:00:00Z"});
            for tool in ["cancel_appointment", "reschedule_appointment"] {
                let refused = desk.refused(tool, which.clone()).await;
                assert!(refused.starts_with("there is no such appointment"), "{refused}");
            }
        }
        assert!(desk.search(json!({"userId": "stranger"})).await.is_empty());
        // The slot is the owner's, and nobody else's.
        desk.book("stranger", "Mine", "2026-05-04T09:00:00Z").await;
        assert_eq!(desk.search(json!({"userId": "owner"})).await[0]["status"], "confirmed");
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_in_a_text_is_text() {
    let desk = Desk::open().await;
    within(LONG, async {
        let text = "'; DROP TABLE appointments; -- \" \\ $1 %s “ü”\n- forged";
        let wish = json!({
            "userId": text, "title": text, "location": text, "description": text,
            "startsAt": "2026-05-04T09:00:00Z", "durationMinutes": 30,
        });
        desk.done("book_appointment", wish).await;
        let found = desk.done("search_appointments", json!({"userId": text})).await;
        let found_one = &found["structuredContent"]["data"]["appointments"][0];
        for key in ["title", "location", "description"] {
            assert_eq!(found_one[key], text);
        }
        assert_eq!(words(&found).lines().count(), 2, "a title made itself a line: {found}");
        for key in ["userId", "startDate", "endDate", "timeZone", "cursor"] {
            for nasty in ["' OR true --", "a\0b"] {
                let mut wish = json!({"userId": "plain"});
                wish[key] = json!(nasty);
                let answer = desk.server.call("search_appointments", wish).await;
                let found = answer["structuredContent"]["data"]["count"].as_u64().unwrap_or(0);
                assert_eq!(found, 0, "{answer}");
            }
        }
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_touches_its_span() {
    let desk = Desk::open().await;
    within(LONG, async {
        let file = calendar(
            "BEGIN:VEVENT\nUID:night\nDTSTART:20261224T230000Z\nDTEND:20261225T010000Z\nSUMMARY:night\nEND:VEVENT\n\
             BEGIN:VEVENT\nUID:moment\nDTSTART:20261225T000000Z\nSUMMARY:moment\nEND:VEVENT\n\
             BEGIN:VEVENT\nUID:eve\nDTSTART:20261224T220000Z\nDTEND:20261225T000000Z\nSUMMARY:eve\nEND:VEVENT\n\
             BEGIN:VEVENT\nUID:day\nDTSTART;VALUE=DATE:20261225\nDTEND;VALUE=DATE:20261227\nSUMMARY:day\nEND:VEVENT\n\
             BEGIN:VEVENT\nUID:short\nDTSTART;TZID=Europe/Berlin:20260329T013000\nDTEND;TZID=Europe/Berlin:20260329T033000\nSUMMARY:short\nEND:VEVENT\n",
        );
        desk.import("span", &file).await;
        for (start, end, titles) in [
            ("2026-12-25T00:00:00Z", "2026-12-26T00:00:00Z", "night day moment"),
            ("2026-12-24T22:00:00Z", "2026-12-24T23:00:00Z", "eve"),
            ("2026-12-25T00:00:01Z", "2026-12-25T00:00:02Z", "night day"),
            ("2026-12-24T23:59:59Z", "2026-12-25T00:00:00Z", "eve night"),
            // Two dates are two days.
            ("2026-12-25", "2026-12-26", "night day moment"),
            ("2026-12-26", "2026-12-26", "day"),
            ("2026-12-27", "2026-12-27", ""),
            ("2026-03-29", "2026-03-29", "short"),
            ("2026-03-29T01:30:00Z", "2026-03-29T02:00:00Z", ""),
        ] {
            let found = desk.search(json!({"userId": "span", "startDate": start, "endDate": end})).await;
            let found: Vec<_> = found.iter().map(|found| found["title"].as_str().unwrap()).collect();
            assert_eq!(found.join(" "), titles, "{start} to {end}");
        }
        // The zone decides when a day begins: in Auckland the 24th ends thirteen hours earlier.
        let auckland = json!({"userId": "span", "startDate": "2026-12-24", "endDate": "2026-12-24", "timeZone": "Pacific/Auckland"});
        assert!(desk.search(auckland).await.is_empty());

        let day = &desk.search(json!({"userId": "span", "startDate": "2026-12-26"})).await[0];
        assert_eq!((&day["allDay"], &day["startDate"], &day["endDate"]), (&json!(true), &json!("2026-12-25"), &json!("2026-12-26")));
        let short = &desk.search(json!({"userId": "span", "endDate": "2026-04-01"})).await[0];
        assert_eq!(short["startsAt"], "2026-03-29T01:30:00+01:00");
        assert_eq!(short["endsAt"], "2026-03-29T03:30:00+02:00");
        // "Ever", as people write it.
        for (start, end, count) in [
            ("0001-01-01", "9999-12-31", 5),
            ("-271821-04-20T00:00:00.000Z", "+275760-09-13T00:00:00.000Z", 5),
            ("2026-12-25", "9999-12-31T23:59:59-18:00", 4),
            ("0001-01-01T00:00:00+18:00", "0001-01-02", 0),
            ("9999-12-31", "9999-12-31", 0),
        ] {
            let wish = json!({"userId": "span", "startDate": start, "endDate": end, "timeZone": " Europe/Berlin "});
            assert_eq!(desk.search(wish).await.len(), count, "{start} to {end}");
        }
        assert!(desk.search(json!({"userId": "span", "startDate": "9999-12-31"})).await.is_empty());
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_it_in_words_and_in_data() {
    let desk = Desk::open().await;
    within(LONG, async {
        let none = desk
            .done("search_appointments", json!({"userId": "test-user-123", "startDate": "2026-12-25", "endDate": "2026-12-26"}))
            .await;
        let empty = json!({"userId": "test-user-123", "count": 0, "appointments": []});
        assert_eq!(none["structuredContent"], json!({"mimeType": "text/html+skybridge", "data": empty}));
        assert_eq!(words(&none), "No appointments found for test-user-123.");

        let id = desk.book("test-user-123", "Tea", "2026-12-25T09:00:00Z").await;
        let one = desk.done("search_appointments", json!({"userId": "test-user-123"})).await;
        assert_eq!(
            one["structuredContent"]["data"]["appointments"][0],
            json!({
                "id": id, "title": "Tea", "startsAt": "2026-12-25T09:00:00Z", "endsAt": "2026-12-25T09:30:00Z",
                "timeZone": "UTC", "allDay": false, "location": null, "status": "confirmed",
            })
        );
        assert_eq!(words(&one), format!("1 appointment found for test-user-123.\n- 2026-12-25 09:00 to 09:30 UTC: Tea [{id}]"));

        // Half an hour, and without the offsets it would end before it starts.
        let twice = json!({"userId": "twice", "title": "Night", "startsAt": "2026-10-25T02:30:00+02:00",
            "endsAt": "2026-10-25T02:00:00+01:00", "timeZone": "Europe/Berlin"});
        let booked = desk.done("book_appointment", twice.clone()).await;
        let when = "2026-10-25 02:30+02:00 to 02:00+01:00 Europe/Berlin";
        assert!(words(&booked).starts_with(&format!("Booked: {when}: Night [")), "{booked}");
        let mut other = twice;
        other["title"] = json!("Other");
        let refused = desk.refused("book_appointment", other).await;
        assert!(refused.starts_with(&format!("that slot is taken by “Night”, {when};")), "{refused}");
        let days = json!({"userId": "twice", "title": "Month", "startsAt": "2026-10-01", "endsAt": "2026-11-01T00:00"});
        assert!(desk.refused("book_appointment", days).await.contains("needs a time of day"));
        let days = json!({"userId": "month", "title": "Month", "startsAt": "2026-10-01T00:00", "endsAt": "2026-11-01T00:00",
            "timeZone": "Europe/Berlin"});
        let booked = desk.done("book_appointment", days).await;
        assert!(words(&booked).starts_with("Booked: 2026-10-01 00:00 to 2026-11-01 00:00 Europe/Berlin: Month"), "{booked}");
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_appointment_once() {
    let desk = Desk::open().await;
    within(LONG, async {
        // Many start at the same time: the order among them must hold as well.
        let events: String = (0..57)
            .map(|n| {
                format!(
                    "BEGIN:VEVENT\nUID:{n}\nDTSTART:202601{:02}T090000Z\nDURATION:PT1H\nSUMMARY:{n}\nEND:VEVENT\n",
                    1 + n / 10
                )
            })
            .collect();
        desk.import("pages", &calendar(&events)).await;
        for limit in [1, 7, 57, 100] {
            let mut seen = Vec::new();
            let mut wish = json!({"userId": "pages", "startDate": "2026-01-01", "limit": limit});
            loop {
                let answer = desk.done("search_appointments", wish.clone()).await;
                let data = &answer["structuredContent"]["data"];
                let page = data["appointments"].as_array().unwrap();
                assert!(page.len() <= limit);
                seen.extend(page.iter().map(|found| (found["startsAt"].to_string(), found["id"].to_string())));
                let Some(cursor) = data.get("nextCursor") else { break };
                assert!(words(&answer).ends_with(cursor.as_str().unwrap()));
                wish["cursor"] = cursor.clone();
            }
            assert_eq!(seen.len(), 57, "pages of {limit}");
            assert!(seen.is_sorted(), "pages of {limit}");
            assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 57, "pages of {limit}");
        }
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_twice_changes_nothing() {
    let desk = Desk::open().await;
    within(LONG, async {
        for name in ["plain", "days", "rules", "overrides", "versions", "zones", "flawed", "called-off"] {
            let file = std::fs::read(format!("{}/tests/calendars/{name}.ics", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let user = format!("twice {name}");
            let dry = desk.import_with(&user, &file, true, &Quiet).await.unwrap();
            assert!(desk.stored(&user).await.is_empty(), "a dry run stored something");
            let first = desk.import_with(&user, &file, false, &Quiet).await.unwrap();
            assert_eq!(counts(&dry), counts(&first), "{name}");
            let before = desk.stored(&user).await;
            assert_eq!(before.len() as u64, first.added, "{name}");
            let second = desk.import_with(&user, &file, false, &Quiet).await.unwrap();
            assert_eq!(counts(&second), [0, 0, first.added, 0, 0], "{name}: {second}");
            assert_eq!(desk.stored(&user).await, before, "{name}");
        }
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_revision_replaces_and_an_older_one_does_not() {
    let desk = Desk::open().await;
    within(LONG, async {
        let series = |sequence: u32, title: &str, rule: &str| {
            calendar(&format!(
                "BEGIN:VEVENT\nUID:s\nSEQUENCE:{sequence}\nDTSTART:20260105T090000Z\nDURATION:PT1H\nRRULE:{rule}\nSUMMARY:{title}\nEND:VEVENT\n"
            ))
        };
        let other = calendar("BEGIN:VEVENT\nUID:other\nDTSTART:20260105T120000Z\nDURATION:PT1H\nSUMMARY:other\nEND:VEVENT\n");
        desk.import("revised", &other).await;
        assert_eq!(counts(&desk.import("revised", &series(1, "old", "FREQ=DAILY;COUNT=5")).await), [5, 0, 0, 0, 0]);
        let ids = desk.stored("revised").await;
        // Three dates are left, and they have another title.
        assert_eq!(counts(&desk.import("revised", &series(2, "new", "FREQ=DAILY;COUNT=3")).await), [0, 3, 0, 2, 0]);
        let after = desk.stored("revised").await;
        assert!(after.keys().all(|id| ids.contains_key(id)), "an id changed");
        assert_eq!(after.len(), 4, "the event of another file is gone");

        let stale = desk.import("revised", &series(1, "old", "FREQ=DAILY;COUNT=5")).await;
        assert_eq!(counts(&stale), [0, 0, 0, 0, 0]);
        let reason = "a newer revision of it was imported before".to_owned();
        assert_eq!(stale.skipped, [Remark { what: "s".to_owned(), reason }]);
        assert_eq!(desk.stored("revised").await, after);

        // One date is called off, the series excludes another, and then all of it is over.
        let excluded = calendar(
            "BEGIN:VEVENT\nUID:s\nSEQUENCE:2\nDTSTART:20260105T090000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY;COUNT=3\n\
             EXDATE:20260107T090000Z\nSUMMARY:new\nEND:VEVENT\n\
             BEGIN:VEVENT\nUID:s\nSEQUENCE:3\nRECURRENCE-ID:20260106T090000Z\nDTSTART:20260106T090000Z\nSTATUS:CANCELLED\nSUMMARY:new\nEND:VEVENT\n",
        );
        assert_eq!(counts(&desk.import("revised", &excluded).await), [0, 0, 1, 1, 1]);
        let over = "BEGIN:VCALENDAR\nMETHOD:CANCEL\nBEGIN:VEVENT\nUID:s\nSEQUENCE:4\nDTSTART:20260105T090000Z\nSUMMARY:new\nEND:VEVENT\nEND:VCALENDAR\n";
        assert_eq!(counts(&desk.import("revised", over).await), [0, 0, 0, 0, 1]);
        let statuses: Vec<_> = desk.search(json!({"userId": "revised"})).await.iter().map(|found| found["status"].to_string()).collect();
        assert_eq!(statuses, ["\"cancelled\"", "\"confirmed\"", "\"cancelled\""]);
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_to_one_date_leaves_the_others_alone() {
    let desk = Desk::open().await;
    within(LONG, async {
        desk.import("invited", &calendar("BEGIN:VEVENT\nUID:s\nDTSTART:20260105T090000Z\nRRULE:FREQ=DAILY;COUNT=5\nSUMMARY:s\nEND:VEVENT\n")).await;
        let moved = calendar(
            "BEGIN:VEVENT\nUID:s\nSEQUENCE:1\nRECURRENCE-ID:20260107T090000Z\nDTSTART:20260107T150000Z\nSUMMARY:moved\nEND:VEVENT\n",
        );
        assert_eq!(counts(&desk.import("invited", &moved).await), [0, 1, 0, 0, 0]);
        assert_eq!(desk.stored("invited").await.len(), 5);
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_appointment_has_its_slot_and_belongs_to_its_calendar() {
    let desk = Desk::open().await;
    within(LONG, async {
        let file =
            calendar("BEGIN:VEVENT\nUID:e\nDTSTART:20260504T090000Z\nDTEND:20260504T100000Z\nSUMMARY:Dentist\nEND:VEVENT\n");
        desk.import("owned", &file).await;
        let wish = json!({"userId": "owned", "title": "Tea", "startsAt": "2026-05-04T09:30:00Z", "durationMinutes": 30});
        let refused = desk.refused("book_appointment", wish).await;
        assert!(refused.starts_with("that slot is taken by “Dentist”, 2026-05-04 09:00 to 10:00 UTC"), "{refused}");
        let found = &desk.search(json!({"userId": "owned"})).await[0];
        assert_eq!(found["imported"], true);
        let which = json!({"userId": "owned", "appointmentId": found["id"], "startsAt": "2026-05-06T09:00:00Z"});
        for tool in ["cancel_appointment", "reschedule_appointment"] {
            let refused = desk.refused(tool, which.clone()).await;
            assert!(refused.starts_with("“Dentist” was imported from a calendar and is changed there"), "{refused}");
        }
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_keeps_its_slot_from_an_import() {
    let desk = Desk::open().await;
    within(LONG, async {
        let id = desk.book("first", "Tea", "2026-05-04T09:00:00Z").await;
        let file = calendar(
            "BEGIN:VEVENT\nUID:over\nDTSTART:20260504T091500Z\nDTEND:20260504T100000Z\nSUMMARY:Dentist\nEND:VEVENT\n\
             BEGIN:VEVENT\nUID:free\nDTSTART:20260504T091500Z\nDTEND:20260504T100000Z\nTRANSP:TRANSPARENT\nSUMMARY:Birthday\nEND:VEVENT\n\
             BEGIN:VEVENT\nUID:after\nDTSTART:20260504T093000Z\nDTEND:20260504T100000Z\nSUMMARY:Walk\nEND:VEVENT\n",
        );
        for expected in [[3, 0, 0, 0, 0], [0, 0, 3, 0, 0]] {
            let imported = desk.import("first", &file).await;
            assert_eq!(counts(&imported), expected);
            let overlaps: Vec<_> = imported.overlapping.iter().map(|over| (over.title.as_str(), over.booking.as_str())).collect();
            assert_eq!(overlaps, [("Dentist", "Tea")]);
            assert!(imported.to_string().contains("overlaps: Dentist at 2026-05-04T09:15:00Z lies over the booking Tea"));
        }
        // Once the booking is gone, the imported one takes its time.
        desk.done("cancel_appointment", json!({"userId": "first", "appointmentId": id})).await;
        let imported = desk.import("first", &file).await;
        assert_eq!((counts(&imported), imported.overlapping.len()), ([0, 1, 2, 0, 0], 0));
        let wish = json!({"userId": "first", "title": "Tea", "startsAt": "2026-05-04T09:15:00Z", "durationMinutes": 5});
        assert!(desk.refused("book_appointment", wish).await.contains("Dentist"));
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bookings_during_an_import_never_share_a_slot_with_it() {
    let desk = Desk::open().await;
    within(LONG, async {
        let events: String = (0..1500)
            .map(|n| {
                let start = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(n * 3600);
                format!(
                    "BEGIN:VEVENT\nUID:{n}\nDTSTART:{}\nDURATION:PT1H\nSUMMARY:{n}\nEND:VEVENT\n",
                    start.strftime("%Y%m%dT%H%M%SZ")
                )
            })
            .collect();
        let file = calendar(&events);
        // Backwards and forwards, and as fast as can be: some come between at each batch, several times.
        let bookings = async |from: i64, step: i64| {
            for n in 0..150 {
                let start = "2026-01-01T00:30:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(from + n * step);
                let wish = json!({"userId": "race", "title": "Tea", "startsAt": start.to_string(), "durationMinutes": 5});
                desk.server.call("book_appointment", wish).await;
            }
        };
        let (imported, (), (), ()) = tokio::join!(
            desk.import("race", &file),
            bookings(0, 36_000),
            bookings(1_499 * 3_600, -36_000),
            bookings(3_600, 32_400)
        );
        assert_eq!(imported.added, 1500);
        let shared = "SELECT count(*) FROM appointments a JOIN appointments b ON a.user_id = b.user_id AND a.lane <> b.lane \
                      AND tstzrange(a.starts_at, a.ends_at) && tstzrange(b.starts_at, b.ends_at) \
                      WHERE a.user_id = $1 AND a.blocks AND b.blocks";
        assert_eq!(desk.count(shared, "race").await, 0);
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_of_one_user_take_turns() {
    let desk = Desk::open().await;
    within(LONG, async {
        let file = large();
        let (first, second) = tokio::join!(desk.import("turns", &file), desk.import("turns", &file));
        let mut added = [first.added, second.added];
        added.sort_unstable();
        assert_eq!(added, [0, 2000]);
        assert_eq!(first.unchanged + second.unchanged, 2000);
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_given_up_midway_leaves_nothing() {
    let desk = Desk::open().await;
    within(LONG, async {
        let file = large();
        let midway = Midway(Notify::new());
        tokio::select! {
            imported = desk.import_with("killed", file.as_bytes(), false, &midway) => panic!("it was to be given up: {imported:?}"),
            () = midway.0.notified() => {}
        }
        assert_eq!(desk.stored("killed").await.len(), 0);
        // Nor does it leave the lock behind.
        assert_eq!(desk.import("killed", &file).await.added, 2000);
        desk.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_calendar_is_refused() {
    let desk = Desk::open().await;
    within(LONG, async {
        let refused = desk.import_with("none", b"Dear diary", false, &Quiet).await;
        assert!(matches!(refused, Err(ImportError::Calendar(_))), "{refused:?}");
        let refused = desk.import_with("a\0b", calendar("").as_bytes(), false, &Quiet).await;
        assert!(matches!(refused, Err(ImportError::User(_))), "{refused:?}");
        desk.close().await;
    })
    .await;
}

/// The application, as a client sees it, and its database.
struct Desk {
    server: Server,
    database: Database,
    appointments: Appointments,
    // Dropped last.
    _home: Arc<Home>,
}

/// A directory for the PostgreSQL that the tests of this process share. The last of them removes it.
struct Home {
    directory: PathBuf,
}

/// Nobody watches.
struct Quiet;

/// Says when the first part of an import is written.
struct Midway(Notify);

// === impl Desk ===

impl Desk {
    async fn open() -> Self {
        let home = Home::shared();
        let config = DatabaseConfig {
            data_dir: home.directory.clone(),
            path: std::env::var_os("PATH"),
            // The defaults but for the machine: one that builds next to the test is slow, and sixty-four calls share ten connections.
            create: Duration::from_secs(20),
            wait: Duration::from_secs(60),
            statement_timeout: Duration::from_secs(60),
            ..DatabaseConfig::default()
        };
        let database = Database::open(config).await.expect("PostgreSQL can be started: see the README for how to get it");
        let appointments = Appointments::new(database.clone(), TimeZone::UTC);
        let release = Release::new(Color::Blue, "1.0.0", "test").unwrap();
        let control = Control::new(database.clone(), Replica::new(release.color, &*release.version, MIGRATIONS));
        let app = app(release, AppState::new(&database, &control, TimeZone::UTC)).database(database.clone()).control(control);
        let server = testing::start(app).await.unwrap();
        Self { server, database, appointments, _home: home }
    }

    async fn close(self) {
        self.server.stop().await;
        self.database.close().await.unwrap();
    }

    /// The answer of a call that succeeds.
    async fn done(&self, tool: &str, arguments: Value) -> Value {
        let answer = self.server.call(tool, arguments).await;
        assert_eq!(answer["isError"], false, "{answer}");
        answer
    }

    /// What a call that fails says.
    async fn refused(&self, tool: &str, arguments: Value) -> String {
        let answer = self.server.call(tool, arguments).await;
        assert_eq!(answer["isError"], true, "{answer}");
        words(&answer).to_owned()
    }

    /// Books half an hour.
    async fn book(&self, user_id: &str, title: &str, starts_at: &str) -> String {
        let wish = json!({"userId": user_id, "title": title, "startsAt": starts_at, "durationMinutes": 30});
        appointment(&self.done("book_appointment", wish).await)["id"].as_str().unwrap().to_owned()
    }

    async fn search(&self, wish: Value) -> Vec<Value> {
        let answer = self.done("search_appointments", wish).await;
        answer["structuredContent"]["data"]["appointments"].as_array().unwrap().clone()
    }

    async fn import(&self, user_id: &str, file: &str) -> Imported {
        self.import_with(user_id, file.as_bytes(), false, &Quiet).await.unwrap()
    }

    async fn import_with(
        &self,
        user_id: &str,
        file: &[u8],
        dry_run: bool,
        progress: &dyn Progress,
    ) -> Result<Imported, ImportError> {
        let until = "2028-01-01T00:00:00Z".parse().unwrap();
        import::import(&self.appointments, file.to_vec(), user_id, TimeZone::UTC, until, dry_run, progress).await
    }

    /// All rows of a user, by id: everything that is stored, when it was written included.
    async fn stored(&self, user_id: &str) -> BTreeMap<String, String> {
        let sql = "SELECT id::text, a::text FROM appointments AS a WHERE user_id = $1";
        let rows = self.database.get().await.unwrap().query(sql, &[(&user_id, Type::TEXT)]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn count(&self, sql: &'static str, user_id: &str) -> i64 {
        let row = self.database.get().await.unwrap().query_opt(sql, &[(&user_id, Type::TEXT)]).await.unwrap();
        row.unwrap().get(0)
    }
}

// === impl Home ===

impl Home {
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Home>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let name = format!("appointments-{}-{:x}", std::process::id(), Timestamp::now().as_microsecond());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir(&directory).unwrap();
            let home = Arc::new(Self { directory });
            *shared = Arc::downgrade(&home);
            home
        })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A test that failed did not wait for the server to stop.
        let until = Instant::now() + Duration::from_secs(10);
        while self.directory.join("cluster/postmaster.pid").exists() && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

// === impl Progress ===

impl Progress for Quiet {
    fn doing(&self, _: &str, _: u64) {}

    fn done(&self, _: u64) {}
}

impl Progress for Midway {
    fn doing(&self, _: &str, _: u64) {}

    fn done(&self, _: u64) {
        self.0.notify_one();
    }
}

fn words(answer: &Value) -> &str {
    answer["content"][0]["text"].as_str().unwrap()
}

fn appointment(answer: &Value) -> &Value {
    &answer["structuredContent"]["data"]["appointment"]
}

/// Added, updated, unchanged, removed, cancelled.
fn counts(imported: &Imported) -> [u64; 5] {
    [imported.added, imported.updated, imported.unchanged, imported.removed, imported.cancelled]
}

fn calendar(events: &str) -> String {
    format!("BEGIN:VCALENDAR\nVERSION:2.0\n{events}END:VCALENDAR\n")
}

/// Two thousand events: several statements' worth.
fn large() -> String {
    let events: String = (0..2000)
        .map(|n| {
            format!("BEGIN:VEVENT\nUID:{n}\nDTSTART:202601{:02}T090000Z\nDURATION:PT1H\nSUMMARY:{n}\nEND:VEVENT\n", 1 + n % 28)
        })
        .collect();
    calendar(&events)
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.expect("the test ends in time")
}
