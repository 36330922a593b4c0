//! Calendar files: reading one ends, within its limits, with what an import can store.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    mcp_server::appointments::read_whatever_it_is(file);
});
