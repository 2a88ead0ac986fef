//! Boots a guest, runs the shell script on standard input in it, and prints what it said:
//! `cargo run --release -p tests --example guest < script`.

use std::io::{Error, Read};

use tests::{Guest, GuestOptions, Net};

fn main() -> Result<(), Error> {
    let mut script = String::new();
    std::io::stdin().read_to_string(&mut script)?;
    let net = Net::new();
    let mut guest = Guest::boot(&net, &GuestOptions::default());
    println!("{}", guest.run(&script));
    println!("{}", guest.console());
    Ok(())
}
