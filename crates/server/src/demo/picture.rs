//! The picture of the chain with live rates: redrawn in place on a terminal, else a line when what
//! happens changes.

use std::io::Write as _;

/// What is to be seen at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// I/Os per second at the host.
    pub(super) host: f64,
    /// I/Os per second that come in by each path; `None` while it is cut.
    pub(super) paths: [Option<f64>; 2],
    /// What happens.
    pub(super) caption: String,
}

/// The place on the screen.
pub(super) struct Picture {
    terminal: bool,
    /// Lines to go up before drawing again.
    drawn: usize,
    caption: String,
}

impl Picture {
    pub(super) fn new(terminal: bool) -> Self {
        Self {
            terminal,
            drawn: 0,
            caption: String::new(),
        }
    }

    pub(super) fn show(&mut self, frame: &Frame) {
        let mut out = std::io::stdout().lock();
        // A terminal that went away must not end the demo.
        let _ = out.write_all(self.next(frame).as_bytes());
        let _ = out.flush();
    }

    /// Leaves the last frame on the screen.
    pub(super) fn end(&mut self) {
        self.drawn = 0;
    }

    fn next(&mut self, frame: &Frame) -> String {
        if !self.terminal {
            if frame.caption == self.caption {
                return String::new();
            }
            self.caption.clone_from(&frame.caption);
            let [a, b] = frame.paths.map(rate);
            let host = rate(Some(frame.host));
            return format!(
                "  host {host}   path a {a}   path b {b}   {}\n",
                frame.caption
            );
        }
        let text = draw(frame);
        let up = match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        };
        self.drawn = text.lines().count();
        up + &text
    }
}

/// A rate, as wide as always.
fn rate(rate: Option<f64>) -> String {
    let text = rate.map_or_else(|| "cut".to_owned(), |rate| format!("{rate:.0} IO/s"));
    format!("{text:>11}")
}

fn draw(frame: &Frame) -> String {
    let host = rate(Some(frame.host));
    let path = |name: &str, up: Option<f64>| {
        let line = if up.is_some() { "------" } else { "--  X " };
        format!("--{line} {name} {} ->", rate(up))
    };
    let (a, b) = (path("a", frame.paths[0]), path("b", frame.paths[1]));
    let edge = format!("  +------+{:14}+{:-<20}+{:25}+{:-<17}+", "", "", "", "");
    let rows = [
        format!(
            "  | host |{:14}| xPU                |{a}|  127.0.0.1:4421 |",
            ""
        ),
        format!(
            "  |      |-{host}->| 127.0.0.1:4420     |{:25}|  array          |",
            ""
        ),
        format!(
            "  |      |{:14}| disk = arrayn1     |{b}|  127.0.0.1:4422 |",
            ""
        ),
    ];
    let [first, second, third] = rows;
    let caption = &frame.caption;
    format!("{edge}\n{first}\n{second}\n{third}\n{edge}\n  {caption}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(cut: bool) -> Frame {
        Frame {
            host: 23_456.0,
            paths: [Some(12_000.0), (!cut).then_some(11_456.0)],
            caption: if cut { "cut" } else { "whole" }.to_owned(),
        }
    }

    #[test]
    fn the_boxes_stand_upright_whatever_the_rates() {
        for frame in [frame(false), frame(true), Frame::default()] {
            let text = draw(&frame);
            let widths: Vec<_> = text.lines().take(5).map(str::len).collect();
            assert!(widths.iter().all(|w| *w == widths[0]), "{widths:?}\n{text}");
            assert!(widths[0] <= 90, "{text}");
        }
        assert!(draw(&frame(true)).contains("cut"));
    }

    #[test]
    fn a_terminal_sees_the_picture_in_place_and_a_file_only_what_is_new() {
        let mut terminal = Picture::new(true);
        assert!(!terminal.next(&frame(false)).contains('\x1b'));
        assert!(terminal.next(&frame(true)).starts_with("\x1b[6A"));
        let mut file = Picture::new(false);
        assert!(file.next(&frame(false)).contains("23456 IO/s"));
        assert_eq!(file.next(&frame(false)), "");
        assert!(file.next(&frame(true)).contains("cut"));
    }
}
