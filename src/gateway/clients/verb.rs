//! What a client may ask for about itself: the names, how much it may say with them, and why it is denied.

use serde_json::Value;

use crate::{
    auth::AuthError,
    config::{Config, WatchRule},
    connection::{NoRoom, UserId},
    gateway::{
        refusal::Refusal,
        requests::{fields::GivenUser, user_id},
        rooms::NotChanged,
        watching::NotWatched,
    },
    registry::RegistryError,
};

/// Why a request is refused. `Display` is what its acknowledgement says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerbError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("Service unavailable")]
    Registry(#[from] RegistryError),
    #[error("Not authenticated")]
    Guest,
    #[error("Already authenticated")]
    NoGuest,
    #[error("Unknown connection")]
    UnknownConnection,
    #[error("Invalid arguments")]
    Arguments,
    #[error("Invalid room: {0}")]
    Room(#[from] NoRoom),
    #[error("Room not allowed")]
    ForbiddenRoom,
    #[error(transparent)]
    NotChanged(#[from] NotChanged),
    #[error(transparent)]
    NotWatched(#[from] NotWatched),
}

impl From<Refusal> for VerbError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<AuthError> for VerbError {
    fn from(error: AuthError) -> Self {
        Self::Refused(error.into())
    }
}

/// Which verbs there are only where the configuration says so.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offered {
    /// Clients may join rooms of the namespace.
    pub(crate) rooms: bool,
    /// Clients may watch users.
    pub(crate) watching: bool,
}

impl Offered {
    /// By a configuration that offers them all: whatever is offered, no other name is a verb.
    pub(crate) fn all() -> Self {
        Self {
            rooms: true,
            watching: true,
        }
    }

    /// By a configuration, in one of its namespaces.
    pub(crate) fn by(config: &Config, path: &str) -> Self {
        let mut namespaces = config.namespaces.iter();
        let namespace = namespaces.find(|namespace| namespace.path == path);
        Self {
            rooms: namespace.is_some_and(|namespace| !namespace.client_rooms.is_empty()),
            watching: config.presence.watch != WatchRule::Off,
        }
    }
}

/// The users that a client names, as a list of ids: texts, or integers, which stand for their digits.
pub(super) fn users(argument: Value) -> Result<Vec<UserId>, VerbError> {
    let given: Vec<GivenUser> =
        serde_json::from_value(argument).map_err(|_| VerbError::Arguments)?;
    let users = given.into_iter().map(|GivenUser(id)| user_id(id));
    users
        .collect::<Result<_, _>>()
        .map_err(|_| VerbError::Arguments)
}

/// The events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientVerb {
    RefreshToken,
    Devices,
    LogoutDevice,
    Authenticate,
    Join,
    Leave,
    Watch,
    Unwatch,
}

impl ClientVerb {
    /// The verb of that name; `is_on`: whether clients may join rooms of the namespace, and watch users.
    pub(crate) fn of(event: &str, is_on: impl FnOnce() -> Offered) -> Option<Self> {
        let verb = match event {
            "refreshToken" => Some(Self::RefreshToken),
            "devices" => Some(Self::Devices),
            "logoutDevice" => Some(Self::LogoutDevice),
            "authenticate" => Some(Self::Authenticate),
            "join" => Some(Self::Join),
            "leave" => Some(Self::Leave),
            "watch" => Some(Self::Watch),
            "unwatch" => Some(Self::Unwatch),
            _ => None,
        };
        verb.filter(|verb| match verb {
            Self::Join | Self::Leave => is_on().rooms,
            Self::Watch | Self::Unwatch => is_on().watching,
            _ => true,
        })
    }

    /// The largest packet that asks for it, in bytes: an id, or a page; a token, as long as a handshake takes it; or the ids of as many
    /// users as one connection may watch by default. Read into a tree of values it may take a hundred times as much, for as long as the
    /// verb takes.
    pub(super) fn largest(self) -> usize {
        match self {
            Self::RefreshToken | Self::Authenticate | Self::Watch | Self::Unwatch => 64 * 1024,
            _ => 16 * 1024,
        }
    }

    /// Why arguments are denied that are too large to be read.
    pub(super) fn too_large(self) -> VerbError {
        match self {
            Self::RefreshToken | Self::Authenticate => AuthError::Invalid.into(),
            _ => VerbError::Arguments,
        }
    }
}
