//! The commands that end by themselves: everything but `serve`.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::CommandFactory;
use clap_complete::Shell;
use reqwest::Url;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Cli, TokenArgs};
use crate::{
    auth::{Authenticator, Identity, token},
    config::{self, Config, ConfigError, Effective, Sources},
};

/// How long `healthcheck` waits for the whole answer.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// `token`: prints a JWT and nothing else.
///
/// # Errors
///
/// A bad configuration, or one without a secret to sign with.
pub fn mint(sources: &Sources, args: TokenArgs) -> anyhow::Result<ExitCode> {
    let jwt = sources.load()?.auth.jwt;
    if jwt.secret.is_none() {
        return Err(ConfigError::at(
            "auth.jwt.secret",
            "not set, there is nothing to sign with: set SWITCHBOARD_JWT_SECRET",
        )
        .into());
    }
    let minted = token::mint(
        &jwt,
        &token::NewToken {
            user: args.user.into(),
            roles: args.roles,
            username: args.username,
            ttl: args.ttl,
            session: None,
            issued_at: None,
            extra: args.claims,
        },
    )?;
    print(minted.token.expose_secret())?;
    Ok(ExitCode::SUCCESS)
}

/// `check-token`: prints the identity that a token stands for as JSON; exit code 1 and the reason when it is refused.
///
/// # Errors
///
/// A bad configuration, or one without a key to verify with.
pub async fn check_token(sources: &Sources, token: String) -> anyhow::Result<ExitCode> {
    let config = sources.load()?;
    if !config.auth.jwt.has_keys() {
        return Err(ConfigError::at(
            "auth.jwt.secret",
            "not set, there is nothing to verify with: set SWITCHBOARD_JWT_SECRET",
        )
        .into());
    }
    let token = if token == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        text
    } else {
        token
    };
    let authenticator = Authenticator::new(&config.auth, &config.namespaces)?;
    match authenticator.explain(token.trim()).await {
        Ok(identity) => {
            print(&serde_json::to_string_pretty(&identity_json(&identity))?)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => bail!("refused: {refusal}"),
    }
}

fn identity_json(identity: &Identity) -> serde_json::Value {
    json!({
        "userId": identity.user_id,
        "username": identity.username,
        "email": identity.email,
        "roles": identity.roles,
        "expiresAt": identity.expires_at,
        "issuedAt": identity.issued_at,
        "tokenId": identity.token_id,
    })
}

/// `check-config`: prints `ok`; exit code 1 and each key that is wrong otherwise. What would keep `serve` from starting with
/// this configuration is wrong, key files that hold no keys among it.
///
/// # Errors
///
/// When standard output can't be written to.
pub fn check_config(sources: &Sources) -> anyhow::Result<ExitCode> {
    let checked = sources
        .load()
        .and_then(Effective::of)
        .map_err(anyhow::Error::from)
        .and_then(|effective| {
            Authenticator::new(&effective.config.auth, &effective.config.namespaces)
                .context("auth.jwt")?;
            Ok(effective)
        });
    match checked {
        Ok(effective) => {
            for warning in effective.warnings {
                eprintln!("warning: {warning}");
            }
            print(match effective.development {
                Some(_) => "ok (development mode: no signing secret and no API key is set)",
                None => "ok",
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// `print-config`: prints the effective configuration.
///
/// # Errors
///
/// A bad configuration.
pub fn print_config(sources: &Sources) -> anyhow::Result<ExitCode> {
    print(sources.load()?.to_toml()?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// `config-doc`: prints every key as Markdown, whatever is configured.
///
/// # Errors
///
/// When standard output can't be written to.
pub fn config_doc() -> anyhow::Result<ExitCode> {
    print(config::document().trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// `completions`: prints the script that completes this command line in `shell`, whatever is configured.
///
/// # Errors
///
/// When standard output can't be written to.
pub fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "switchboard", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// `healthcheck`: asks the node at `url`, or the one that is configured, whether it is ready. Goes through no proxy and
/// follows no redirect, since the answer of another server says nothing.
///
/// # Errors
///
/// A URL that is none, a bad configuration, no answer in 3 s, or one other than 2xx: with what the node says is wrong.
pub async fn healthcheck(sources: &Sources, url: Option<String>) -> anyhow::Result<ExitCode> {
    let url = match url {
        Some(text) => {
            let mut url = Url::parse(&text).with_context(|| format!("{text:?} is no URL"))?;
            if matches!(url.path(), "" | "/") {
                url.set_path("/readyz");
            }
            url
        }
        None => own_url(&sources.load()?)?,
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(HEALTHCHECK_TIMEOUT)
        .build()?;
    let response = client.get(url.clone()).send().await?;
    let status = response.status();
    if !status.is_success() {
        let body = response.text().await.unwrap_or_default();
        let reason: String = body.trim().chars().take(500).collect();
        bail!("not ready: {url} answers {status} {reason}");
    }
    print("ready")?;
    Ok(ExitCode::SUCCESS)
}

/// Where a node on this host with this configuration answers.
fn own_url(config: &Config) -> anyhow::Result<Url> {
    let address = config.internal_listen.unwrap_or(config.listen);
    if address.port() == 0 {
        bail!("the configured port is 0, any free one: say the node's URL");
    }
    Ok(Url::parse(&format!(
        "http://{}/readyz",
        reachable(address)
    ))?)
}

/// An address that a node bound to `address` can be reached at from its own host.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A line on standard output. Unlike `println!`, no panic when the reader is gone.
pub(super) fn print(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn url_for(listen: &str, internal: Option<&str>) -> anyhow::Result<String> {
        own_url(&Config {
            listen: listen.parse().unwrap(),
            internal_listen: internal.map(|address| address.parse().unwrap()),
            ..Config::default()
        })
        .map(String::from)
    }

    #[test]
    fn the_node_is_asked_where_it_answers() {
        let cases = [
            ("0.0.0.0:3000", None, "http://127.0.0.1:3000/readyz"),
            ("[::]:3000", None, "http://[::1]:3000/readyz"),
            ("10.1.2.3:80", None, "http://10.1.2.3/readyz"),
            (
                "0.0.0.0:3000",
                Some("127.0.0.1:3001"),
                "http://127.0.0.1:3001/readyz",
            ),
        ];
        for (listen, internal, url) in cases {
            assert_eq!(url_for(listen, internal).unwrap(), url);
        }
        assert!(url_for("127.0.0.1:0", None).is_err());
    }
}
