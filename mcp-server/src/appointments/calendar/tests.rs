//! What the files in `tests/calendars` say, and what hostile ones cost. Each table was judged by hand against RFC 5545 and
//! compared with `tests/clients/calendar_oracle.py`.

use super::*;

#[test]
fn text_zones_and_statuses_are_read() {
    let calendar = fixture("plain");
    assert_eq!(calendar.name.as_deref(), Some("Harbor; and lights"));
    assert_eq!(
        table(&calendar),
        [
            "2024-03-04 08:00 to 2024-03-04 09:30, folded Europe/Berlin confirmed",
            "2024-03-04 12:00 to 2024-03-04 13:00, utc Europe/Lisbon pending",
            "2024-03-05 12:00 to 2024-03-05 12:00, instant Europe/Lisbon confirmed",
            "2024-03-06 12:00 to 2024-03-06 13:00, cancelled Europe/Lisbon cancelled",
            "2024-03-30 11:00 to 2024-03-31 12:00, duration Europe/Berlin confirmed",
            "2024-07-04 11:00 to 2024-07-04 12:00, floating Europe/Lisbon confirmed",
        ]
    );
    let folded = &calendar.occurrences[0];
    assert_eq!(folded.title, "Tea, biscuits; and a very long agenda that does not fit on one line");
    assert_eq!(folded.description.as_deref(), Some("first\nsecond \\ done"));
    assert_eq!(folded.location.as_deref(), Some("Room 4"));
    assert_eq!((folded.sequence, folded.blocks, folded.recurrence.as_str()), (3, false, ""));
    assert_eq!(
        skipped(&calendar),
        [
            "todo@lantern: a task (VTODO), not an event",
            "journal@lantern: a journal entry (VJOURNAL), not an event",
            "busy@lantern: free and busy times (VFREEBUSY), not an event",
        ]
    );
}

#[test]
fn whole_days_run_from_midnight_to_midnight() {
    let calendar = fixture("days");
    assert!(calendar.occurrences.iter().all(|occurrence| occurrence.all_day));
    assert_eq!(
        table(&calendar),
        [
            "2020-02-28 23:00 to 2020-02-29 23:00, birthday 2020-02-29 Europe/Berlin confirmed",
            "2024-01-07 23:00 to 2024-01-08 23:00, cleaning 2024-01-08 Europe/Berlin confirmed",
            "2024-01-21 23:00 to 2024-01-22 23:00, cleaning 2024-01-22 Europe/Berlin confirmed",
            "2024-01-28 23:00 to 2024-01-29 23:00, cleaning 2024-01-29 Europe/Berlin confirmed",
            "2024-02-28 23:00 to 2024-02-29 23:00, birthday 2024-02-29 Europe/Berlin confirmed",
            "2024-03-29 23:00 to 2024-04-01 22:00, three Europe/Berlin confirmed",
            "2024-04-30 22:00 to 2024-05-01 22:00, one Europe/Berlin confirmed",
            "2024-05-31 22:00 to 2024-06-01 22:00, same Europe/Berlin confirmed",
            "2024-06-09 22:00 to 2024-06-16 22:00, week Europe/Berlin confirmed",
            "2028-02-28 23:00 to 2028-02-29 23:00, birthday 2028-02-29 Europe/Berlin confirmed",
        ]
    );
}

#[test]
fn rules_repeat_clock_times() {
    let calendar = fixture("rules");
    let starts = |uid: &str| {
        let of = calendar.occurrences.iter().filter(|occurrence| occurrence.uid == format!("{uid}@lantern"));
        of.map(|occurrence| minute(occurrence.starts_at)).collect::<Vec<_>>()
    };
    assert_eq!(starts("count"), ["2024-03-25 08:00", "2024-04-01 07:00", "2024-04-08 07:00"]);
    assert_eq!(starts("until"), ["2024-01-02 01:00", "2024-01-04 01:00", "2024-01-06 01:00"]);
    assert_eq!(starts("ordinal"), ["2024-01-26 16:00", "2024-02-23 16:00", "2024-03-29 16:00"]);
    assert_eq!(starts("setpos"), ["2024-01-31 07:00", "2024-02-29 07:00", "2024-03-29 07:00"]);
    assert_eq!(starts("wkst"), ["1997-08-05 09:00", "1997-08-17 09:00", "1997-08-19 09:00", "1997-08-31 09:00"]);
    assert_eq!(starts("wkmo"), ["2024-08-06 09:00", "2024-08-11 09:00", "2024-08-20 09:00", "2024-08-25 09:00"]);
    assert_eq!(starts("rdate"), ["2024-02-01 09:00", "2024-02-03 09:00", "2024-02-05 14:00", "2024-02-07 09:00"]);
    assert_eq!(starts("exdate"), ["2024-02-05 09:00", "2024-02-09 09:00"]);
    assert_eq!(starts("unsynced"), ["2024-07-01 09:00", "2024-07-03 09:00", "2024-07-10 09:00"]);
    assert_eq!(starts("untilday"), ["2024-08-02 03:00", "2024-08-03 03:00", "2024-08-04 03:00"]);
    assert_eq!(skipped(&calendar), ["untilbefore@lantern: it ends before it starts"]);
}

#[test]
fn a_clock_change_moves_what_falls_into_it() {
    let calendar = fixture("rules");
    let of = |uid: &str| table(&calendar).into_iter().filter(|line| line.contains(uid)).collect::<Vec<_>>();
    // 02:30 does not exist on 31 March, and counts from the offset before: 03:30. The first of two counts in October.
    assert!(of("gap")[1].starts_with("2024-03-31 01:30 to 2024-03-31 02:00"));
    assert!(of("fold")[1].starts_with("2024-10-27 00:30 to 2024-10-27 01:00"));
    // A DTEND gives an exact duration: eight hours, in the short night too.
    assert!(of("night")[1].starts_with("2024-03-30 21:00 to 2024-03-31 05:00"));
    // A period brings its own length, and is said in the zone of its series.
    assert_eq!(
        of("rdate").last().map(String::as_str),
        Some("2024-02-07 09:00 to 2024-02-07 12:00, rdate 2024-02-07T09:00:00Z Europe/Berlin confirmed")
    );
}

#[test]
fn an_override_keeps_the_name_of_what_it_replaces() {
    assert_eq!(
        table(&fixture("overrides")),
        [
            "2024-04-01 07:00 to 2024-04-01 08:00, moved 2024-04-01T07:00:00Z Europe/Berlin confirmed",
            "2024-04-09 12:00 to 2024-04-09 13:00, moved 2024-04-08T07:00:00Z Europe/Berlin confirmed",
            "2024-04-15 07:00 to 2024-04-15 08:00, moved 2024-04-15T07:00:00Z Europe/Berlin cancelled",
            "2024-04-22 07:00 to 2024-04-22 08:00, moved 2024-04-22T07:00:00Z Europe/Berlin confirmed",
            "2024-05-01 07:00 to 2024-05-01 08:00, future 2024-05-01T07:00:00Z Europe/Berlin confirmed",
            "2024-05-08 07:00 to 2024-05-08 08:00, future 2024-05-08T07:00:00Z Europe/Berlin confirmed",
            "2024-05-16 16:00 to 2024-05-16 18:00, future 2024-05-15T07:00:00Z Europe/Berlin confirmed",
            "2024-05-23 16:00 to 2024-05-23 18:00, future 2024-05-22T07:00:00Z Europe/Berlin confirmed",
            "2024-06-10 08:00 to 2024-06-10 09:00, lone 2024-06-10T07:00:00Z Europe/Berlin confirmed",
            "2024-06-30 22:00 to 2024-07-01 22:00, day 2024-07-01 Europe/Berlin confirmed",
            "2024-07-02 10:00 to 2024-07-02 11:00, day 2024-07-02 Europe/Berlin confirmed",
        ]
    );
}

#[test]
fn the_newest_version_counts() {
    let calendar = fixture("versions");
    let titles: Vec<_> = calendar.occurrences.iter().map(|occurrence| occurrence.title.as_str()).collect();
    assert_eq!(titles, ["Second", "Later edit", "Without UID", "Without UID"]);
    let again = fixture("versions");
    assert_eq!(calendar, again, "an event without UID is called the same each time");
    assert_ne!(calendar.occurrences[2].uid, calendar.occurrences[3].uid);
}

#[test]
fn a_cancellation_in_another_calendar_ends_the_whole_series() {
    assert_eq!(
        table(&fixture("called-off")),
        [
            "2024-01-02 09:00 to 2024-01-02 10:00, gone 2024-01-02T09:00:00Z UTC cancelled",
            "2024-01-03 09:00 to 2024-01-03 10:00, gone 2024-01-03T09:00:00Z UTC cancelled",
        ]
    );
}

#[test]
fn a_zone_is_known_by_name_or_by_its_rules() {
    let calendar = fixture("zones");
    assert_eq!(
        table(&calendar),
        [
            "2024-03-27 08:00 to 2024-03-27 09:00, custom 2024-03-27T08:00:00Z Europe/Berlin confirmed",
            "2024-03-31 01:30 to 2024-03-31 02:30, customgap Europe/Berlin confirmed",
            "2024-04-03 07:00 to 2024-04-03 08:00, custom 2024-04-03T07:00:00Z Europe/Berlin confirmed",
            "2024-05-31 01:40 to 2024-05-31 02:40, own 2024-05-31T01:40:00Z UTC confirmed",
            "2024-07-01 00:00 to 2024-07-01 01:00, windows2 Asia/Tokyo confirmed",
            "2024-07-01 07:00 to 2024-07-01 08:00, prefixed Europe/Paris confirmed",
            "2024-07-01 07:00 to 2024-07-01 08:00, windows Europe/Berlin confirmed",
            "2024-07-01 13:00 to 2024-07-01 14:00, quoted America/New_York confirmed",
            "2024-07-31 00:40 to 2024-07-31 01:40, own 2024-07-31T00:40:00Z UTC confirmed",
            "2024-10-27 00:30 to 2024-10-27 01:30, customfold Europe/Berlin confirmed",
        ]
    );
    let reason = "unknown@lantern: its time zone \"Atlantis/Center\" is neither known nor defined in the file";
    assert_eq!(skipped(&calendar), [reason]);
}

#[test]
fn a_flawed_event_costs_no_other() {
    let calendar = fixture("flawed");
    let titles: Vec<_> = calendar.occurrences.iter().map(|occurrence| occurrence.title.as_str()).collect();
    assert_eq!(titles, ["Good", "Too many semicolons", "Good, too"]);
    assert_eq!(
        skipped(&calendar),
        [
            "nostart@lantern: it has no start (DTSTART)",
            "baddate@lantern: its start is not a date",
            "february@lantern: its start is not a date",
            "backwards@lantern: it ends before it starts",
            "negative@lantern: it ends before it starts",
            "badrule@lantern: its recurrence rule cannot be read: FREQ=FORTNIGHTLY",
            "mixed@lantern: its recurrence rule cannot be read: it names weekdays with and without a number",
        ]
    );
}

#[test]
fn what_is_no_calendar_is_refused() {
    let refusal = |bytes: &[u8]| read(bytes, &reading()).unwrap_err().to_string();
    let no_calendar = "the file is not an iCalendar file: it has no BEGIN:VCALENDAR line";
    assert_eq!(refusal(b""), no_calendar);
    assert_eq!(refusal(b"Dear calendar,\nplease note"), no_calendar);
    assert_eq!(refusal(b"BEGIN:VCARD\nFN:Ada\nEND:VCARD\n"), no_calendar);
    let latin = of("UID:a\r\nDTSTART:20240101T090000Z\r\nSUMMARY:caf?").replace('?', "\u{1}").into_bytes();
    let latin: Vec<_> = latin.into_iter().map(|byte| if byte == 1 { 0xE9 } else { byte }).collect();
    assert_eq!(refusal(&latin), "the file is not UTF-8 text from line 5 on; save it as UTF-8 and import it again");
    let small = Reading { max_bytes: 10, ..reading() };
    assert!(matches!(read(&latin, &small), Err(CalendarError::TooLarge { limit: 10, .. })));
}

#[test]
fn a_mark_a_fold_inside_a_character_and_control_characters_are_cleaned() {
    let mut bytes = b"\xEF\xBB\xBF".to_vec();
    bytes.extend(of("UID:a\0b\r\nDTSTART:20240101T090000Z\r\nSUMMARY:caf\u{7}?").bytes());
    let at = bytes.iter().position(|byte| *byte == b'?').unwrap();
    bytes.splice(at..=at, *b"\xC3\r\n \xA9");
    let calendar = read(&bytes, &reading()).unwrap();
    assert_eq!((calendar.occurrences[0].uid.as_str(), calendar.occurrences[0].title.as_str()), ("ab", "café"));
}

#[test]
fn an_empty_calendar_is_one() {
    assert_eq!(read(b"\xEF\xBB\xBFBEGIN:VCALENDAR\nEND:VCALENDAR\n", &reading()).unwrap(), Calendar::default());
}

#[test]
fn an_endless_series_is_cut_and_named() {
    let calendar = text(&of("UID:a\r\nDTSTART:20240101T090000Z\r\nRRULE:FREQ=YEARLY\r\nSUMMARY:Forever"));
    assert_eq!(calendar.occurrences.len(), 6);
    let cut = Cut::Horizon(reading().until);
    assert_eq!(calendar.truncated, [Truncated { uid: "a".to_owned(), title: "Forever".to_owned(), cut }]);

    let few = Reading { max_occurrences_per_series: 2, ..reading() };
    let daily = of("UID:a\r\nDTSTART:20240101T090000Z\r\nRRULE:FREQ=DAILY;COUNT=4");
    let calendar = read(daily.as_bytes(), &few).unwrap();
    assert_eq!(minute(calendar.occurrences[0].starts_at), "2024-01-03 09:00", "the latest are kept");
    assert_eq!(calendar.truncated[0].cut, Cut::Occurrences(2));

    let little = Reading { max_memory_bytes: 1_000, ..reading() };
    let calendar = read(daily.as_bytes(), &little).unwrap();
    assert!(calendar.occurrences.len() < 4);
    assert_eq!(calendar.truncated[0].cut, Cut::Memory);
}

#[test]
fn a_hostile_rule_is_bounded() {
    let many: String = (0..60).map(|part| format!(",{part}")).collect();
    for (rule, occurrences) in [
        ("FREQ=SECONDLY".to_owned(), 5_000),
        ("FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30".to_owned(), 1),
        ("FREQ=SECONDLY;BYSETPOS=2;BYSECOND=1".to_owned(), 1),
        ("FREQ=MONTHLY;INTERVAL=65535;COUNT=4294967295".to_owned(), 1),
        ("FREQ=DAILY;UNTIL=99991231T235959Z".to_owned(), 10_959),
        (format!("FREQ=YEARLY;BYDAY=MO;BYHOUR=1;BYMINUTE=0{many};BYSECOND=0{many}"), 0),
    ] {
        let calendar = text(&of(&format!("UID:a\r\nDTSTART:20000101T000000Z\r\nRRULE:{rule}")));
        assert_eq!(calendar.occurrences.len(), occurrences.min(5_000), "{rule}");
        assert_eq!(calendar.truncated.len() + calendar.skipped.len(), 1, "{rule}");
    }
}

/// Each alone is read in time; what bounds them is asked between one and the next.
#[test]
fn many_rules_are_bounded_as_one_is() {
    let rules = |rule: &str, count: usize| format!("RRULE:{rule}\r\n").repeat(count);
    let hurried = Reading { max_time: Duration::from_millis(300), ..reading() };
    let none = rules("FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30", 5_000);
    let of_an_event = of(&format!("UID:a\r\nDTSTART:20260101T090000Z\r\n{none}SUMMARY:x"));
    let zone = |observances: usize, rules: &str| {
        let observance = format!(
            "BEGIN:STANDARD\r\nDTSTART:19700101T000000\r\nTZOFFSETFROM:+0100\r\nTZOFFSETTO:+0200\r\n{rules}END:STANDARD\r\n"
        );
        format!(
            "BEGIN:VCALENDAR\r\nBEGIN:VTIMEZONE\r\nTZID:Z\r\n{}END:VTIMEZONE\r\nBEGIN:VEVENT\r\nUID:a\r\n\
             DTSTART;TZID=Z:20260101T090000\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
            observance.repeat(observances)
        )
    };
    for (name, text) in [
        ("event", of_an_event),
        ("zone", zone(5_000, &rules("FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30", 1))),
        ("observance", zone(1, &none)),
    ] {
        let begun = std::time::Instant::now();
        let read = read(text.as_bytes(), &hurried);
        assert!(matches!(read, Err(CalendarError::TooSlow { .. })), "{name}: {read:?}");
        assert!(begun.elapsed() < hurried.max_time * 20, "{name} took {:?}", begun.elapsed());
    }

    // A zone that changes by the second is none, whoever it is that says so.
    for text in [zone(5_000, &rules("FREQ=SECONDLY", 1)), zone(1, &rules("FREQ=SECONDLY", 5_000))] {
        let begun = std::time::Instant::now();
        assert_eq!(skipped(&self::text(&text)), ["a: its time zone \"Z\" is neither known nor defined in the file"]);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    // Rules of other dates keep together what one may keep.
    let apart: String = (0..60).map(|minute| format!("RRULE:FREQ=HOURLY;BYMINUTE={minute}\r\n")).collect();
    let calendar = text(&of(&format!("UID:a\r\nDTSTART:20260101T090000Z\r\n{apart}SUMMARY:x")));
    assert_eq!((calendar.occurrences.len(), calendar.truncated[0].cut), (5_000, Cut::Occurrences(5_000)));

    // The memory of zones counts as that of occurrences does.
    let little = Reading { max_memory_bytes: 5_000, ..reading() };
    let yearly = read(zone(1, "RRULE:FREQ=YEARLY\r\n").as_bytes(), &reading()).unwrap();
    assert_eq!((yearly.occurrences.len(), yearly.skipped.len()), (1, 0));
    let weekly = zone(1, "RRULE:FREQ=WEEKLY\r\n");
    assert_eq!(read(weekly.as_bytes(), &reading()).unwrap().skipped.len(), 0);
    assert_eq!(read(weekly.as_bytes(), &little).unwrap().skipped.len(), 1);
}

#[test]
fn dates_at_the_end_of_time_are_skipped() {
    for date in ["99991231T235959Z", "-00011231T235959Z", "99991230T000000Z\r\nDURATION:P9999999W", "20240101T990000Z"] {
        let calendar = text(&of(&format!("UID:a\r\nDTSTART:{date}\r\nRRULE:FREQ=DAILY")));
        assert_eq!((calendar.occurrences.len(), calendar.skipped.len()), (0, 1), "{date}");
    }
}

#[test]
fn long_lines_and_deep_nests_are_bounded() {
    let long = "x".repeat(1_000_000);
    let calendar = text(&of(&format!("UID:{long}\r\nDTSTART:20240101T090000Z\r\nSUMMARY:{long}\r\nDESCRIPTION:{long}")));
    let occurrence = &calendar.occurrences[0];
    assert_eq!((occurrence.uid.len(), occurrence.title.chars().count()), (36, 1_001));

    let few = Reading { max_events: 1_000, ..reading() };
    let nested = format!("BEGIN:VCALENDAR\n{}", "BEGIN:VEVENT\n".repeat(900));
    assert_eq!(read(nested.as_bytes(), &few).unwrap().skipped.len(), 900);
    let nested = format!("BEGIN:VCALENDAR\n{}", "BEGIN:VEVENT\n".repeat(1_100));
    assert!(matches!(read(nested.as_bytes(), &few), Err(CalendarError::TooManyEvents { limit: 1_000 })));
    let dense = of(&format!("UID:a\r\nRDATE:{}", "2,".repeat(200_000)));
    assert!(matches!(read(dense.as_bytes(), &few), Err(CalendarError::TooDense)));
    let hurried = Reading { max_time: Duration::ZERO, ..reading() };
    assert!(matches!(read(of("UID:a").as_bytes(), &hurried), Err(CalendarError::TooSlow { .. })));
}

/// As the files here and those that fuzzing begins with are, and cut off or garbled in many places.
#[test]
fn whatever_is_read_can_be_imported() {
    let mut read = 0;
    for folder in ["tests/calendars", "../fuzz/seeds/calendar"] {
        for entry in std::fs::read_dir(format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
            let whole = std::fs::read(entry.unwrap().path()).unwrap();
            read += invariants::hold(&whole).0;
            for at in (0..whole.len()).step_by(61) {
                invariants::hold(&whole[..at]);
                let mut garbled = whole.clone();
                garbled[at] ^= 0x15;
                invariants::hold(&garbled);
            }
        }
    }
    assert!(read > 100, "{read}");
}

fn reading() -> Reading {
    Reading::new(TimeZone::get("Europe/Berlin").unwrap(), "2030-01-01T00:00:00Z".parse().unwrap())
}

fn fixture(name: &str) -> Calendar {
    let path = format!("{}/tests/calendars/{name}.ics", env!("CARGO_MANIFEST_DIR"));
    read(&std::fs::read(path).unwrap(), &reading()).unwrap()
}

fn of(event: &str) -> String {
    format!("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n{event}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n")
}

fn text(source: &str) -> Calendar {
    read(source.as_bytes(), &reading()).unwrap()
}

fn table(calendar: &Calendar) -> Vec<String> {
    let line = |occurrence: &Occurrence| {
        let (from, to) = (minute(occurrence.starts_at), minute(occurrence.ends_at));
        let uid = occurrence.uid.trim_end_matches("@lantern");
        let status = format!("{:?}", occurrence.status).to_lowercase();
        let called = [uid, &occurrence.recurrence, &occurrence.time_zone, &status].map(str::to_owned);
        let called: Vec<_> = called.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{from} to {to}, {}", called.join(" "))
    };
    calendar.occurrences.iter().map(line).collect()
}

fn skipped(calendar: &Calendar) -> Vec<String> {
    calendar.skipped.iter().map(|skipped| format!("{}: {}", skipped.what, skipped.reason)).collect()
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M").to_string()
}
