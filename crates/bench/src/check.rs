//! A short check of a disk: writes its beginning over NVMe/TCP as a host does, and reads it back.

use crate::host::{HostError, Options, Session};
use indicatif::{ProgressBar, ProgressStyle};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use wire::nvme::Nqn;

/// How much is written and read back: two seconds on a slow machine.
const CHECK_BYTES: usize = 64 << 20;
/// Bytes of one command.
const STEP_BYTES: usize = 128 << 10;

/// What was checked.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// MiB written, and as many read.
    pub mib: usize,
    /// How long both took.
    pub seconds: f64,
}

/// What block `index` holds: its own number and a mix of it, so that a block in the wrong place or
/// half a block shows.
fn fill(step: u64, bytes: &mut [u8]) {
    for (word, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let value = (step << 32 | word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&value.to_le_bytes());
    }
}

/// Writes and reads the first 64 MiB of namespace 1, with a progress bar on a terminal, and leaves
/// zeroes there. Meant for a disk that nobody uses yet.
///
/// # Errors
/// Why the host could not do its work, or where what it read was not what it wrote.
pub fn check(address: SocketAddr, nqn: &str) -> Result<Checked, HostError> {
    let nqn = Nqn::parse(nqn).map_err(|e| HostError::Invalid(e.to_string()))?;
    let began = Instant::now();
    let mut session = Session::connect(address, &nqn, Options::default())?;
    let checked = exchange(&mut session);
    let closed = session.close();
    checked.and(closed)?;
    Ok(Checked {
        mib: CHECK_BYTES >> 20,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn exchange(session: &mut Session) -> Result<(), HostError> {
    let namespace = session.namespace(1)?;
    let blocks = (STEP_BYTES / namespace.stride()) as u64;
    let steps = (CHECK_BYTES / STEP_BYTES) as u64;
    let bar = bar(2 * steps);
    let mut wanted = vec![0; STEP_BYTES];
    bar.set_message("writing");
    for step in 0..steps {
        fill(step, &mut wanted);
        session.write(&namespace, step * blocks, &wanted)?;
        bar.inc(1);
    }
    session.flush(&namespace)?;
    bar.set_message("reading");
    for step in 0..steps {
        let seen = session.read(&namespace, step * blocks, blocks as u32)?;
        fill(step, &mut wanted);
        if seen != wanted {
            let at = step * blocks;
            return Err(HostError::Protocol(format!(
                "what was read at block {at} is not what was written"
            )));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    // The demo disk starts empty: hosts must not take the pattern for a file system.
    for step in 0..steps {
        let zeroed = session.write_zeroes(&namespace, step * blocks, blocks as u32);
        zeroed?;
    }
    Ok(())
}

/// Hidden by itself when nobody looks: the library draws on terminals only.
fn bar(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("  check {msg:8} [{bar:40}] {percent}% {elapsed}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn no_two_steps_hold_the_same_words() {
        let (mut one, mut two) = ([0; 64], [0; 64]);
        fill(1, &mut one);
        fill(2, &mut two);
        assert!(
            one.chunks(8)
                .all(|word| two.chunks(8).all(|other| other != word))
        );
    }
}
