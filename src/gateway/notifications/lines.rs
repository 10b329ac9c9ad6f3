//! What a lane holds: those about one user, or one room, are a line, of which one is delivered at a time.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::registry::{Notification, NotificationId};

/// How many notifications are held, beside the first one of each line that fails, of which only the place is.
const MOST_HELD: usize = 256;

/// How many bytes those have.
const MOST_BYTES: usize = 4_000_000;

/// How many notifications of one line are held.
const MOST_OF_LINE: usize = 16;

/// How many lines there are. While so many fail, no others are looked at.
const MOST_LINES: usize = 10_000;

/// The pause before the first repetition. With its jitter it is below a second.
const FIRST_PAUSE: Duration = Duration::from_millis(600);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The connection, user or room that notifications are about.
pub(super) type About = Vec<u8>;

/// What is to be delivered.
pub(super) enum Head {
    /// This notification.
    Held(Notification),
    /// The one that stands there, which is to be read anew.
    At(NotificationId),
}

/// Notifications about one user, connection or room.
struct Line {
    waiting: VecDeque<Notification>,
    /// The first one, which has failed or is under way.
    head: Option<NotificationId>,
    /// The last one that is held or under way.
    last: NotificationId,
    /// Whether there are others behind that one, which are not held.
    has_more: bool,
    /// How often the first one has failed.
    failures: u32,
}

/// The lines of a lane.
#[derive(Default)]
pub(super) struct Lines {
    lines: HashMap<About, Line>,
    /// When it is each line's turn that has nothing under way.
    turns: BTreeSet<(Instant, About)>,
    held: usize,
    bytes: usize,
    /// What stands up to here is held, or known to wait.
    cursor: NotificationId,
}

impl Lines {
    /// Where to go on reading.
    pub(super) fn cursor(&self) -> NotificationId {
        self.cursor
    }

    /// Whether nothing more is to be read for now.
    pub(super) fn is_full(&self) -> bool {
        self.held >= MOST_HELD || self.bytes >= MOST_BYTES || self.lines.len() >= MOST_LINES
    }

    /// Takes in what has been read.
    pub(super) fn take(&mut self, notification: Notification) {
        self.cursor = self.cursor.max(notification.id);
        let (id, bytes) = (notification.id, notification.data.get().len());
        match self.lines.get_mut(&notification.about) {
            Some(line) if id <= line.last => return,
            Some(line)
                if line.has_more || line.failures > 0 || line.waiting.len() >= MOST_OF_LINE =>
            {
                line.has_more = true;
                return;
            }
            Some(line) => {
                line.last = id;
                line.waiting.push_back(notification);
            }
            None => {
                let about = notification.about.clone();
                self.turns.insert((Instant::now(), about.clone()));
                let line = Line {
                    waiting: VecDeque::from([notification]),
                    head: None,
                    last: id,
                    has_more: false,
                    failures: 0,
                };
                self.lines.insert(about, line);
            }
        }
        self.held += 1;
        self.bytes += bytes;
    }

    /// What is to be delivered now; its line waits for what becomes of it.
    pub(super) fn next(&mut self, now: Instant) -> Option<(About, Head)> {
        self.turns.first().filter(|(due, _)| *due <= now)?;
        let (_, about) = self.turns.pop_first()?;
        let line = self.lines.get_mut(&about)?;
        let head = match (line.head, line.waiting.pop_front()) {
            (Some(at), _) => Head::At(at),
            (None, Some(first)) => {
                self.held -= 1;
                self.bytes -= first.data.get().len();
                line.head = Some(first.id);
                Head::Held(first)
            }
            (None, None) => return None,
        };
        Some((about, head))
    }

    /// When there is something to be delivered.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        self.turns.first().map(|(due, _)| *due)
    }

    /// The first one of a line is delivered.
    pub(super) fn delivered(&mut self, about: About) {
        let Some(line) = self.lines.get_mut(&about) else {
            return;
        };
        line.head = None;
        line.failures = 0;
        if !line.waiting.is_empty() {
            self.turns.insert((Instant::now(), about));
            return;
        }
        if line.has_more {
            self.cursor = self.cursor.min(line.last);
        }
        self.lines.remove(&about);
    }

    /// The first one of a line is not delivered, and is its line's next once more after `pause`; none: after one that grows.
    pub(super) fn failed(&mut self, about: About, pause: Option<Duration>) {
        let Some(line) = self.lines.get_mut(&about) else {
            return;
        };
        if let Some(head) = line.head {
            line.last = head;
        }
        // They are read again in their turn: lines that fail hold no memory.
        line.has_more |= !line.waiting.is_empty();
        for dropped in line.waiting.drain(..) {
            self.held -= 1;
            self.bytes -= dropped.data.get().len();
        }
        let pause = pause.unwrap_or_else(|| pause_after(line.failures, rand::random()));
        line.failures = line.failures.saturating_add(1);
        self.turns.insert((Instant::now() + pause, about));
    }
}

/// How long to wait after so many failures and one; `jitter` from 0 to 1.
fn pause_after(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures));
    doubled.mul_f64(1.0 + jitter / 2.0).min(LONGEST_PAUSE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn note(number: u64, about: &str) -> Notification {
        Notification {
            id: NotificationId { ms: 1, number },
            kind: "client.event",
            about: about.into(),
            data: RawValue::from_string("{}".to_owned()).unwrap(),
        }
    }

    fn turns(lines: &mut Lines) -> Vec<(String, u64, bool)> {
        let mut turns = Vec::new();
        while let Some((about, head)) = lines.next(Instant::now() + Duration::from_secs(1)) {
            let (number, is_held) = match head {
                Head::Held(it) => (it.id.number, true),
                Head::At(id) => (id.number, false),
            };
            turns.push((String::from_utf8(about).unwrap(), number, is_held));
        }
        turns
    }

    #[test]
    fn one_of_a_line_is_under_way_and_others_wait_for_no_other_line() {
        let mut lines = Lines::default();
        for one in [note(1, "a"), note(2, "a"), note(3, "b")] {
            lines.take(one);
        }
        assert_eq!(
            turns(&mut lines),
            [("a".into(), 1, true), ("b".into(), 3, true)]
        );
        // What is read again meanwhile is known.
        lines.take(note(1, "a"));
        lines.delivered("a".into());
        assert_eq!(turns(&mut lines), [("a".into(), 2, true)]);
        for about in ["a", "b"] {
            lines.delivered(about.into());
        }
        assert!(lines.lines.is_empty() && lines.turns.is_empty());
        assert_eq!((lines.held, lines.bytes), (0, 0));
        assert_eq!(lines.cursor().number, 3);
    }

    #[test]
    fn a_line_that_fails_holds_its_place_only_and_is_read_again() {
        let mut lines = Lines::default();
        for number in 1..=3 {
            lines.take(note(number, "a"));
        }
        assert_eq!(turns(&mut lines), [("a".into(), 1, true)]);
        lines.failed("a".into(), Some(Duration::ZERO));
        assert_eq!((lines.held, lines.bytes), (0, 0));
        lines.take(note(4, "a"));
        assert_eq!(lines.held, 0);
        assert_eq!(turns(&mut lines), [("a".into(), 1, false)]);
        lines.delivered("a".into());
        assert_eq!(lines.cursor().number, 1, "the others are read again");
        for number in 2..=4 {
            lines.take(note(number, "a"));
        }
        assert_eq!(turns(&mut lines), [("a".into(), 2, true)]);
    }

    #[test]
    fn of_a_long_line_some_are_held() {
        let mut lines = Lines::default();
        let most = MOST_OF_LINE as u64;
        for number in 1..=most + 5 {
            lines.take(note(number, "a"));
        }
        assert_eq!(lines.held, MOST_OF_LINE);
        for number in 1..=most {
            assert_eq!(turns(&mut lines), [("a".into(), number, true)]);
            lines.delivered("a".into());
        }
        assert_eq!(lines.cursor().number, most);
    }

    #[test]
    fn pauses_double_from_below_a_second_to_five_minutes() {
        assert!(pause_after(0, 1.0) < Duration::from_secs(1));
        assert_eq!(pause_after(3, 0.0), FIRST_PAUSE * 8);
        assert_eq!(pause_after(20, 0.0), LONGEST_PAUSE);
        assert_eq!(pause_after(u32::MAX, 1.0), LONGEST_PAUSE);
    }
}
