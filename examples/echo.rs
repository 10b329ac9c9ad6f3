//! The server that the official Socket.IO protocol suite runs against: it lets everybody into `/` and `/custom`,
//! tells each what its handshake's `auth` was, and sends back what it gets.
//!
//! ```sh
//! cargo run --example echo                                  # on 127.0.0.1:3000
//! SWITCHBOARD_LISTEN=127.0.0.1:4000 cargo run --example echo
//! ```

use std::time::Duration;

use switchboard::{
    Arg, Builder, ClientEvent, Decision, Newcomer,
    config::{AuthRule, Environment, Namespace, Sources},
};

/// What the suite expects of the server that they test.
const PING_INTERVAL: Duration = Duration::from_millis(300);
const PING_TIMEOUT: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let environment = Environment::of_process();
    let mut config = Sources {
        environment,
        ..Sources::default()
    }
    .load()?;
    config.namespaces = ["/", "/custom"]
        .map(|path| Namespace::new(path, AuthRule::None, &[]))
        .into();
    config.ping.interval = PING_INTERVAL;
    config.ping.timeout = PING_TIMEOUT;
    config.limits.handshake_timeout = CONNECT_TIMEOUT;
    config.drain.window = Duration::ZERO;

    let app = Builder::new(config)
        .without_ready()
        .on_connect("/", greet)
        .on_connect("/custom", greet)
        .on_event("/", "message", send_back)
        .on_event("/", "message-with-ack", answer)
        .bind()
        .await?;
    println!("listening on http://{}", app.addr()?);
    let interrupted = async {
        tokio::signal::ctrl_c().await.ok();
    };
    app.run(interrupted, std::future::pending()).await;
    Ok(())
}

async fn greet(newcomer: Newcomer) -> anyhow::Result<Decision> {
    Ok(Decision::greet("auth", vec![newcomer.auth]))
}

async fn send_back(event: ClientEvent) -> anyhow::Result<Vec<Arg>> {
    event.emit("message-back", &event.args)?;
    Ok(Vec::new())
}

async fn answer(event: ClientEvent) -> anyhow::Result<Vec<Arg>> {
    Ok(event.args)
}
