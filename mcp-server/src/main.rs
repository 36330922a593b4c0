//! The appointments server: what it can be told to do. `serve` is what it does when nobody says.
fn main() {}
