//! `connection.connect`: a client asks to be let in, and a backend says whether, and who it is.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Calls, headers};
use crate::{
    auth::{AuthError, Credentials, Identity, NamespaceRule},
    backend::{Backend, CallType},
    connection::UserId,
    gateway::{
        arg::Arg,
        connections::local::Granted,
        refusal::Refusal,
        requests::{
            self,
            fields::{GivenUser, Object, present},
            time,
        },
    },
    transport::Session,
};

/// What a client is told that a backend refuses without a message.
const REFUSED: &str = "Access denied";

/// The longest name and role that a backend may give, and message that it may refuse with, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// The largest `meta`, in bytes of JSON. Each listing of the connection carries it.
const MAX_META_BYTES: usize = 4096;

/// The most rooms that a backend may put a connection into as it comes.
const MAX_ROOMS: usize = 1000;

/// `data` of the call.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    namespace: &'a str,
    user_id: Option<&'a UserId>,
    username: Option<&'a str>,
    role: Option<&'a str>,
    claims: Option<Map<String, Value>>,
    device_id: Option<&'a str>,
    remote_addr: String,
    user_agent: Option<&'a str>,
    auth: Value,
    /// None if the backend is to be told none.
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Map<String, Value>>,
}

/// What a backend answers. Other fields are read over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    allow: bool,
    message: Option<String>,
    user_id: Option<GivenUser>,
    username: Option<String>,
    role: Option<String>,
    #[serde(default, deserialize_with = "time::optional")]
    expires_at: Option<Timestamp>,
    rooms: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    meta: Option<Value>,
}

/// A client that asks to be let in, and whose credentials are good, where Switchboard looks at them.
pub(in crate::gateway) struct Candidate<'a> {
    /// Who is let into the namespace.
    pub(in crate::gateway) rule: &'a NamespaceRule,
    /// What carries it.
    pub(in crate::gateway) session: &'a Session,
    /// What it has brought.
    pub(in crate::gateway) credentials: &'a Credentials,
    /// The device that it names.
    pub(in crate::gateway) device_id: Option<&'a str>,
    /// Who it is by its credentials; none for a guest, and where a backend decides.
    pub(in crate::gateway) identity: Option<Identity>,
}

/// What a backend has decided.
enum Decided {
    In(Box<Said>, Option<UserId>),
    Out(Arc<str>),
}

impl Calls {
    /// Asks the namespace's backend, if one is to be asked, whether a client is let in. `auth` is what its CONNECT packet says.
    /// Returns who it is, and what the backend has given it.
    ///
    /// # Errors
    ///
    /// The backend's refusal. [`Refusal::Backend`] if it has not said what to do: the client is to come again.
    pub(in crate::gateway) async fn ask(
        &self,
        candidate: Candidate<'_>,
        auth: impl FnOnce() -> Arg,
    ) -> Result<(Option<Identity>, Option<Arc<Granted>>), Refusal> {
        let Some(backend) = self.backends.for_newcomers(candidate.rule.path()) else {
            return match candidate.rule.asks_backend() {
                true => Err(Refusal::Backend),
                false => Ok((candidate.identity, None)),
            };
        };
        // Before the call: who is revoked while the backend decides is not let in by what it decides.
        let asked_at = Timestamp::now();
        let data = candidate.data(auth(), self.headers(&backend, &candidate));
        let decides = candidate.rule.asks_backend();
        let answer = backend.call(CallType::Connect, &data, |body| read(body, decides));
        let (said, user_id) = match answer.await {
            Ok(Decided::In(said, user_id)) => (*said, user_id),
            Ok(Decided::Out(message)) => return Err(Refusal::Application(message)),
            Err(_) => return Err(Refusal::Backend),
        };
        if said
            .expires_at
            .is_some_and(|end| decides && end <= Timestamp::now())
        {
            return Err(AuthError::Expired.into());
        }
        let identity = match user_id {
            Some(user_id) => Some(Identity {
                user_id,
                username: None,
                email: None,
                roles: Vec::new(),
                rooms: Vec::new(),
                watch: Vec::new(),
                expires_at: said.expires_at,
                issued_at: Some(asked_at),
                token_id: None,
                digest: None,
                session: None,
            }),
            None => candidate.identity,
        };
        let granted = Granted {
            username: said.username,
            role: said.role,
            rooms: said.rooms.unwrap_or_default(),
            meta: said.meta.map(Arc::new),
        };
        if let Some(identity) = &identity {
            candidate.rule.authorize(&granted.applied_to(identity))?;
        }
        Ok((identity, granted.unless_empty().map(Arc::new)))
    }

    /// The headers that a backend is told, by name; none if it is to be told none.
    fn headers(&self, backend: &Backend, candidate: &Candidate<'_>) -> Option<Map<String, Value>> {
        let names = &backend.config().forward_headers;
        if names.is_empty() {
            return None;
        }
        let session = &self.config.now().auth.session;
        let cookies = [session.cookie_name.as_str()];
        let verified: &[&str] = match session.is_on() {
            true => &cookies,
            false => &[],
        };
        let told = headers::told(
            &candidate.session.handshake.forwarded,
            names,
            (!candidate.rule.asks_backend()).then_some(verified),
        );
        Some(told)
    }
}

impl Candidate<'_> {
    fn data(&self, mut auth: Arg, headers: Option<Map<String, Value>>) -> Data<'_> {
        // Where Switchboard looks at tokens, one is not passed on, whatever it was worth.
        if let (false, Arg::Object(fields)) = (self.rule.asks_backend(), &mut auth) {
            fields.retain(|(name, _)| name != "token");
        }
        let (identity, handshake) = (self.identity.as_ref(), &self.session.handshake);
        let by_token = identity.is_some_and(|identity| identity.digest.is_some());
        Data {
            namespace: self.rule.path(),
            user_id: identity.map(|identity| &identity.user_id),
            username: identity.and_then(|identity| identity.username.as_deref()),
            role: identity.and_then(|identity| identity.roles.first().map(String::as_str)),
            claims: by_token.then(|| self.credentials.claims()).flatten(),
            device_id: self.device_id,
            remote_addr: handshake.remote_addr.to_string(),
            user_agent: handshake.user_agent.as_deref(),
            auth: auth.to_json(),
            headers,
        }
    }
}

/// Reads an answer. `decides`: it has to say who the client is.
fn read(body: &[u8], decides: bool) -> Result<Decided, String> {
    let Object(mut said): Object<Said> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let texts = [&said.message, &said.username, &said.role];
    if texts
        .into_iter()
        .flatten()
        .any(|text| text.len() > MAX_TEXT_BYTES)
    {
        return Err(format!(
            "message, username, role: at most {MAX_TEXT_BYTES} bytes"
        ));
    }
    if !said.allow {
        return Ok(Decided::Out(
            said.message
                .filter(|message| !message.is_empty())
                .map_or_else(|| REFUSED.into(), Arc::from),
        ));
    }
    if said
        .meta
        .as_ref()
        .is_some_and(|meta| meta.to_string().len() > MAX_META_BYTES)
    {
        return Err(format!("meta: at most {MAX_META_BYTES} bytes of JSON"));
    }
    if said
        .rooms
        .as_ref()
        .is_some_and(|rooms| rooms.len() > MAX_ROOMS)
    {
        return Err(format!("rooms: at most {MAX_ROOMS}"));
    }
    let user_id = match said.user_id.take() {
        _ if !decides => None,
        Some(GivenUser(id)) => Some(requests::user_id(id).map_err(|invalid| invalid.detail)?),
        None => return Err("userId: missing, and the namespace has auth = \"backend\"".to_owned()),
    };
    Ok(Decided::In(Box::new(said), user_id))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(body: Value, decides: bool) -> Result<Decided, String> {
        read(body.to_string().as_bytes(), decides)
    }

    #[test]
    fn a_backend_that_decides_says_who_it_is() {
        let user = |body| match read_json(body, true) {
            Ok(Decided::In(_, user)) => user.unwrap().to_string(),
            _ => panic!("refused"),
        };
        assert_eq!(user(json!({"allow": true, "userId": "42"})), "42");
        assert_eq!(user(json!({"allow": true, "userId": 42, "more": 1})), "42");
        for nobody in [
            json!({"allow": true}),
            json!({"allow": true, "userId": ".."}),
        ] {
            assert!(read_json(nobody, true).is_err());
        }
        // Where credentials count, they say who it is.
        let other = read_json(json!({"allow": true, "userId": "43"}), false);
        assert!(matches!(other, Ok(Decided::In(_, None))));
    }

    #[test]
    fn a_refusal_has_a_message() {
        let message = |body| match read_json(body, true) {
            Ok(Decided::Out(message)) => message.to_string(),
            _ => panic!("let in"),
        };
        assert_eq!(
            message(json!({"allow": false, "message": "Not today"})),
            "Not today"
        );
        assert_eq!(message(json!({"allow": false})), REFUSED);
        assert_eq!(message(json!({"allow": false, "message": ""})), REFUSED);
    }

    #[test]
    fn what_is_no_answer_lets_nobody_in() {
        assert!(read(b"", false).is_err());
        for wrong in [
            json!({}),
            json!([true]),
            json!({"allow": "true"}),
            json!({"allow": true, "expiresAt": "tomorrow"}),
            json!({"allow": true, "rooms": "lobby"}),
            json!({"allow": true, "rooms": vec!["r"; MAX_ROOMS + 1]}),
            json!({"allow": true, "meta": "x".repeat(MAX_META_BYTES)}),
            json!({"allow": true, "role": "x".repeat(MAX_TEXT_BYTES + 1)}),
        ] {
            assert!(read_json(wrong.clone(), false).is_err(), "{wrong}");
        }
    }
}
