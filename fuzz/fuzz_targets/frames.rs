//! Frames of HTTP/2: whatever they are, their connection ends with its client, nothing of it stays in flight, and what comes back
//! is frames.
#![no_main]

use fuzz::{frame, house::House};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let house = House::open();
    let answer = house.connection(&frame::read(file));
    assert!(frame::are_frames(&answer), "{answer:?}");
    let status = house.status();
    assert!(status.is_idle(), "{status:?} is in flight after the connection has ended");
});
