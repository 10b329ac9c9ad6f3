//! Times that two homes noted of one call, as one time.

use std::time::Duration;

use jiff::Timestamp;
use switchboard::{
    connection::{Connection, Instance},
    ending::Ending,
    registry::{
        Admission, Ban, Bar, Entry, Family, Node, Presence, Rotation, Totals, UserEntry,
        keys::Shard,
    },
};

/// How long a family lives on from a rotation, if it does.
pub(super) const RENEWED: Duration = Duration::from_secs(7200);

pub(super) fn now() -> Timestamp {
    Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap()
}

/// When calls were made, each in a time of its own, so that it is one order in which they were.
#[derive(Default)]
pub(super) struct Clock {
    spans: Vec<(Timestamp, Timestamp)>,
}

impl Clock {
    /// A call begins, later than the last one.
    pub(super) fn begin(&mut self) {
        let last = self.spans.last().map(|(_, end)| *end);
        let mut now = now();
        while Some(now) <= last {
            std::thread::yield_now();
            now = self::now();
        }
        self.spans.push((now, now));
    }

    pub(super) fn end(&mut self) {
        if let Some(last) = self.spans.last_mut() {
            last.1 = now();
        }
    }

    /// When the call began in which this was; the same, if it was in none.
    fn round(&self, time: Timestamp) -> Timestamp {
        let start = |time: Timestamp| {
            let after = self.spans.partition_point(|(start, _)| *start <= time);
            let (start, end) = self.spans.get(after.checked_sub(1)?)?;
            (time <= *end).then_some(*start)
        };
        let renewed = || Some(start(time - RENEWED)? + RENEWED);
        start(time).or_else(renewed).unwrap_or(time)
    }
}

/// What has times in it.
pub(super) trait Timed {
    /// The same, with the time at which a call began in place of any in it.
    fn rounded(self, clock: &Clock) -> Self;
}

/// What has none.
macro_rules! timeless {
    ($($kind:ty),*) => {
        $(impl Timed for $kind {
            fn rounded(self, _: &Clock) -> Self {
                self
            }
        })*
    };
}
timeless!(
    (),
    bool,
    u64,
    String,
    Ban,
    Bar,
    Connection,
    Ending,
    Entry,
    Totals,
    Instance,
    Shard
);

impl Timed for Timestamp {
    fn rounded(self, clock: &Clock) -> Self {
        clock.round(self)
    }
}

impl<T: Timed> Timed for Option<T> {
    fn rounded(self, clock: &Clock) -> Self {
        self.map(|it| it.rounded(clock))
    }
}

impl<T: Timed, E> Timed for Result<T, E> {
    fn rounded(self, clock: &Clock) -> Self {
        self.map(|it| it.rounded(clock))
    }
}

impl<T: Timed> Timed for Vec<T> {
    fn rounded(self, clock: &Clock) -> Self {
        self.into_iter().map(|it| it.rounded(clock)).collect()
    }
}

impl<A: Timed, B: Timed> Timed for (A, B) {
    fn rounded(self, clock: &Clock) -> Self {
        (self.0.rounded(clock), self.1.rounded(clock))
    }
}

impl<A: Timed, B: Timed, C: Timed> Timed for (A, B, C) {
    fn rounded(self, clock: &Clock) -> Self {
        let (a, b, c) = self;
        (a.rounded(clock), b.rounded(clock), c.rounded(clock))
    }
}

impl Timed for Admission {
    fn rounded(self, clock: &Clock) -> Self {
        match self {
            Self::Admitted {
                start,
                tally,
                evicted,
                lasting,
            } => Self::Admitted {
                start: start.rounded(clock),
                tally,
                evicted,
                lasting,
            },
            kept_out => kept_out,
        }
    }
}

impl Timed for UserEntry {
    fn rounded(self, clock: &Clock) -> Self {
        Self {
            last_seen: self.last_seen.rounded(clock),
            ..self
        }
    }
}

impl Timed for Presence {
    fn rounded(self, clock: &Clock) -> Self {
        Self {
            last_seen: self.last_seen.rounded(clock),
            ..self
        }
    }
}

impl Timed for Node {
    fn rounded(self, clock: &Clock) -> Self {
        Self {
            last_heartbeat: self.last_heartbeat.rounded(clock),
            ..self
        }
    }
}

impl Timed for Family {
    fn rounded(self, clock: &Clock) -> Self {
        Self {
            expires_at: self.expires_at.rounded(clock),
            ..self
        }
    }
}

impl Timed for Rotation {
    fn rounded(self, clock: &Clock) -> Self {
        match self {
            Self::Rotated(family) => Self::Rotated(family.rounded(clock)),
            Self::Recovered(family) => Self::Recovered(family.rounded(clock)),
            Self::Repeated(family) => Self::Repeated(family.rounded(clock)),
            Self::Reused(family) => Self::Reused(family.rounded(clock)),
            other => other,
        }
    }
}
