//! Instructions per request, by callgrind: they repeat to half a percent whatever else the machine does.
#![expect(missing_docs, reason = "the benchmark macros make public items without documentation")]

mod support;

use bytes::Bytes;
use gungraun::{library_benchmark, library_benchmark_group, main};
use support::{Ask, Bench};

fn ready(ask: Ask) -> (Bench, Ask) {
    (Bench::new(), ask)
}

#[library_benchmark(setup = ready)]
#[bench::call(Ask::Call)]
#[bench::list(Ask::List)]
#[bench::ping(Ask::Ping)]
#[bench::initialize(Ask::Initialize)]
#[bench::discover(Ask::Discover)]
fn answer((bench, ask): (Bench, Ask)) -> (Bench, Bytes) {
    let answer = bench.ask(ask);
    // Handed out, so that tearing the server down is not measured.
    (bench, answer)
}

library_benchmark_group!(name = answers, benchmarks = answer);
main!(library_benchmark_groups = answers);
