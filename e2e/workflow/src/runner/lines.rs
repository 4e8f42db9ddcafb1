//! Cuts a stream into lines the way the runner's reader does: at LF, CR and
//! CRLF, the rest at the end of the stream.

use memchr::memchr2;

/// A line longer than this comes in parts. The runner would keep it whole in
/// memory; the driver has to stay small for any log.
const LONGEST: usize = 16 << 20;

/// A part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A line, without its end, and the same with it.
    Line {
        /// The text.
        text: &'a [u8],
        /// The bytes as they came.
        raw: &'a [u8],
    },
    /// The LF of a CRLF that arrived after its line was already given out.
    Rest(&'a [u8]),
}

/// The state between two reads.
#[derive(Debug, Default)]
pub struct Splitter {
    partial: Vec<u8>,
    after_cr: bool,
}

impl Splitter {
    /// Gives the pieces that `bytes` completes to `sink`.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(Piece<'_>)) {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            if bytes[0] == b'\n' {
                sink(Piece::Rest(&bytes[..1]));
                bytes = &bytes[1..];
            }
        }
        while let Some(end) = memchr2(b'\n', b'\r', bytes) {
            let mut next = end + 1;
            if bytes[end] == b'\r' {
                match bytes.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            if self.partial.is_empty() {
                sink(Piece::Line {
                    text: &bytes[..end],
                    raw: &bytes[..next],
                });
            } else {
                self.partial.extend_from_slice(&bytes[..next]);
                let text = self.partial.len() - (next - end);
                sink(Piece::Line {
                    text: &self.partial[..text],
                    raw: &self.partial,
                });
                self.partial.clear();
            }
            bytes = &bytes[next..];
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > LONGEST {
            self.finish(sink);
        }
    }

    /// Gives out what has no line end.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Piece<'_>)) {
        if !self.partial.is_empty() {
            sink(Piece::Line {
                text: &self.partial,
                raw: &self.partial,
            });
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&str]) -> (Vec<String>, String) {
        let mut lines = Vec::new();
        let mut all = Vec::new();
        let mut splitter = Splitter::default();
        let mut sink = |piece: Piece<'_>| match piece {
            Piece::Line { text, raw } => {
                lines.push(String::from_utf8(text.to_vec()).unwrap());
                all.extend_from_slice(raw);
            }
            Piece::Rest(raw) => all.extend_from_slice(raw),
        };
        for chunk in chunks {
            splitter.push(chunk.as_bytes(), &mut sink);
        }
        splitter.finish(&mut sink);
        (lines, String::from_utf8(all).unwrap())
    }

    #[test]
    fn each_kind_of_line_end_counts_once_wherever_the_read_ends() {
        let text = "a\nb\rc\r\nd\n\n\r\r\nlast";
        let expected = ["a", "b", "c", "d", "", "", "", "last"];
        for cut in 0..=text.len() {
            let (lines, all) = split(&[&text[..cut], &text[cut..]]);
            assert_eq!(lines, expected, "cut at {cut}");
            assert_eq!(all, text, "cut at {cut}");
        }
        let single: Vec<&str> = text.split_inclusive(|_| true).collect();
        assert_eq!(split(&single).0, expected);
    }

    #[test]
    fn a_stream_without_an_end_is_not_lost() {
        assert_eq!(split(&["a"]).0, ["a"]);
        assert_eq!(split(&["a\n"]).0, ["a"]);
        assert!(split(&[""]).0.is_empty());
    }
}
