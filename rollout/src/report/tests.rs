//! What the page promises: no word of it is markup, nothing covers anything, and figures are what they were.

use super::{
    chart::{Point, Scale, segments, thinned},
    flags::{WIDE, grouped, in_words},
    *,
};

const BEGAN: u64 = 1_795_660_200_000;
const HOSTILE: &str = "</title></script></style><script>alert(1)</script><img src=x onerror=\"alert(2)\">'&\u{202e}\0";

fn report() -> Report {
    let side = |color, build: &str| Side { color, build: Some(build.to_owned()) };
    let (blue, green) = (side(Color::Blue, "1.9.4+41d07be"), side(Color::Green, "2.0.0+8f3a1c"));
    let step = StepLine {
        name: "Place green".to_owned(),
        began_ms: BEGAN + 200,
        took_ms: 9400,
        outcome: StepOutcome::Passed,
        words: "3 replicas are up.".to_owned(),
        details: vec![("Replicas".to_owned(), "3 of 3".to_owned())],
    };
    Report {
        id: "20261126T023000Z-deploy-green".to_owned(),
        goal: "deploy".to_owned(),
        platform: "local".to_owned(),
        by: "ada@host".to_owned(),
        from: blue,
        to: green,
        outcome: Outcome::Done,
        reason: None,
        began_ms: BEGAN,
        ended_ms: Some(BEGAN + 90_000),
        steps: vec![step],
        events: vec![event(40_000, "switched to green")],
        samples: (0..180).map(|index| sample(index * 500, 120.0)).collect(),
        switches: vec![SwitchProof {
            to: Color::Green,
            at_ms: BEGAN + 40_000,
            first_answer_ms: 1.23,
            whole_ms: 48.4,
            answers: 50,
        }],
    }
}

fn event(at: u64, words: &str) -> Event {
    Event { at_ms: BEGAN + at, words: words.to_owned(), color: Some(Color::Green) }
}

fn sample(at: u64, calls_per_second: f64) -> Sample {
    let blue = Figures { calls_per_second, p50_ms: Some(3.0), p99_ms: Some(18.0), streams: 4, ..Figures::default() };
    Sample { at_ms: BEGAN + at, blue, green: Figures::default() }
}

fn bare() -> Report {
    Report { steps: vec![], events: vec![], samples: vec![], switches: vec![], ..report() }
}

/// The tags that are open in turn; fails where one is closed that is not the last opened.
fn check_tags(page: &str) {
    let mut open = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        let name = tag.split([' ', '\n', '/']).find(|name| !name.is_empty()).expect("a tag has a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "before {:.80}", rest);
        } else if !tag.ends_with('/') && !matches!(name, "!doctype" | "meta") {
            open.push(name);
        }
        if name == "script" && !tag.starts_with('/') {
            rest = &rest[rest.find("</script>").expect("a script ends")..];
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn hostile_words_are_never_markup() {
    let words = || HOSTILE.to_owned();
    let mut report = report();
    (report.id, report.goal, report.platform, report.by) = (words(), words(), words(), words());
    (report.from.build, report.to.build, report.reason) = (Some(words()), Some(words()), Some(words().repeat(9)));
    report.steps[0].name = words();
    report.steps[0].words = words();
    report.steps[0].details = vec![(words(), words())];
    for outcome in [Outcome::Done, Outcome::RolledBack, Outcome::Failed, Outcome::Refused, Outcome::Running] {
        report.outcome = outcome;
        report.events = vec![event(40_000, HOSTILE)];
        let page = html(&report);
        check_tags(&page);
        assert_eq!(page.matches("<script").count(), 2, "the page's own, and no other");
        assert!(!page.contains("<img") && !page.contains("onerror=\""));
        assert!(!page.contains('\u{202e}') && !page.contains('\0'));
        assert!(page.contains("&lt;img src=x onerror=&quot;alert(2)&quot;&gt;&#39;&amp;"), "it is shown");
    }
}

/// What a policy of hashes leaves out does not run: attributes that style or act, and every sheet and script but the page's own.
#[test]
fn the_policy_names_the_one_sheet_and_the_one_script_and_nothing_inline() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use sha2::{Digest, Sha256};

    let mut report = report();
    report.steps[0].words = "a style=\"left:0\" b onclick=\"c\" \u{201c}style=".to_owned();
    report.events.push(event(41_000, " style=\"top:0\""));
    for report in [report, bare()] {
        let page = html(&report);
        let policy = page.split("Content-Security-Policy\" content=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        assert!(!policy.contains("unsafe") && policy.starts_with("default-src 'none'"), "{policy}");
        let between = |open: &str, close: &str| page.split(open).nth(1).and_then(|rest| rest.split(close).next()).unwrap();
        for (directive, content) in
            [("style-src", between("<style>", "</style>")), ("script-src", between("<script>", "</script>"))]
        {
            let hash = format!("{directive} 'sha256-{}'", STANDARD.encode(Sha256::digest(content)));
            assert!(policy.contains(&hash), "{hash} is not in {policy}");
        }
        let body = page.split("<body>").nth(1).and_then(|rest| rest.split("<script").next()).unwrap();
        let mut rest = body;
        while let Some((_, after)) = rest.split_once('<') {
            let (tag, after) = after.split_once('>').unwrap();
            for inline in [" style=", " onclick=", " onload=", " onerror="] {
                assert!(!tag.contains(inline), "<{tag}> is not what the policy allows");
            }
            rest = after;
        }
        // What was an attribute is a rule, and each rule is used.
        for number in page.split("[data-s=\"").skip(1).map(|rule| rule.split('"').next().unwrap()) {
            assert!(body.contains(&format!(" data-s=\"{number}\"")), "rule {number}");
        }
        assert_eq!(body.contains(" data-s="), page.contains("!important}"), "elements without rules");
    }
}

#[test]
fn a_page_asks_for_nothing_from_elsewhere() {
    let page = html(&report());
    check_tags(&page);
    for forbidden in ["http://", "https://", "url(", "src=", "@import", "<link", "fetch("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn a_report_without_anything_in_it_is_a_page() {
    let bare = bare();
    let page = html(&bare);
    check_tags(&page);
    assert!(page.contains("Nothing was recorded."));
    assert!(!page.contains("NaN") && !page.contains("inf"));
    let beyond = Report { began_ms: u64::MAX, ended_ms: Some(0), ..bare };
    check_tags(&html(&beyond));
}

#[test]
fn one_sample_is_a_dot() {
    let mut report = bare();
    report.samples = vec![sample(0, 120.0)];
    let page = html(&report);
    check_tags(&page);
    assert!(page.contains("class=\"dot blue\" d=\"M0.0 23.2h.01\""), "120 of 150 on 116 pixels");
    assert!(!page.contains("NaN"));
}

#[test]
fn figures_that_are_no_numbers_are_left_out() {
    let mut report = report();
    report.samples[7].blue.calls_per_second = f64::NAN;
    report.samples[8].blue.p99_ms = Some(f64::INFINITY);
    let page = html(&report);
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn the_sentence_says_what_came_of_it() {
    let says = |outcome, goal: &str| {
        let report = Report { outcome, goal: goal.to_owned(), ..report() };
        sentence(&report, plain_side)
    };
    assert_eq!(says(Outcome::Done, "deploy"), "green 2.0.0+8f3a1c is live");
    assert_eq!(says(Outcome::RolledBack, "deploy"), "Rolled back to blue 1.9.4+41d07be");
    assert_eq!(says(Outcome::Running, "switch"), "Switching to green 2.0.0+8f3a1c");
    assert_eq!(says(Outcome::Done, "retire"), "blue is retired, green 2.0.0+8f3a1c is live");
    assert_eq!(says(Outcome::Failed, "rollback"), "The rollback to green 2.0.0+8f3a1c failed");
    assert_eq!(says(Outcome::Refused, "deploy"), "The deploy of green 2.0.0+8f3a1c was refused");
}

#[test]
fn a_reason_follows_the_sentence_or_stands_below_it() {
    let with = |reason: &str| html(&Report { outcome: Outcome::RolledBack, reason: Some(reason.to_owned()), ..report() });
    assert!(with("too slow").contains("<span class=\"why\">: too slow</span></h1>"));
    let long = "slow ".repeat(40);
    assert!(with(&long).contains(&format!("<p class=\"reason\">{}</p>", long.trim())));
    let longer = "slow ".repeat(400);
    assert!(with(&longer).contains("<details class=\"reason\">") && with(&longer).contains(longer.trim()));
}

#[test]
fn thinning_keeps_the_peak_and_the_dip() {
    let mut points: Vec<Point> = (0..9000).map(|index| (index * 500, Some(100.0 + (index % 7) as f64))).collect();
    points[4321].1 = Some(900.0);
    points[6543].1 = Some(0.5);
    points[3000..3400].iter_mut().for_each(|point| point.1 = None);
    let thinned = thinned(&points, POINTS);
    assert!(thinned.len() <= POINTS && thinned.len() > POINTS / 2, "{}", thinned.len());
    assert!(thinned.contains(&(4321 * 500, Some(900.0))) && thinned.contains(&(6543 * 500, Some(0.5))));
    assert!(thinned.is_sorted_by_key(|point| point.0));
    assert_eq!(segments(&thinned).len(), 2, "what was not measured is not drawn");
}

#[test]
fn folding_keeps_the_peak_of_errors_and_the_mean_of_calls() {
    let mut samples: Vec<_> = (0..6000).map(|index| sample(index * 500, [90.0, 110.0][index as usize % 2])).collect();
    samples[1234].green.errors_per_second = 77.0;
    let folded = folded(&samples, ROWS);
    assert_eq!(folded.len(), ROWS);
    assert!(folded.iter().any(|sample| sample.green.errors_per_second == 77.0));
    assert!(folded.iter().all(|sample| (sample.blue.calls_per_second - 100.0).abs() < 1e-9));
    assert_eq!(folded[0].green.p99_ms, None);
}

#[test]
fn silence_is_not_drawn_over() {
    let points: Vec<Point> = [0, 500, 1000, 9000, 9500].map(|at| (at, Some(1.0))).into();
    assert_eq!(segments(&points).iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
    let points: Vec<Point> = [0, 500, 1000, 1500].map(|at| (at, (at != 500).then_some(1.0))).into();
    assert_eq!(segments(&points).iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn words_above_the_charts_never_cover_words() {
    const LONG: &str = "errors of green are over the limit";
    let cases = [
        (3.0, LONG, false, false),
        (30.0, LONG, false, false),
        (90.0, LONG, true, false),
        (100.0, "switched to green", true, true),
    ];
    for (apart, words, room, clear) in cases {
        let xs: Vec<_> = (0..4).chain((apart < 40.0).then_some(4)).map(|index| f64::from(index) * apart).collect();
        let events: Vec<_> = xs.iter().map(|_| event(0, words)).collect();
        let flags = in_words(&events, &xs);
        assert_eq!(flags.is_some(), room, "{apart} pixels apart");
        let flags = flags.unwrap_or_default();
        for (index, one) in flags.iter().enumerate() {
            assert!(flags[..index].iter().all(|other| !one.overlaps(other)), "{flags:?}");
            assert!(!clear || flags[..index].iter().all(|other| !one.crosses(other)), "{flags:?}");
            assert!(one.left >= -40.0 && one.right <= WIDE + 12.0);
        }
    }
}

#[test]
fn thirty_events_are_numbered_without_one_over_another() {
    let xs: Vec<_> = (0..30).map(|index| f64::from(index * index) * 0.3).collect();
    let groups = grouped(&xs);
    assert_eq!((groups[0].0, groups[groups.len() - 1].1), (0, 29));
    for pair in groups.windows(2) {
        assert_eq!(pair[0].1 + 1, pair[1].0, "every event is in one");
        let centers = [pair[0], pair[1]].map(|(first, last)| (xs[first] + xs[last]) / 2.0);
        assert!(centers[1] - centers[0] >= 24.0, "{groups:?}");
    }
    let mut report = report();
    report.events = (0..30).map(|index| event(index * index * 100, &format!("event {index}"))).collect();
    let page = html(&report);
    check_tags(&page);
    assert_eq!(page.matches("<span class=\"words\">event ").count(), 30, "all are told below");
}

#[test]
fn what_was_live_is_told_only_where_the_switches_agree_with_the_outcome() {
    let report = report();
    let told = live(&report, Span::of(&report));
    assert!(told.contains("Live: blue from 02:30:00 to 02:30:40, green from 02:30:40 to 02:31:30."), "{told}");
    let contradicted = Report { outcome: Outcome::RolledBack, ..report };
    assert_eq!(live(&contradicted, Span::of(&contradicted)), "");
}

#[test]
fn a_running_report_ends_where_it_was_last_seen() {
    let mut report = report();
    (report.outcome, report.ended_ms) = (Outcome::Running, None);
    report.samples.truncate(100);
    assert_eq!(Span::of(&report).to, BEGAN + 49_500);
    assert!(html(&report).contains("<dt>Running for</dt><dd>50 s</dd>"));
}

#[test]
fn times_are_utc_and_say_so() {
    let page = html(&report());
    assert!(page.contains("<time datetime=\"2026-11-26T02:30:00Z\">2026-11-26 02:30:00 <abbr>UTC</abbr></time>"));
    assert!(page.contains("<time datetime=\"2026-11-26T02:30:40Z\">02:30:40 <abbr>UTC</abbr></time>"));
}

#[test]
fn durations_are_rounded_to_what_matters() {
    let cases = [
        (0.0, "0 ms"),
        (0.01, "under 0.1 ms"),
        (1.23, "1.2 ms"),
        (9.96, "10 ms"),
        (48.2, "48 ms"),
        (999.6, "1 s"),
        (1300.0, "1.3 s"),
        (59_600.0, "1 min"),
        (90_000.0, "1 min 30 s"),
        (720_000.0, "12 min"),
        (3_590_000.0, "1 h"),
        (7_500_000.0, "2 h 5 min"),
        (200_000_000.0, "2 d 7 h"),
        (f64::NAN, "–"),
    ];
    for (ms, words) in cases {
        assert_eq!(duration(ms), words, "{ms}");
    }
    assert_eq!([0.0, 0.01, 0.42, 9.0, 120.4, 10_800.0].map(count), ["0", "under 0.1", "0.4", "9", "120", "10\u{202f}800"]);
    assert_eq!([0, 9_470, 70_000, 3_723_000].map(offset), ["+0:00.0", "+0:09.4", "+1:10.0", "+1:02:03"]);
}

#[test]
fn scales_end_at_round_figures() {
    let scale = Scale::even(132.0, 4, false);
    assert_eq!((scale.high, scale.ticks), (150.0, vec![0.0, 50.0, 100.0, 150.0]));
    assert_eq!(Scale::even(0.0, 2, true).ticks, [0.0, 1.0]);
    assert_eq!(Scale::even(3.0, 2, true).ticks, [0.0, 2.0, 4.0]);
    let scale = Scale::log(2.9, 930.0);
    assert_eq!((scale.low, scale.high, scale.ticks), (2.0, 1000.0, vec![10.0, 100.0, 1000.0]));
    assert_eq!((Scale::log(2.9, 930.0).y(1000.0, 100.0), Scale::log(2.9, 930.0).y(0.0, 100.0)), (0.0, 100.0));
}

#[test]
fn a_report_is_read_as_it_is_written() {
    let report = Report { outcome: Outcome::RolledBack, reason: Some("too slow".to_owned()), ..report() };
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("\"outcome\":\"rolledBack\"") && text.contains("\"firstAnswerMs\":1.23"));
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
}
