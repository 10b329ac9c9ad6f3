//! The reasons for which the server ends a connection, by code and text, and whether the client may come back; and those for
//! which it ends a whole transport without a word.
//!
//! Codes below 4500 leave the stock client to reconnect by itself: the transport is closed without a word. Codes from
//! 4500 on don't: a DISCONNECT packet comes first, after which `socket.io-client` stays away until it is told to connect.

use serde::{Deserialize, Serialize};

/// Why and how a connection is ended by the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The code that `forceDisconnect` carries.
    pub code: u16,
    /// The text that `forceDisconnect` carries.
    pub reason: String,
    /// Whether the client may reconnect by itself.
    pub reconnect: bool,
}

macro_rules! endings {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal, $label:literal;)*) => {
        impl Ending {
            $(
                $(#[$doc])*
                pub const $name: u16 = $code;
            )*

            /// The text that goes with a code when nobody gave one. Codes that are not in the table have none.
            pub fn default_reason(code: u16) -> Option<&'static str> {
                match code {
                    $($code => Some($reason),)*
                    _ => None,
                }
            }

            /// Every value of the metric label `reason` that [`Ending::label`] has.
            pub const LABELS: [&str; [$($code),*].len() + 1] = [$($label,)* "other"];

            /// The value of the metric label `reason`: bounded, whatever code a backend made up.
            pub fn label(code: u16) -> &'static str {
                match code {
                    $($code => $label,)*
                    _ => "other",
                }
            }
        }
    };
}

endings! {
    /// The node is going away; another one takes the client.
    SHUTTING_DOWN = 4000, "Server shutting down", "shutting_down";
    /// The token ran out.
    TOKEN_EXPIRED = 4001, "Token expired", "token_expired";
    /// The client does not read what it is sent.
    SLOW_CONSUMER = 4002, "Slow consumer", "slow_consumer";
    /// A backend asked the client to reconnect.
    RECONNECT_REQUESTED = 4003, "Reconnect requested", "reconnect_requested";
    /// A backend ended it.
    DISCONNECTED = 4500, "Disconnected by an administrator", "disconnected";
    /// The user is banned.
    BANNED = 4501, "User banned", "banned";
    /// The token was revoked.
    TOKEN_REVOKED = 4502, "Token revoked", "token_revoked";
    /// The session it came in with is over.
    SESSION_ENDED = 4503, "Session ended", "session_ended";
    /// More connections, or more events, than the limits allow.
    LIMIT = 4504, "Connection limit", "limit";
    /// The user ended it from another device.
    LOGGED_OUT = 4505, "Logged out from another device", "logged_out";
}

impl Ending {
    /// The ending of the table's `code`, with the table's text. Codes from 4500 on are final.
    pub fn of(code: u16) -> Self {
        Self {
            code,
            reason: Self::default_reason(code)
                .unwrap_or("Disconnected")
                .to_owned(),
            reconnect: code < 4500,
        }
    }

    /// Makes the client stay away, whatever the code says.
    pub fn final_one(mut self) -> Self {
        self.reconnect = false;
        self
    }

    /// Replaces the reason's text.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// Why a transport is ended: its client has sent what no client has a reason to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A message larger than `limits.max_payload` or `limits.max_payload_guest`.
    TooLarge,
    /// CONNECT for a namespace that is joined, or being joined.
    SecondConnect,
    /// More CONNECT packets than a client may send.
    ConnectFlood,
    /// More packets or frames that are no event than a client may send.
    PacketFlood,
    /// More packets in one POST than a client may send.
    CrowdedPost,
    /// A packet that announces its attachments in a way that no client does.
    Malformed,
    /// Attachments that did not follow their event within a minute.
    Unfinished,
    /// A POST while another one of the same session was at work.
    PostOverlap,
    /// What is no WebSocket frame of a client's (RFC 6455 section 5).
    NoFrame,
    /// CONNECT of a client with another parser than the default.
    OtherParser,
}

impl Breach {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::TooLarge,
        Self::SecondConnect,
        Self::ConnectFlood,
        Self::PacketFlood,
        Self::CrowdedPost,
        Self::Malformed,
        Self::Unfinished,
        Self::PostOverlap,
        Self::NoFrame,
        Self::OtherParser,
    ];

    /// The value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "message_too_large",
            Self::SecondConnect => "second_connect",
            Self::ConnectFlood => "connect_flood",
            Self::PacketFlood => "packet_flood",
            Self::CrowdedPost => "crowded_post",
            Self::Malformed => "malformed_packet",
            Self::Unfinished => "unfinished_message",
            Self::PostOverlap => "post_overlap",
            Self::NoFrame => "no_frame",
            Self::OtherParser => "other_parser",
        }
    }
}
