//! A chat: everybody says a name when connecting, talks to all, and whispers to one.
//!
//! ```sh
//! cargo run --example chat
//! SWITCHBOARD_REDIS_URL=redis://127.0.0.1:6379 SWITCHBOARD_JWT_SECRET=… cargo run --example chat   # one node of several
//! ```
//!
//! ```js
//! const socket = io("http://127.0.0.1:3000", { auth: { name: "ada" } });
//! socket.on("said", ({ from, text }) => console.log(`${from}: ${text}`));
//! socket.on("whispered", ({ from, text }) => console.log(`${from} (to you): ${text}`));
//! socket.on("left", ({ name }) => console.log(`${name} has left`));
//! await socket.emitWithAck("say", "hello");              // { ok: true, heard: 3 }
//! await socket.emitWithAck("whisper", "bob", "psst");    // { ok: false, error: "Nobody of that name" }
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use switchboard::{
    Arg, Builder, ClientEvent, Decision, Departed, Gateway, Message, Newcomer, Target,
    config::{AuthRule, Environment, Namespace, Sources},
    connection::ConnectionId,
};

/// Who is in the chat, of this node's: what several nodes are to share belongs into a database.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<HashMap<ConnectionId, String>>>);

impl Names {
    fn all(&self) -> MutexGuard<'_, HashMap<ConnectionId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, id: &ConnectionId) -> String {
        self.all().get(id).cloned().unwrap_or_default()
    }

    /// Gives a name to a connection. Returns false if it is taken.
    fn take(&self, name: &str, id: ConnectionId) -> bool {
        let mut all = self.all();
        let free = all.values().all(|taken| taken != name);
        if free {
            all.insert(id, name.to_owned());
        }
        free
    }

    fn find(&self, name: &str) -> Option<ConnectionId> {
        let all = self.all();
        let found = all.iter().find(|(_, one)| *one == name);
        found.map(|(id, _)| id.clone())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let environment = Environment::of_process();
    let mut config = Sources {
        environment,
        ..Sources::default()
    }
    .load()?;
    config.namespaces = vec![Namespace::new("/", AuthRule::None, &[])];

    let names = Names::default();
    let (arriving, saying, whispering, leaving) =
        (names.clone(), names.clone(), names.clone(), names);
    let app = Builder::new(config)
        .on_connect("/", move |newcomer| arrive(arriving.clone(), newcomer))
        .on_event("/", "say", move |event| say(saying.clone(), event))
        .on_event("/", "whisper", move |event| {
            whisper(whispering.clone(), event)
        })
        .on_disconnect(move |departed| leave(leaving.clone(), departed))
        .bind()
        .await?;
    println!("listening on http://{}", app.addr()?);
    let interrupted = async {
        tokio::signal::ctrl_c().await.ok();
    };
    app.run(interrupted, std::future::pending()).await;
    Ok(())
}

async fn arrive(names: Names, newcomer: Newcomer) -> anyhow::Result<Decision> {
    let Some(name) = newcomer.auth.get("name").and_then(Arg::as_str) else {
        return Ok(Decision::refuse("A name is required"));
    };
    let present: Value = names.all().values().map(String::as_str).collect();
    if !names.take(name, newcomer.connection.id) {
        return Ok(Decision::refuse("That name is taken"));
    }
    Ok(Decision::greet("present", vec![present.into()]))
}

async fn say(names: Names, event: ClientEvent) -> anyhow::Result<Vec<Arg>> {
    let (text,): (String,) = event.read()?;
    let from = names.of(&event.connection.id);
    let said = message("said", json!({ "from": from, "text": text }))?;
    let delivery = event.gateway.send(Target::All, said).await?;
    Ok(vec![
        json!({ "ok": true, "heard": delivery.connections }).into(),
    ])
}

async fn whisper(names: Names, event: ClientEvent) -> anyhow::Result<Vec<Arg>> {
    let (to, text): (String, String) = event.read()?;
    let Some(id) = names.find(&to) else {
        let refused = json!({ "ok": false, "error": "Nobody of that name" });
        return Ok(vec![refused.into()]);
    };
    let from = names.of(&event.connection.id);
    let whispered = message("whispered", json!({ "from": from, "text": text }))?;
    let target = Target::Connection(id);
    event.gateway.send(target, whispered).await?;
    Ok(vec![json!({ "ok": true }).into()])
}

async fn leave(names: Names, departed: Departed) -> anyhow::Result<()> {
    let name = names.all().remove(&departed.connection.id);
    tell_left(&departed.gateway, name).await
}

async fn tell_left(gateway: &Gateway, name: Option<String>) -> anyhow::Result<()> {
    if let Some(name) = name {
        let left = message("left", json!({ "name": name }))?;
        gateway.send(Target::All, left).await?;
    }
    Ok(())
}

fn message(event: &str, data: Value) -> anyhow::Result<Message> {
    Ok(Message::new("/", event).with(&data)?)
}
