//! Time per request, without a socket and a database.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{Ask, Bench};

fn answers(criterion: &mut Criterion) {
    let bench = Bench::new();
    for (name, ask) in [
        ("call", Ask::Call),
        ("list", Ask::List),
        ("ping", Ask::Ping),
        ("initialize", Ask::Initialize),
        ("discover", Ask::Discover),
    ] {
        criterion.bench_function(name, |bencher| bencher.iter(|| bench.ask(ask)));
    }
}

criterion_group!(benches, answers);
criterion_main!(benches);
