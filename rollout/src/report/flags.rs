//! What happened, in words above the charts, none over another's.

use std::fmt::Write as _;

use bg_runtime::Color;

use super::{
    Event, Span,
    words::{Text, shortened},
};

/// Where an event's words stand, above the charts.
#[derive(Debug, PartialEq)]
pub(super) struct Flag {
    pub(super) lane: usize,
    /// Where the event is, and from where to where its words reach: pixels of a plot that is [`WIDE`].
    pub(super) x: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    /// Whether the words stand before the line and not after it.
    pub(super) before: bool,
    pub(super) words: String,
}

/// Looks for places for the words of all events.
pub(super) struct Placing<'a> {
    pub(super) words: &'a [String],
    pub(super) xs: &'a [f64],
    pub(super) lanes: usize,
    /// Whether lines may not go behind words.
    pub(super) clear: bool,
}

/// The width that words above the charts are laid out for, and that of a phone: pixels. A plot may be wider than that.
pub(super) const WIDE: f64 = 720.0;
pub(super) const NARROW: f64 = 290.0;
/// Words above the charts have this many lanes at most, are cut to one of these lengths, and so many places are tried.
pub(super) const LANES: usize = 4;
pub(super) const FLAG_CHARACTERS: [usize; 2] = [40, 24];
pub(super) const TRIES: u32 = 20_000;
/// How high a lane is: pixels.
pub(super) const LANE: usize = 26;

/// The row above the charts that names the events: in words where there is room for all of them, otherwise by number.
pub(super) fn flags(events: &[Event], span: Span) -> String {
    if events.is_empty() {
        return String::new();
    }
    let place = |width: f64| events.iter().map(|event| span.x(event.at_ms) * width).collect::<Vec<_>>();
    let class = |event: &Event| event.color.map_or("plain", Color::as_str);
    let by_number = |width: f64| {
        let mut numbers = String::new();
        for (first, last) in grouped(&place(width)) {
            let x = (span.x(events[first].at_ms) + span.x(events[last].at_ms)) * 50.0;
            let (class, words) = match last - first {
                0 => (class(&events[first]), format!("{}", first + 1)),
                _ => ("plain", format!("{}–{}", first + 1, last + 1)),
            };
            let _ = write!(numbers, "<b class=\"number {class}\" style=\"left:{x:.2}%\">{words}</b>");
        }
        format!("<div class=\"flags\" style=\"height:{LANE}px\">{numbers}</div>")
    };
    let wide = match in_words(events, &place(WIDE)) {
        None => by_number(WIDE),
        Some(flags) => {
            let lanes = flags.iter().map(|flag| flag.lane + 1).max().unwrap_or(1);
            let mut words = String::new();
            for (index, (flag, event)) in flags.iter().zip(events).enumerate() {
                let (x, top, color) = (span.x(event.at_ms) * 100.0, flag.lane * LANE, class(event));
                let side = match flag.before {
                    true => format!("right:calc({:.2}% - 10px)", 100.0 - x),
                    false => format!("left:calc({x:.2}% - 10px)"),
                };
                let _ = write!(
                    words,
                    "<i class=\"mark {color}\" style=\"left:{x:.2}%;top:{}px\"></i><span class=\"flag {color}{}\" \
                     style=\"{side};top:{top}px;max-width:{:.0}px\"><b class=\"number {color}\">{}</b><span>{}</span></span>",
                    top + 10,
                    if flag.before { " before" } else { "" },
                    flag.right - flag.left,
                    index + 1,
                    Text(&flag.words),
                );
            }
            format!("<div class=\"flags\" style=\"height:{}px\">{words}</div>", lanes * LANE)
        }
    };
    format!(
        "<div class=\"row head-row\" aria-hidden=\"true\"><div class=\"legend\"><h3>Events</h3></div><div class=\"frame wide\">\
         {wide}</div><div class=\"frame narrow\">{}</div></div>\n",
        by_number(NARROW)
    )
}

// === impl Flag ===

impl Flag {
    /// Whether they are over one another.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.lane == other.lane && self.left < other.right + 8.0 && other.left < self.right + 8.0
    }

    /// Whether the line of one, which goes down from its words, goes through the other's words.
    pub(super) fn crosses(&self, other: &Self) -> bool {
        let (upper, lower) = if self.lane < other.lane { (self, other) } else { (other, self) };
        upper.lane != lower.lane && upper.x > lower.left - 4.0 && upper.x < lower.right + 4.0
    }
}

// === impl Placing ===

impl Placing<'_> {
    pub(super) fn placed(&self) -> Option<Vec<Flag>> {
        let mut flags = Vec::new();
        self.place(&mut flags, &mut { TRIES }).then_some(flags)
    }

    /// Places the rest, going back on what was placed where that leaves no room. False when it cannot be done.
    pub(super) fn place(&self, flags: &mut Vec<Flag>, tries: &mut u32) -> bool {
        let Some((words, &x)) = self.words.get(flags.len()).zip(self.xs.get(flags.len())) else {
            return true;
        };
        // Seven pixels are enough for a character of the widest font that there is by default.
        let width = 38.0 + words.chars().count() as f64 * 7.0;
        for lane in 0..self.lanes {
            for (before, left) in [(false, x - 10.0), (true, x + 10.0 - width)] {
                if *tries == 0 {
                    return false;
                }
                *tries -= 1;
                let flag = Flag { lane, x, left, right: left + width, before, words: words.clone() };
                let taken = |other: &Flag| other.overlaps(&flag) || (self.clear && other.crosses(&flag));
                if left < -40.0 || flag.right > WIDE + 12.0 || flags.iter().any(taken) {
                    continue;
                }
                flags.push(flag);
                if self.place(flags, tries) {
                    return true;
                }
                flags.pop();
            }
        }
        false
    }
}

/// Numbered events side by side, those that are too close to each other as one: the first and last of each.
pub(super) fn grouped(xs: &[f64]) -> Vec<(usize, usize)> {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    let reach = |&(first, last): &(usize, usize)| {
        let (center, half) = ((xs[first] + xs[last]) / 2.0, if first == last { 12.0 } else { 25.0 });
        (center - half, center + half)
    };
    for index in 0..xs.len() {
        groups.push((index, index));
        while let [.., before, after] = groups.as_slice()
            && reach(before).1 > reach(after).0
        {
            let both = (before.0, after.1);
            groups.truncate(groups.len() - 2);
            groups.push(both);
        }
    }
    groups
}

/// Events in words, none over another's words: uncut if that can be, none over another's line if that can be, and in as few
/// lanes as will do. `None` when there is no room for all.
pub(super) fn in_words(events: &[Event], xs: &[f64]) -> Option<Vec<Flag>> {
    FLAG_CHARACTERS.into_iter().find_map(|characters| {
        let words: Vec<_> = events.iter().map(|event| shortened(&event.words, characters)).collect();
        let mut ways = [true, false].into_iter().flat_map(|clear| (1..=LANES).map(move |lanes| (clear, lanes)));
        ways.find_map(|(clear, lanes)| Placing { words: &words, xs, lanes, clear }.placed())
    })
}
