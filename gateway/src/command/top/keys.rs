//! What is typed, as keys.

use std::{
    io::{self, Read},
    thread,
};

use tokio::sync::mpsc::{self, Receiver};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Text(char),
    Enter,
    Erase,
    Escape,
    Up,
    Down,
    PageUp,
    PageDown,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-Z.
    Suspend,
    /// Ctrl-L.
    Redraw,
}

/// Of standard input.
pub(super) struct Keys(Receiver<Key>);

impl Keys {
    /// By a thread that ends with the process: nobody can be woken from a read.
    pub(super) fn read() -> Self {
        let (send, keys) = mpsc::channel(64);
        thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok(length @ 1..) = io::stdin().lock().read(&mut bytes) {
                for key in parsed(&bytes[..length]) {
                    if send.blocking_send(key).is_err() {
                        return;
                    }
                }
            }
        });
        Self(keys)
    }

    /// `None` when the terminal has gone.
    pub(super) async fn next(&mut self) -> Option<Key> {
        self.0.recv().await
    }
}

/// A terminal sends what belongs to one key at once; an escape with nothing behind it is the key of
/// that name.
fn parsed(mut bytes: &[u8]) -> Vec<Key> {
    const SEQUENCES: [(&[u8], Key); 6] = [
        (b"\x1b[A", Key::Up),
        (b"\x1bOA", Key::Up),
        (b"\x1b[B", Key::Down),
        (b"\x1bOB", Key::Down),
        (b"\x1b[5~", Key::PageUp),
        (b"\x1b[6~", Key::PageDown),
    ];
    let mut keys = Vec::new();
    while let Some((&first, rest)) = bytes.split_first() {
        if let Some((sequence, key)) = SEQUENCES.iter().find(|(it, _)| bytes.starts_with(it)) {
            keys.push(*key);
            bytes = &bytes[sequence.len()..];
            continue;
        }
        if first == 0x1b && matches!(rest.first(), Some(b'[' | b'O')) {
            // One that means nothing here.
            let end = rest[1..].iter().position(|b| (0x40..0x7f).contains(b));
            bytes = end.map_or(&[], |end| &rest[end + 2..]);
            continue;
        }
        keys.extend(match first {
            0x1b => Some(Key::Escape),
            b'\r' | b'\n' => Some(Key::Enter),
            0x7f | 0x08 => Some(Key::Erase),
            0x03 => Some(Key::Interrupt),
            0x1a => Some(Key::Suspend),
            0x0c => Some(Key::Redraw),
            b' '..=b'~' => Some(Key::Text(first.into())),
            _ => None,
        });
        bytes = rest;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_however_many_come_at_once() {
        let typed = b"s\x1b[A\x1b[6~\x1b[1;5C/\x7f\r\x03\x1b\xc3\xa4\x1b[";
        let wanted = [
            Key::Text('s'),
            Key::Up,
            Key::PageDown,
            Key::Text('/'),
            Key::Erase,
            Key::Enter,
            Key::Interrupt,
            Key::Escape,
        ];
        assert_eq!(parsed(typed), wanted);
    }
}
