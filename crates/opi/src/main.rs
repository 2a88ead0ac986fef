//! The one binary: picks the program.

fn main() {}
