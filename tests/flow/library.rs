//! An application's handlers, in a node of its own process.

use std::sync::Arc;

use serde_json::{Value, json};
use switchboard::{
    Arg, Builder, Config, Decision, Departed, EmitError, ending::Ending, gateway::Gateway,
};
use tokio::sync::{Notify, mpsc};

use super::*;

/// The next packet that is no heartbeat.
async fn next(socket: &mut Socket) -> String {
    loop {
        let text = packet(socket).await;
        if text != "2" {
            return text;
        }
        socket.send(Message::text("3")).await.unwrap();
    }
}

async fn send(socket: &mut Socket, text: impl Into<String>) {
    socket.send(Message::text(text.into())).await.unwrap();
}

fn no_answer() -> anyhow::Result<Vec<Arg>> {
    Ok(Vec::new())
}

#[tokio::test]
async fn arguments_and_answers_are_as_many_as_were_sent_and_binary_is_binary() {
    let node = Node::with(Config::default(), |builder| {
        builder
            .on_event("/", "answer", |event| async move { Ok(event.args) })
            .on_event("/", "send-back", |event| async move {
                assert!(!event.wants_ack);
                assert_eq!(event.emit("connect", &[]), Err(EmitError::Reserved));
                event.emit("back", &event.args)?;
                no_answer()
            })
    })
    .await;
    let mut client = node.connect("ada").await;
    for arguments in [
        json!([]),
        json!([1, "2", {"b": null, "a": {"3": [true]}}]),
        json!([[]]),
    ] {
        let text = arguments.to_string();
        let rest = text.trim_start_matches('[');
        let comma = if rest == "]" { "" } else { "," };
        let brackets = &text[1..];
        send(&mut client, format!("425[\"answer\"{comma}{brackets}")).await;
        assert_eq!(next(&mut client).await, format!("435{text}"));
        send(&mut client, format!("42[\"send-back\"{comma}{brackets}")).await;
        let expected = format!("42[\"back\"{comma}{brackets}");
        assert_eq!(next(&mut client).await, expected);
    }

    let arguments = r#"{"x":{"_placeholder":true,"num":0}},"y",{"_placeholder":true,"num":1}"#;
    for (said, heard) in [
        (r#"452-7["answer","#, "462-7["),
        (r#"452-["send-back","#, r#"452-["back","#),
    ] {
        send(&mut client, format!("{said}{arguments}]")).await;
        for bytes in [&b"\x00first"[..], b"second\xff"] {
            client.send(Message::binary(bytes)).await.unwrap();
        }
        assert_eq!(next(&mut client).await, format!("{heard}{arguments}]"));
        for bytes in [&b"\x00first"[..], b"second\xff"] {
            let message = timeout(PATIENCE, client.next()).await.expect("in time");
            assert_eq!(message.unwrap().unwrap(), Message::binary(bytes));
        }
    }
}

#[tokio::test]
async fn handlers_of_a_connection_run_in_order_and_hold_up_no_verb_and_nobody_else() {
    let release = Arc::new(Notify::new());
    let gate = release.clone();
    let node = Node::with(Config::default(), |builder| {
        builder
            .on_event("/", "slow", move |_| {
                let gate = gate.clone();
                async move {
                    gate.notified().await;
                    no_answer()
                }
            })
            .on_event("/", "fast", |_| async { no_answer() })
    })
    .await;
    let mut client = node.connect("ada").await;
    let mut other = node.connect("bob").await;
    send(&mut client, r#"421["slow"]"#).await;
    send(&mut client, r#"422["fast"]"#).await;
    let token = json!(["refreshToken", node.token("ada")]);
    send(&mut client, format!("423{token}")).await;
    let refreshed = next(&mut client).await;
    assert!(refreshed.starts_with("433["), "{refreshed}");
    assert!(refreshed.contains(r#""ok":true"#), "{refreshed}");
    send(&mut other, r#"421["fast"]"#).await;
    assert_eq!(next(&mut other).await, "431[]");
    release.notify_one();
    assert_eq!(next(&mut client).await, "431[]");
    assert_eq!(next(&mut client).await, "432[]");
}

#[tokio::test]
async fn a_handler_that_fails_takes_one_answer() {
    let node = Node::with(Config::default(), |builder| {
        builder
            .on_event("/", "panic", |event| async move {
                assert!(event.args.is_empty(), "injected: a handler panics");
                no_answer()
            })
            .on_event("/", "fail", |event| async move {
                let (_, _): (String, u8) = event.read()?;
                no_answer()
            })
    })
    .await;
    let mut client = node.connect("ada").await;
    send(&mut client, r#"421["panic",1]"#).await;
    send(&mut client, r#"422["fail","x"]"#).await;
    send(&mut client, r#"423["fail",1e999]"#).await;
    send(&mut client, r#"424["panic"]"#).await;
    send(&mut client, r#"425["fail","x",5]"#).await;
    let refused = |error: &str| json!([{ "ok": false, "error": error }]);
    for (id, expected) in [
        (1, refused("Unavailable")),
        (2, refused("Unavailable")),
        (3, refused("Invalid arguments")),
        (4, json!([])),
        (5, json!([])),
    ] {
        let said = next(&mut client).await;
        let ack = said.strip_prefix(&format!("43{id}")).unwrap();
        let ack: Value = serde_json::from_str(ack).unwrap();
        assert_eq!(ack, expected, "{id}");
    }
}

#[tokio::test]
async fn no_more_events_wait_for_a_handler_than_may() {
    let release = Arc::new(Notify::new());
    let gate = release.clone();
    let (begun, mut at_work) = mpsc::unbounded_channel();
    let mut config = Config::default();
    config.limits.events_burst = 3;
    config.limits.events_per_second = 1_000_000;
    let node = Node::with(config, |builder| {
        builder.on_event("/", "slow", move |_| {
            let (gate, begun) = (gate.clone(), begun.clone());
            async move {
                begun.send(())?;
                gate.notified().await;
                no_answer()
            }
        })
    })
    .await;
    let mut client = node.connect("ada").await;
    send(&mut client, r#"420["slow"]"#).await;
    at_work.recv().await.unwrap();
    for id in 1..5 {
        send(&mut client, format!("42{id}[\"slow\"]")).await;
    }
    let refused = next(&mut client).await;
    assert_eq!(refused, r#"42["error",{"message":"Too many events"}]"#);
    let ack = next(&mut client).await;
    assert_eq!(ack, r#"434[{"error":"Too many events","ok":false}]"#);
    for id in 0..4 {
        release.notify_one();
        assert_eq!(next(&mut client).await, format!("43{id}[]"));
    }
}

#[tokio::test]
async fn an_application_decides_on_newcomers() {
    let node = Node::with(Config::default(), |builder| {
        builder
            .on_connect("/public", |newcomer| async move {
                let Some(name) = newcomer.auth.get("name") else {
                    anyhow::bail!("injected: no name");
                };
                assert_eq!(newcomer.connection.namespace, "/public");
                Ok(match name.as_str() {
                    Some("mallory") => Decision::refuse("Not you"),
                    _ => Decision::greet("auth", vec![newcomer.auth]),
                })
            })
            .on_event("/public", "early", |event| async move { Ok(event.args) })
    })
    .await;

    let mut refused = node.say(r#"40/public,{"name":"mallory"}"#).await;
    let error = next(&mut refused).await;
    let error: Value = serde_json::from_str(error.strip_prefix("44/public,").unwrap()).unwrap();
    assert_eq!(error["message"], "Not you");

    // The greeting is the first event behind `ready`.
    let mut guest = node.say(r#"40/public,{"name":"bob","token":"t"}"#).await;
    assert!(next(&mut guest).await.starts_with("40/public,"));
    send(&mut guest, r#"42/public,1["early",1]"#).await;
    assert!(next(&mut guest).await.starts_with(r#"42/public,["ready""#));
    let greeting = r#"42/public,["auth",{"name":"bob","token":"t"}]"#;
    assert_eq!(next(&mut guest).await, greeting);
    assert_eq!(next(&mut guest).await, "43/public,1[1]");

    // A token that has been verified is not the application's.
    let auth = json!({"name": "bob", "token": node.token("bob")});
    let mut user = node.say(&format!("40/public,{auth}")).await;
    while next(&mut user).await != r#"42/public,["auth",{"name":"bob"}]"# {}

    // No decision: the transport is closed, so that the client comes again.
    let mut undecided = node.say("40/public,{}").await;
    while let Some(Ok(message)) = timeout(PATIENCE, undecided.next()).await.expect("in time") {
        let text = message.into_text().unwrap_or_default();
        assert!(!text.starts_with("44"), "{text}");
    }
}

/// A node that says who has gone.
async fn obituaries(
    handlers: impl FnOnce(Builder) -> Builder,
) -> (Node, mpsc::UnboundedReceiver<Departed>) {
    let (said, heard) = mpsc::unbounded_channel();
    let node = Node::with(Config::default(), |builder| {
        handlers(builder).on_disconnect(move |departed| {
            let said = said.clone();
            async move {
                said.send(departed)?;
                Ok(())
            }
        })
    })
    .await;
    (node, heard)
}

async fn departed(heard: &mut mpsc::UnboundedReceiver<Departed>) -> Departed {
    timeout(PATIENCE, heard.recv())
        .await
        .expect("in time")
        .unwrap()
}

#[tokio::test]
async fn an_application_is_told_of_each_end_once_and_why() {
    let (node, mut heard) = obituaries(|builder| {
        builder.on_connect("/public", |newcomer| async move {
            Ok(match newcomer.auth.get("refused") {
                Some(_) => Decision::refuse("No"),
                None => Decision::admit(),
            })
        })
    })
    .await;

    let mut client = node.connect("ada").await;
    send(&mut client, "41").await;
    let first = departed(&mut heard).await;
    assert_eq!(first.reason, "client_disconnect");
    assert_eq!(first.connection.user_id, Some("ada".into()));
    assert_eq!(first.ending, None);

    let client = node.connect("bob").await;
    let gateway: Gateway = first.gateway;
    let ending = Ending::of(Ending::DISCONNECTED);
    let bob = "bob".into();
    let ended = gateway.disconnect_user(&bob, Vec::new(), &ending, false);
    assert_eq!(ended.await.unwrap().disconnected, 1);
    let kicked = departed(&mut heard).await;
    assert_eq!(
        (kicked.reason, kicked.ending),
        ("disconnected", Some(ending))
    );
    drop(client);

    // Nothing is told of one that was refused; a guest that becomes somebody is one connection.
    let mut refused = node.say(r#"40/public,{"refused":1}"#).await;
    assert!(next(&mut refused).await.starts_with("44"));
    drop(refused);
    let mut guest = node.say("40/public,{}").await;
    while !next(&mut guest).await.contains(r#"["ready""#) {}
    let token = json!(["authenticate", node.token("eve")]);
    send(&mut guest, format!("42/public,1{token}")).await;
    let known = next(&mut guest).await;
    let known: Value = serde_json::from_str(known.strip_prefix("43/public,1").unwrap()).unwrap();
    guest.close(None).await.unwrap();
    let gone = departed(&mut heard).await;
    assert_eq!(gone.connection.id.as_str(), known[0]["connectionId"]);
    assert_eq!(gone.reason, "transport_close");

    let mut last = node.connect("zoe").await;
    send(&mut last, "41").await;
    let last = departed(&mut heard).await;
    assert_eq!(last.connection.user_id, Some("zoe".into()));
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn an_end_is_told_behind_the_events_and_before_the_node_ends() {
    let release = Arc::new(Notify::new());
    let gate = release.clone();
    let (begun, mut at_work) = mpsc::unbounded_channel();
    let (done, mut events) = mpsc::unbounded_channel();
    let (node, mut heard) = obituaries(|builder| {
        builder.on_event("/", "save", move |event| {
            let (gate, begun, done) = (gate.clone(), begun.clone(), done.clone());
            async move {
                begun.send((event.gateway.clone(), event.connection.id.clone()))?;
                gate.notified().await;
                done.send(event.read::<(u8,)>()?)?;
                no_answer()
            }
        })
    })
    .await;
    let mut client = node.connect("ada").await;
    let other = node.connect("bob").await;
    send(&mut client, r#"42["save",1]"#).await;
    send(&mut client, r#"42["save",2]"#).await;
    client.close(None).await.unwrap();
    let (gateway, id) = at_work.recv().await.unwrap();
    until("it is gone", async || {
        gateway.connection(&id).await.unwrap().is_none()
    })
    .await;
    assert!(heard.try_recv().is_err(), "its events are not handled yet");
    release.notify_one();
    assert_eq!(events.recv().await, Some((1,)));
    release.notify_one();
    assert_eq!(events.recv().await, Some((2,)));
    assert_eq!(departed(&mut heard).await.reason, "transport_close");

    drop(node);
    assert_eq!(departed(&mut heard).await.reason, "shutting_down");
    drop(other);
}

#[tokio::test]
async fn a_node_without_ready_says_nothing_by_itself() {
    let node = Node::with(Config::default(), |builder| {
        builder
            .without_ready()
            .on_event("/public", "answer", |event| async move { Ok(event.args) })
    })
    .await;
    let mut guest = node.say("40/public,{}").await;
    assert!(next(&mut guest).await.starts_with("40/public,"));
    send(&mut guest, r#"42/public,1["answer","x"]"#).await;
    assert_eq!(next(&mut guest).await, r#"43/public,1["x"]"#);
}
