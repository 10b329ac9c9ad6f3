//! What a node in development mode prints: all that it takes to try it.

use std::{fmt, net::SocketAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use super::commands::reachable;
use crate::{
    auth::token,
    config::{Development, Jwt, Transport},
};

/// How long the printed tokens are good for.
const TTL: Duration = Duration::from_secs(24 * 3600);

const USER: &str = "alice";

/// The printout. Its `Display` shows secrets: they open a node on a loopback address, until it ends.
pub struct Welcome {
    clients: SocketAddr,
    api: SocketAddr,
    /// The client's option for `transport.path`, unless that is the default.
    path: String,
    api_key: SecretString,
    user_token: SecretString,
    admin_token: SecretString,
}

impl Welcome {
    /// Mints the tokens. `clients` and `api` are the addresses that are bound, `jwt` holds the made-up secret, `transport` the path.
    ///
    /// # Errors
    ///
    /// When a token can't be signed.
    pub fn new(
        development: &Development,
        jwt: &Jwt,
        transport: &Transport,
        clients: SocketAddr,
        api: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mint = |user: &str, roles: &[&str]| {
            token::mint(
                jwt,
                &token::NewToken {
                    roles: roles.iter().map(|role| (*role).to_owned()).collect(),
                    username: Some(user.to_owned()),
                    ..token::NewToken::new(user, TTL)
                },
            )
            .map(|minted| minted.token)
        };
        Ok(Self {
            clients: reachable(clients),
            api: reachable(api),
            path: match transport.path == Transport::default().path {
                true => String::new(),
                false => format!("path: {:?}, ", transport.path),
            },
            api_key: development.api_key.clone(),
            user_token: mint(USER, &[])?,
            admin_token: mint("admin", &["admin"])?,
        })
    }
}

impl fmt::Display for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            clients, api, path, ..
        } = self;
        let user_token = self.user_token.expose_secret();
        let admin_token = self.admin_token.expose_secret();
        let api_key = self.api_key.expose_secret();
        write!(
            f,
            r#"
Switchboard is in development mode: nothing is configured, so it made up a signing secret and an API key.
They are gone when it ends. To keep them: SWITCHBOARD_JWT_SECRET and SWITCHBOARD_API_KEY.

Open the console, signed in:
  http://{api}/

User token ({USER}, 24 h):
  {user_token}

Admin token (24 h):
  {admin_token}

API key:
  {api_key}

Connect as {USER}, with socket.io-client:
  import {{ io }} from "socket.io-client";
  const socket = io("http://{clients}", {{ {path}auth: {{ token: "{user_token}" }} }});
  socket.onAny((event, ...args) => console.log(event, ...args));

Send {USER} an event:
  curl -s -H 'Authorization: Bearer {api_key}' -H 'content-type: application/json' -d '{{"event":"hello","data":{{"a":1}}}}' http://{api}/v1/users/{USER}/events

"#
        )
    }
}
