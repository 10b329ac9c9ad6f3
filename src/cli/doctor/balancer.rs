//! What clients meet at a URL: polls that stay at one node, WebSockets, and idle connections that are left alone.

use std::time::Duration;

use http::{StatusCode, header};
use reqwest::{Method, RequestBuilder, Response, Url};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout, timeout_at};

use super::{WITHIN, report::Report};
use crate::{
    auth::token,
    cli::socket::{Endpoint, Open, Socket, SocketError},
    config::{AuthRule, Config},
};

/// How long an answer may take that nothing holds up.
const ANSWER: Duration = Duration::from_secs(10);

/// How many times a packet is posted and its answer polled: a balancer that deals requests out among two nodes at random
/// is taken for sticky once in 65,000 times.
const ROUNDS: usize = 8;

/// A namespace that no configuration has: a CONNECT to it is answered at once, with any credentials or none.
const NOWHERE: &str = "/switchboard-doctor";

/// How long after its time a ping may come.
const LATE: Duration = Duration::from_secs(2);

pub(super) async fn examine(config: &Config, url: &Url, patience: Duration, report: &mut Report) {
    let path = &config.transport.path;
    let endpoint = match Endpoint::new(url, path) {
        Ok(endpoint) => endpoint,
        Err(error) => return report.fail("balancer", error),
    };
    let until = Instant::now() + WITHIN;
    match timeout_at(until, polls(&endpoint)).await {
        Err(_) => report.late("balancer.polling", format!("long-polling at {path}/")),
        Ok(Ok(())) => report.ok("balancer.polling", format!("{} polls in a row found their node", 2 * ROUNDS)),
        Ok(Err(Polls::Refused(why))) => {
            let says = format!("long-polling at {path}/: {why}; pass that path on to the nodes");
            report.fail("balancer.polling", says);
        }
        Ok(Err(Polls::Astray(at))) => report.fail(
            "balancer.stickiness",
            format!("poll {at} of a session reached another node: keep a client on its node, by its address or a cookie (transport.cookie), or let clients use WebSockets alone"),
        ),
    }
    let opening = timeout(ANSWER, endpoint.open());
    match opening
        .await
        .unwrap_or(Err(SocketError::Unexpected("an answer")))
    {
        Ok((mut socket, open)) => {
            report.ok("balancer.websocket", "a WebSocket opens");
            idle(config, &mut socket, &open, patience, report).await;
        }
        Err(error) => report.fail(
            "balancer.websocket",
            format!("{error}; pass Upgrade and Connection on, and speak HTTP/1.1 to the nodes"),
        ),
    }
}

/// What became of polls.
enum Polls {
    /// There is no long-polling.
    Refused(String),
    /// The poll with this number reached a node that does not know its session.
    Astray(usize),
}

async fn polls(endpoint: &Endpoint) -> Result<(), Polls> {
    let refused = |error: SocketError| Polls::Refused(error.to_string());
    let answer = send(endpoint.http.get(endpoint.at("polling", None)))
        .await
        .map_err(refused)?;
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(refused(SocketError::Status(status)));
    }
    // As a browser does: what keeps a client on its node may be a cookie.
    let cookies = answer.headers().get_all(header::SET_COOKIE).iter();
    let cookies = cookies.filter_map(|cookie| cookie.to_str().ok()?.split(';').next());
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    let body = answer.text().await.map_err(|error| refused(error.into()))?;
    let open = Open::read(&body).map_err(refused)?;

    let session = endpoint.at("polling", Some(&open.sid));
    for round in 0..ROUNDS {
        for (number, method) in [(2 * round + 1, Method::POST), (2 * round + 2, Method::GET)] {
            let mut request = endpoint.http.request(method.clone(), session.clone());
            if !cookies.is_empty() {
                request = request.header(header::COOKIE, &cookies);
            }
            if method == Method::POST {
                request = request.body(format!("40{NOWHERE},"));
            }
            let answer = send(request).await.map_err(refused)?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::BAD_REQUEST => return Err(Polls::Astray(number)),
                other => return Err(refused(SocketError::Status(other))),
            }
        }
    }
    Ok(())
}

async fn send(request: RequestBuilder) -> Result<Response, SocketError> {
    Ok(request.timeout(ANSWER).send().await?)
}

/// Connects and says nothing until the server pings: what closes idle connections before is too impatient.
async fn idle(
    config: &Config,
    socket: &mut Socket,
    open: &Open,
    patience: Duration,
    report: &mut Report,
) {
    const CHECK: &str = "balancer.timeout";
    let interval = open.ping_interval();
    if interval + LATE > patience {
        let says = format!(
            "not looked at: the server pings every {interval:?}, and --patience is {patience:?}"
        );
        return report.warn(CHECK, says);
    }
    let Some((namespace, token)) = way_in(config) else {
        let says = "not looked at: no namespace is open to guests, and there is no auth.jwt.secret to sign a token with";
        return report.warn(CHECK, says);
    };
    let start = Instant::now();
    let connecting = timeout(ANSWER, socket.connect(&namespace, token.as_deref()));
    let connected = connecting
        .await
        .unwrap_or(Err(SocketError::Unexpected("an answer")));
    if let Err(error) = connected {
        return report.fail(
            "balancer.websocket",
            format!("CONNECT to {namespace}: {error}"),
        );
    }
    let until = start + interval + LATE;
    loop {
        match timeout_at(until, socket.next()).await {
            Ok(Ok(packet)) if packet == "2" => {
                let says =
                    format!("an idle connection stands for the {interval:?} between two pings");
                return report.ok(CHECK, says);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let after = start.elapsed();
                let says = format!(
                    "an idle connection ended after {after:.1?}, before the ping that comes every {interval:?}: {error}; raise the idle timeout of what is between, well above that"
                );
                return report.fail(CHECK, says);
            }
            Err(_) => {
                let says = format!(
                    "no ping came within {:?}: what is between holds back what the server sends; switch its buffering off",
                    interval + LATE
                );
                return report.fail(CHECK, says);
            }
        }
    }
}

/// A namespace that lets the doctor in, and the token for it if it takes one.
fn way_in(config: &Config) -> Option<(String, Option<String>)> {
    let open = config
        .namespaces
        .iter()
        .filter(|namespace| namespace.roles.is_empty());
    let guests = open
        .clone()
        .find(|namespace| namespace.auth == AuthRule::None);
    if let Some(namespace) = guests {
        return Some((namespace.path.clone(), None));
    }
    let new = token::NewToken::new("switchboard-doctor", Duration::from_secs(60));
    let minted = token::mint(&config.auth.jwt, &new).ok()?;
    let namespace = open.clone().next()?;
    Some((
        namespace.path.clone(),
        Some(minted.token.expose_secret().to_owned()),
    ))
}
