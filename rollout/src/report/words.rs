//! The words of the page: what comes from outside made harmless, and figures as people read them.

use std::fmt::{self, Write as _};

use jiff::Timestamp;

/// Words from outside, as text of the page. Nothing in them is markup, and nothing turns the direction of the line.
pub(super) struct Text<'a>(pub(super) &'a str);

// === impl Text ===

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(character)?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char(char::REPLACEMENT_CHARACTER)?,
                control if control.is_control() => f.write_char(char::REPLACEMENT_CHARACTER)?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

pub(super) fn shortened(words: &str, at_most: usize) -> String {
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= at_most {
        return words;
    }
    let start: String = words.chars().take(at_most - 1).collect();
    format!("{}…", start.trim_end())
}

/// Milliseconds as one reads them: `1.2 ms`, `48 ms`, `1.3 s`, `12 min`.
pub(super) fn duration(ms: f64) -> String {
    if !ms.is_finite() {
        return "–".to_owned();
    }
    let ms = ms.max(0.0);
    let seconds = (ms / 1000.0).round() as u64;
    let two = |large: u64, unit: &str, small: u64, of: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {of}"),
    };
    match ms {
        0.0 => "0 ms".to_owned(),
        _ if ms < 0.05 => "under 0.1 ms".to_owned(),
        _ if ms < 9.95 => tenths(ms) + " ms",
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ if ms < 9950.0 => tenths(ms / 1000.0) + " s",
        _ if seconds < 60 => format!("{seconds} s"),
        _ if seconds < 600 => two(seconds / 60, "min", seconds % 60, "s"),
        _ if seconds < 3570 => format!("{:.0} min", ms / 60_000.0),
        _ if seconds < 172_800 => {
            let minutes = (seconds + 30) / 60;
            two(minutes / 60, "h", minutes % 60, "min")
        }
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// How long after the beginning, in columns: `+0:09.4` is minutes and seconds, `+1:02:03` hours too.
pub(super) fn offset(ms: u64) -> String {
    let tenths = ms / 100;
    match tenths / 36_000 {
        0 => format!("+{}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10),
        hours => format!("+{hours}:{:02}:{:02}", tenths / 600 % 60, tenths / 10 % 60),
    }
}

/// A number as one reads it: `0.4`, `120`, `10 800`.
pub(super) fn count(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value < 9.95 {
        return if value > 0.0 && value < 0.05 { "under 0.1".to_owned() } else { tenths(value.max(0.0)) };
    }
    let digits = format!("{value:.0}");
    let mut spaced = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            spaced.push('\u{202f}');
        }
        spaced.push(digit);
    }
    spaced
}

pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        tiny if tiny < 0.05 => "under 0.1 %".to_owned(),
        small if small < 9.95 => format!("{small:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// With one decimal, unless that is 0.
pub(super) fn tenths(value: f64) -> String {
    let words = format!("{value:.1}");
    words.strip_suffix(".0").map_or(words.clone(), str::to_owned)
}

pub(super) fn timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

/// The time of day in UTC.
pub(super) fn clock(ms: u64) -> String {
    timestamp(ms).map_or_else(|| "–".to_owned(), |at| at.strftime("%H:%M:%S").to_string())
}

pub(super) fn date(ms: u64) -> String {
    timestamp(ms).map_or_else(|| "–".to_owned(), |at| at.strftime("%Y-%m-%d").to_string())
}

/// A moment for people and machines.
pub(super) fn time(ms: u64, dated: bool) -> String {
    let Some(at) = timestamp(ms) else {
        return format!("{ms} ms");
    };
    let date = if dated { date(ms) + " " } else { String::new() };
    format!("<time datetime=\"{at}\">{date}{} <abbr>UTC</abbr></time>", clock(ms))
}
