//! Fences: what keeps a user's connections out from now on. And the orders that end those that are there.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Entry, LoginId, Room,
    keys::{Shard, Shards},
};
use crate::{
    connection::{ConnectionId, Instance, UserId},
    ending::Ending,
};

/// How long a revocation of a user's tokens is kept: longer than a token lives. Nothing bounds `exp`, but a token that is
/// good for over a year is one that nobody meant to expire.
pub const REVOCATION_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);

/// How long the revocation of one token is kept if nobody says when it expires.
pub const TOKEN_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long the revocation of a token outlives its `exp`: nodes let tokens live a little longer by their clocks and leeway.
pub const TOKEN_MARGIN: Duration = Duration::from_secs(3600);

/// How long the end of a session is kept. A family that it ended stays ended for as long as it would have lived.
pub const SESSION_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long an order to end is kept: longer than any node is away and comes back with its connections.
pub(super) const ORDER_KEPT: Duration = Duration::from_secs(3600);

/// How many kicks of one user are kept: what every newcomer of the user is held against. One that spares nobody else than a later
/// one does is dropped before; of too many, the oldest are merged.
pub(super) const KICKS_KEPT: usize = 16;

/// How many connections a caller may except from the end of a user's.
pub const MOST_EXCEPTIONS: usize = 1000;

/// A user is kept out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// For people.
    pub reason: Option<String>,
    /// Until then, by the registry's clock and to the millisecond; none: until it is lifted.
    pub until: Option<Timestamp>,
}

/// What is put up against a user's newcomers together with an order to end, so that nobody slips in behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Nobody, in place of any ban before. One that is over already is none: it lifts the one before, and the order that it
    /// comes with means nobody.
    Ban(Ban),
    /// Nobody with a grant that was issued before this, or that does not say when; none: before now, by the registry's clock.
    /// It only ever goes forward. Kept for [`REVOCATION_KEPT`].
    ///
    /// An `iat` counts in seconds, so for the rest of the second a token that is newer is refused as well.
    RevokeBefore(Option<Timestamp>),
    /// Nobody by this session. If it is a refresh family of the user's, that is closed. Kept for [`SESSION_KEPT`].
    EndSession(LoginId),
}

/// Which connections an order to end means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndTarget {
    /// All of a user's but those named. With a fence, those stay only until they come back or are looked at again
    /// ([`super::Registry::standing`]): what they were let in by does not hold any more.
    User {
        /// Whose.
        user: UserId,
        /// The ones that stay.
        except: Vec<ConnectionId>,
    },
    /// Those of a user's that the revocation of the user's tokens is held against: the one that comes with the order, or else
    /// an earlier one. Which those are is known where the order is given.
    Revoked {
        /// Whose.
        user: UserId,
    },
    /// Those of a user's that came in by a session.
    Session {
        /// Whose.
        user: UserId,
        /// By which.
        session: LoginId,
    },
    /// One connection, of a user or of a guest.
    Connection(Entry),
    /// Those in a room but those named.
    Room {
        /// Which.
        room: Room,
        /// The ones that stay.
        except: Vec<ConnectionId>,
    },
}

impl EndTarget {
    /// Which of these shards lists the connections; none if there can't be such a connection, as its id is made up or another
    /// user's.
    pub fn shard(&self, shards: Shards) -> Option<Shard> {
        match self {
            Self::User { user, .. } | Self::Revoked { user } | Self::Session { user, .. } => {
                Some(shards.of_user(user))
            }
            Self::Connection(entry) => shards.of_entry(entry),
            Self::Room { room, .. } => Some(shards.of_room(room)),
        }
    }

    /// The user whose connections are meant; none for a guest's, and for those of a room.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User { user, .. } | Self::Revoked { user } | Self::Session { user, .. } => {
                Some(user)
            }
            Self::Connection(entry) => entry.user.as_ref(),
            Self::Room { .. } => None,
        }
    }
}

/// An order to end connections.
#[derive(Clone, Copy, Debug)]
pub struct EndOrder<'a> {
    /// Which.
    pub target: &'a EndTarget,
    /// What is put up with it; none is a plain kick. Has no effect on guests.
    pub fence: Option<&'a Fence>,
    /// How they end.
    pub ending: &'a Ending,
}

/// A connection that the registry lists, and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What names it.
    pub entry: Entry,
    /// The node that holds it, which is to be told what is ordered.
    pub instance: Instance,
}

/// What an order to end found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ordered {
    /// The connections that were listed when the order was given, and that it means.
    pub connections: Vec<Listed>,
    /// With [`Fence::RevokeBefore`]: grants that were issued before this are refused.
    pub revoked_before: Option<Timestamp>,
}

/// To the millisecond, as both homes keep times.
pub(crate) fn to_millisecond(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}
