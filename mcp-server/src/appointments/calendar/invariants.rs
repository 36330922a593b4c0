//! What must hold of any file whatsoever, for tests and for the fuzzer: reading ends, within its limits, with occurrences that an
//! import can store.

use std::time::{Duration, Instant};

use jiff::{Timestamp, tz::TimeZone};

use super::{Calendar, CalendarError, Occurrence, Reading, read};

/// Reads a file as an import does, with smaller limits, and says how many occurrences and remarks came of it. No file at all is
/// no reason to panic; an outcome that an import could not store is.
///
/// # Panics
/// When something does not hold.
pub(crate) fn hold(bytes: &[u8]) -> (usize, usize) {
    let until = Timestamp::from_second(1_830_297_600).expect("a time in 2028");
    let mut reading = Reading::new(TimeZone::get("Europe/Berlin").expect("a zone"), until);
    reading.max_memory_bytes = 16 << 20;
    reading.max_time = Duration::from_secs(2);
    let begun = Instant::now();
    let calendar = match read(bytes, &reading) {
        Ok(calendar) => calendar,
        Err(CalendarError::TooSlow { .. }) => return (0, 0),
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty(), "a refusal says why");
            return (0, 0);
        }
    };
    assert!(begun.elapsed() < reading.max_time * 4, "reading took {:?}", begun.elapsed());
    are_storable(&calendar);
    are_within(&calendar, &reading, bytes.len());
    (calendar.occurrences.len(), calendar.skipped.len() + calendar.truncated.len())
}

fn are_storable(calendar: &Calendar) {
    let mut names: Vec<_> = calendar.occurrences.iter().map(|one| (&*one.uid, &*one.recurrence)).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two occurrences have one name");
    let order = |one: &Occurrence| (one.starts_at, one.uid.clone(), one.recurrence.clone());
    assert!(calendar.occurrences.is_sorted_by_key(order), "occurrences are not in order");
    for one in &calendar.occurrences {
        assert!(one.starts_at <= one.ends_at, "{} ends before it starts", one.uid);
        assert!(!one.uid.is_empty() && one.uid.len() <= 1_000, "a UID of {} bytes", one.uid.len());
        assert!(!one.title.is_empty() && one.title.chars().count() <= 1_001, "a title of {} bytes", one.title.len());
        assert!(one.location.as_ref().is_none_or(|text| text.chars().count() <= 1_001), "a place is too long");
        assert!(one.description.as_ref().is_none_or(|text| text.chars().count() <= 32_001), "a description is too long");
        assert!(one.sequence >= 0, "a revision below zero");
        assert!(TimeZone::get(&one.time_zone).is_ok(), "`{}` is no zone", one.time_zone);
        // PostgreSQL takes no NUL, and a person no bell.
        let texts = [Some(&one.uid), Some(&one.title), one.description.as_ref(), one.location.as_ref()];
        let is_bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        assert!(!texts.into_iter().flatten().any(|text| text.contains(is_bad)), "{} holds a control character", one.uid);
    }
}

fn are_within(calendar: &Calendar, reading: &Reading, bytes: usize) {
    let text = |one: &Occurrence| {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        one.uid.len() + one.title.len() + optional(&one.description) + optional(&one.location)
    };
    let held: usize = calendar.occurrences.iter().map(|one| size_of::<Occurrence>() + text(one)).sum();
    assert!(held <= reading.max_memory_bytes, "{held} bytes of occurrences");
    assert!(calendar.skipped.len() + calendar.truncated.len() <= bytes, "more remarks than bytes");
}
