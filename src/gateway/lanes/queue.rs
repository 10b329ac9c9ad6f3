//! What waits for its turn: bounded in number and in bytes, worked off by one task at a time.

use std::collections::VecDeque;

/// How much may wait.
pub(crate) struct Bounds {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// What waits.
pub(crate) struct Queue<T> {
    waiting: VecDeque<(usize, T)>,
    /// Of what waits, as it came.
    bytes: usize,
    /// Whether a task works it off.
    busy: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            busy: false,
        }
    }
}

impl<T> Queue<T> {
    /// Takes something in, unless that is more than may wait. What is alone always may.
    pub(crate) fn push(&mut self, item: T, bytes: usize, bounds: &Bounds) -> bool {
        let fits = self.waiting.len() < bounds.events && self.bytes + bytes <= bounds.bytes;
        let taken = fits || self.waiting.is_empty();
        if taken {
            self.push_anyway(item, bytes);
        }
        taken
    }

    /// Takes something in, however much waits.
    pub(crate) fn push_anyway(&mut self, item: T, bytes: usize) {
        self.bytes += bytes;
        self.waiting.push_back((bytes, item));
    }

    /// Marks it as being worked off. Returns whether that is the caller's to do.
    pub(crate) fn begin(&mut self) -> bool {
        !self.waiting.is_empty() && !std::mem::replace(&mut self.busy, true)
    }

    /// What is next. With none left nobody is at work any more, and the memory goes.
    pub(crate) fn pop(&mut self) -> Option<T> {
        match self.waiting.pop_front() {
            Some((bytes, item)) => {
                self.bytes -= bytes;
                Some(item)
            }
            None => {
                *self = Self::default();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        events: 3,
        bytes: 100,
    };

    #[test]
    fn no_more_waits_than_may() {
        let mut queue = Queue::default();
        let taken = (0..5).map(|_| queue.push((), 1, &BOUNDS));
        assert_eq!(Vec::from_iter(taken), [true, true, true, false, false]);
        assert!(queue.pop().is_some());
        assert!(queue.push((), 98, &BOUNDS));
        assert!(queue.pop().is_some());
        assert!(!queue.push((), 2, &BOUNDS), "too many bytes");
    }

    #[test]
    fn an_event_alone_is_taken_whatever_its_size_and_an_empty_queue_holds_no_memory() {
        let mut queue = Queue::default();
        assert!(queue.push((), 1000, &BOUNDS));
        assert!(!queue.push((), 1, &BOUNDS));
        assert!(queue.pop().is_some());
        assert!(queue.pop().is_none());
        assert_eq!((queue.bytes, queue.waiting.capacity()), (0, 0));
    }

    #[test]
    fn one_works_it_off_at_a_time() {
        let mut queue = Queue::default();
        assert!(!queue.begin(), "nothing waits");
        queue.push_anyway((), 0);
        assert!(queue.begin());
        assert!(!queue.begin());
        assert!(queue.pop().is_some());
        queue.push_anyway((), 0);
        assert!(!queue.begin(), "it is being worked off yet");
        assert!(queue.pop().is_some());
        assert!(queue.pop().is_none());
        queue.push_anyway((), 0);
        assert!(queue.begin());
    }
}
