//! Refresh families: one for each login, passed on from token to token.
//!
//! A family is as good as its current refresh token, of which the registry has nothing but its number and a SHA-256. A token is
//! good for once ([RFC 9700 section 4.14.2](https://www.rfc-editor.org/rfc/rfc9700#section-4.14.2)): using it makes its
//! successor the current one, and a token that was replaced before means that somebody else has it, and kills the family. Two
//! tabs that refresh at once with one cookie are not that: for a short grace the token that was just replaced gets the same
//! successor once more, which the caller derives from it, so that it is stored nowhere.
//!
//! The numbers of a family's tokens rise from one to the next. A token that is newer than the current one was issued for a
//! rotation that the registry has lost: Redis forgets its last writes when a master fails, and up to a second of them with
//! `appendfsync everysec`. Such a token counts as the current one. A thief gains nothing by that: before the loss the token
//! was as good, and the second to come with it is found out as ever.
//!
//! The family's id is the [`LoginId`] of the connections that came in by its tokens. When it is killed or closed that
//! session ends with it, in the same instant, for newcomers; the connections that are there are the caller's to end.
//! The fences of its user hold against a family as against a grant from the time at which it was opened.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Bar, LoginId, RegistryError};
use crate::connection::UserId;

/// SHA-256 of a refresh token.
pub type TokenHash = [u8; 32];

/// A refresh token, as far as the registry knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyToken {
    /// Its place in its family: higher than that of every token before it.
    pub number: u32,
    /// What tells it from others of that number.
    pub hash: TokenHash,
}

/// A login that is kept up by refresh tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// From [`Families::new_family_id`].
    pub id: LoginId,
    /// Whose.
    pub user: UserId,
    /// What goes into the tokens that it gets, as the gateway has sealed it. Nothing secret.
    pub claims: serde_json::Value,
    /// When it is forgotten, by the registry's clock and to the millisecond.
    pub expires_at: Timestamp,
}

/// The use of a refresh token.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The token that was presented. The caller knows that it was issued once, with this number: one that somebody made up
    /// who has seen the family's id would kill the family, or pass for its newest token.
    pub presented: &'a FamilyToken,
    /// The one that is to follow it: always the same one for the same token, with the next number.
    pub successor: &'a FamilyToken,
    /// For how long the token that was replaced last gets its successor again.
    pub grace: Duration,
    /// How long the family lives on from a rotation; none: its expiry stays.
    pub renew: Option<Duration>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The successor is the current token from here on.
    Rotated(Family),
    /// The token is newer than the current one: the registry has lost the rotation for which it was issued. The successor is
    /// the current token from here on.
    Recovered(Family),
    /// It was replaced just now; the successor has been the current one since. Nothing has changed.
    Repeated(Family),
    /// It was used before, or has the number of the current token and is not it. The family is dead, and the caller ends its connections, with [`super::EndTarget::Session`] and
    /// [`super::Fence::EndSession`]. This answer comes until that order is given, and [`Rotation::Unknown`] from then on: an order
    /// that failed is given again, and a token that is replayed costs the fleet nothing more.
    Reused(Family),
    /// The token is right, but a fence holds. Nothing has changed.
    Refused(Bar),
    /// There is no such family, or it is closed or forgotten.
    Unknown,
}

/// Where families are kept; see the module.
#[async_trait]
pub trait Families: Send + Sync {
    /// A new id for a family of `user`.
    fn new_family_id(&self, user: &UserId) -> LoginId;

    /// Opens a family whose current token is `token`. Returns when, by the registry's clock and to the millisecond: what is
    /// issued for it bears that time, as it is the registry's that a revocation bears.
    async fn open_family(
        &self,
        family: &Family,
        token: &FamilyToken,
    ) -> Result<Timestamp, RegistryError>;

    /// Uses a refresh token. One round trip; of any number of calls with one token, one rotates. Also returns when that was,
    /// as [`Families::open_family`] does; none if there can be no such family.
    async fn rotate(
        &self,
        id: &LoginId,
        turn: Turn<'_>,
    ) -> Result<(Rotation, Option<Timestamp>), RegistryError>;

    /// Closes a family for a caller with its current token, the one before that, or one that is newer: the registry has then
    /// lost its rotation. The caller knows that the token was issued once, with this number. Answers which family it was: the caller ends its
    /// connections, as with [`Rotation::Reused`]. None once that order is given.
    async fn close_family(
        &self,
        id: &LoginId,
        token: &FamilyToken,
    ) -> Result<Option<Family>, RegistryError>;

    /// Replaces the claims of a family that is as given. Returns false, and changes nothing, if it has other claims by now, or
    /// is not there.
    async fn rewrite_claims(
        &self,
        family: &Family,
        claims: &serde_json::Value,
    ) -> Result<bool, RegistryError>;
}
