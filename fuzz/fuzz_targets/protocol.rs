//! Messages: whatever comes to a door, its answer keeps what every answer promises, and the next caller notices nothing.
#![no_main]

use fuzz::{house::House, request};
use libfuzzer_sys::fuzz_target;
use mcp_server::testing;

/// How many requests make a conversation.
const MOST: usize = 6;

fuzz_target!(|file: &[u8]| {
    let house = House::open();
    let needs_session = file.windows(7).any(|window| window == b"SESSION");
    let session = needs_session.then(|| house.session()).unwrap_or_default();
    for asked in request::read(file, MOST, &[("SESSION", &session)]) {
        let asked = asked.to_a_host();
        let answer = house.ask(&asked);
        let is_mcp = asked.uri.path() == "/mcp";
        if is_mcp {
            let flaw = testing::flaw(&asked.body, answer.status, &answer.headers, &answer.body);
            assert!(flaw.is_none(), "{}\n{asked:?}\n{answer:?}", flaw.unwrap_or_default());
        } else {
            assert!(!answer.status.is_server_error(), "{asked:?}\n{answer:?}");
        }
        let is_stream = answer.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        assert!(answer.ended || is_stream, "an answer without end\n{asked:?}\n{answer:?}");
    }
    if needs_session {
        house.end(&session);
    }
});
